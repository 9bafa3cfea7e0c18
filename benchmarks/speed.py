"""How close `fit` comes to the bare training step: `make bench`.

For each network, in one process and taking turns, `fit` on images in memory and the bare step (forward,
backward, update on one fixed batch: no data, no record, no shuffling) are timed several times. The medians,
the spread and a description of the machine go to a JSON file; a table is printed.

    python benchmarks/speed.py [NETWORK ...] [--steps 200] [--repeats 5] [--out _build/bench/speed.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import data, runtime, training
from helpers.notebooks import load, table

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: load("00_pytorch_basics").MLP(),
    "LeNet-5 (article)": lambda: load("01_lenet5").ArticleLeNet5(),
    "LeNet-5 (paper)": lambda: _padded(load("01_lenet5").PaperLeNet5()),
}
BATCH = 100


def _padded(network: nn.Module) -> nn.Module:
    """The paper's network with its border added inside, so that all networks take 28×28 images."""
    return nn.Sequential(nn.ZeroPad2d(2), network)


def random_digits(count: int = 10_000) -> data.ImageSet:
    """Random pixels in MNIST's form: for speed their content is all the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return data.ImageSet(images, labels, tuple("0123456789"), "random pixels").to(runtime.device())


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.001)


def time_fit(model: nn.Module, images: data.ImageSet, steps: int) -> float:
    """Images a second with `fit`."""
    history = training.fit(
        model,
        images,
        optimizer=_optimizer(model),
        batch_size=BATCH,
        steps=steps,
        transform=data.scale(),
        progress=False,
    )
    return history.images_per_second


def time_bare_step(model: nn.Module, images: data.ImageSet, steps: int) -> float:
    """Images a second of the step alone, on one fixed batch."""
    model.train().to(memory_format=torch.channels_last)
    batch = data.scale()(images.images[:BATCH]).contiguous(memory_format=torch.channels_last)
    labels, optimizer = images.labels[:BATCH], _optimizer(model)
    _wait()
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    _wait()
    return steps * BATCH / (time.perf_counter() - start)


def _wait() -> None:
    if runtime.device().type != "cpu":
        torch.accelerator.synchronize()


def measure(name: str, steps: int, repeats: int) -> dict[str, object]:
    """Both speeds of one network, taking turns; the first round warms up and is not counted."""
    runtime.seed_everything(0)
    model, images = NETWORKS[name]().to(runtime.device()), random_digits()
    rounds = [
        (time_fit(model, images, steps), time_bare_step(model, images, steps)) for _ in range(repeats + 1)
    ][1:]
    fit, bare = ([round(pair[i]) for pair in rounds] for i in range(2))
    return {
        "network": name,
        "fit": {"median": statistics.median(fit), "runs": fit},
        "bare_step": {"median": statistics.median(bare), "runs": bare},
        "share": statistics.median(f / b for f, b in rounds),
    }


def main() -> int:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description="fit against the bare training step, images a second")
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all by default"
    )
    parser.add_argument("--steps", type=int, default=200, help="training steps a run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--out", type=Path, default=runtime.PROJECT_ROOT / "_build" / "bench" / "speed.json")
    options = parser.parse_args()
    unknown = set(options.networks) - NETWORKS.keys()
    if unknown or options.steps < 1 or options.repeats < 1:
        parser.error(f"choose from {', '.join(NETWORKS)}; at least 1 step and 1 repeat")
    results = [measure(name, options.steps, options.repeats) for name in options.networks or NETWORKS]
    machine = {
        "device": runtime.hardware(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        "batch": BATCH,
        "steps": options.steps,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    rows = [("network", "fit, images/s", "bare step, images/s", "share")]
    for r in results:
        rows.append(
            (
                r["network"],
                f"{r['fit']['median']:,.0f}",
                f"{r['bare_step']['median']:,.0f}",
                f"{r['share']:.2f}",
            )
        )
    print(table(rows))
    print(f"\nwritten to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
