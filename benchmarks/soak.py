"""Training runs killed at random moments and taken up again: `make soak`.

Every network of the MNIST notebooks is trained for a few steps with checkpoints, in a process that is killed
(SIGKILL) again and again: at a random moment, or just when a checkpoint is being written. A new process
takes the run up from the file. What the finished run leaves (weights, optimizer, schedule, random state,
history) is compared bit by bit with an uninterrupted run. A table is printed; the counts go to a JSON file.

    python benchmarks/soak.py [--kills 100] [--seed 0] [--out _build/soak/soak.json] [--store] [NETWORK ...]

With `--store` the counts go into book/reliability.json too, which the page on reliability shows.

The processes are forked, so that each starts at once; Windows has no fork.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import data, runtime, training
from helpers.notebooks import load, table

STEPS = 30
KILLS_A_RUN = 5  # then the run may end, and is compared


@dataclass(frozen=True)
class Recipe:
    """A network of a notebook with the way it is trained there, in small."""

    network: Callable[[], torch.nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer]
    batch_size: int
    transform: Callable[[torch.Tensor], torch.Tensor]
    loss_fn: Callable[..., torch.Tensor] = F.cross_entropy
    cycle: float | None = None  # highest rate of a one-cycle schedule


def recipes() -> dict[str, Recipe]:
    """The networks of notebooks 00 to 04."""
    lenet5, guide = load("01_lenet5"), load("03_tf_guide_cnn")
    sgd, adam = torch.optim.SGD, torch.optim.Adam
    unit = data.scale()
    return {
        "MLP": Recipe(
            load("00_pytorch_basics").MLP, lambda p: sgd(p, lr=0.01, momentum=0.9), 100, unit, F.nll_loss
        ),
        "LeNet-5 (article)": Recipe(lenet5.ArticleLeNet5, lambda p: sgd(p, lr=0.001), 50, unit),
        "LeNet-5 (paper)": Recipe(
            lenet5.PaperLeNet5,
            lambda p: adam(p, lr=0.01),
            50,
            data.compose(data.scale(-0.1, 1.175), data.pad(2, -0.1)),
            lenet5.map_loss,
            cycle=0.01,
        ),
        "LeNet-5 (Keras)": Recipe(
            load("02_lenet5_keras").KerasLeNet5, lambda p: adam(p, lr=0.001, eps=1e-7), 50, unit
        ),
        "TF guide's CNN": Recipe(
            lambda: guide.start_like_tf1(guide.GuideNet()), lambda p: sgd(p, lr=0.1), 10, unit
        ),
        "PyTorch CNN": Recipe(load("04_pytorch_cnn").ConvNet, lambda p: adam(p, lr=0.001), 10, unit),
    }


def train(
    recipe: Recipe, checkpoint: Path | None, every: int, start: int, begun: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """All that a run leaves behind.

    Args:
        recipe: what to train.
        checkpoint: file to continue from and to save to.
        every: steps between saves.
        start: number of the attempt; a resumed run must not depend on the weights that it started with.
        begun: called when all is ready, before the checkpoint is read.
    """
    runtime.seed_everything(start)
    model, splits = recipe.network(), data.digits()
    optimizer = recipe.optimizer(model.parameters())
    cycle = torch.optim.lr_scheduler.OneCycleLR
    scheduler = recipe.cycle and cycle(optimizer, recipe.cycle, total_steps=STEPS, cycle_momentum=False)
    begun()
    history = training.fit(
        model,
        splits.train.subset(range(recipe.batch_size * STEPS * 2 // 5)),  # two epochs and a half
        optimizer=optimizer,
        scheduler=scheduler,
        batch_size=recipe.batch_size,
        steps=STEPS,
        transform=recipe.transform,
        loss_fn=recipe.loss_fn,
        val=splits.val.subset(range(50)),
        checkpoint=checkpoint,
        checkpoint_every=every,
        progress=False,
    )
    return {
        "weights": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": scheduler and scheduler.state_dict(),
        "random state": torch.get_rng_state(),
        "history": [torch.tensor(history.loss), torch.tensor(history.accuracy), history.val, history.images],
    }


@dataclass(frozen=True)
class Child:
    """A process that trains; `signal` is the end of a pipe where it says when it begins."""

    number: int
    signal: int

    def begins(self) -> bool:
        """Wait until it begins; False if it ends before."""
        return os.read(self.signal, 1) == b"b"

    def ended(self) -> int:
        """Wait for its end; returns the status that the system gives."""
        os.close(self.signal)
        return os.waitpid(self.number, 0)[1]


def forked(recipe: Recipe, checkpoint: Path | None, every: int, start: int, result: Path) -> Child:
    """Start a process that trains and writes what is left behind to a file."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    number = os.fork()
    if number:
        os.close(writing)
        return Child(number, reading)
    code = 1
    try:
        torch.save(train(recipe, checkpoint, every, start, lambda: os.write(writing, b"b")), result)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def seconds_to_the_end(child: Child) -> float:
    """Wait for a process that should end by itself; returns the seconds since it began."""
    child.begins()
    begun = time.perf_counter()
    status = child.ended()
    if status:
        raise RuntimeError(f"a training process ended with status {status} by itself")
    return time.perf_counter() - begun


def kill_some_time(child: Child, folder: Path, moment: float, while_saving: bool) -> bool:
    """Kill a process so many seconds after it began, or then as soon as it writes a checkpoint.

    Returns:
        Whether it was killed; False if it had ended before.
    """
    child.begins()
    moment += time.perf_counter()
    while time.perf_counter() < moment or (while_saving and not _left_by(child, folder)):
        if os.waitid(os.P_PID, child.number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        time.sleep(0 if while_saving else 0.0002)
    with suppress(ProcessLookupError):
        os.kill(child.number, signal.SIGKILL)
    status = child.ended()
    if not os.WIFSIGNALED(status) and status:
        raise RuntimeError(f"a training process ended with status {status} by itself")
    return os.WIFSIGNALED(status)


def _left_by(child: Child, folder: Path) -> bool:
    """Whether a process has a checkpoint there that it has not finished."""
    return any(name.endswith(f".{child.number}.unfinished") for name in os.listdir(folder))


def steps_in(checkpoint: Path) -> int:
    """Steps that a checkpoint holds: 0 if there is none yet, −1 if it can't be read."""
    if not checkpoint.exists():
        return 0
    try:
        return torch.load(checkpoint, weights_only=True)["step"]
    except Exception:
        return -1


def bits_different(first: Any, second: Any) -> int:
    """Number of bits in which two nested results differ; any other difference counts as one."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return max(1, 8 * first.nbytes)
        one, other = (t.contiguous().flatten().view(torch.uint8) for t in (first, second))
        return sum(int(((one ^ other) >> bit & 1).sum()) for bit in range(8))
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return sum(bits_different(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        return sum(map(bits_different, first, second))
    return int(first != second)


@dataclass
class Count:
    """What happened to one network."""

    network: str
    kills: int = 0
    while_saving: int = 0  # kills that left an unfinished file
    before_first_save: int = 0
    runs: int = 0
    checkpoints_lost: int = 0
    unfinished_left: int = 0  # files, after the run had ended
    bits_compared: int = 0
    bits_different: int = 0
    bits_different_when_repeated: int = 0  # between two uninterrupted runs, each in a process of its own
    usual_seconds: float = 0.0  # of a run that nobody touches
    seconds: float = 0.0


def soak(name: str, recipe: Recipe, kills: int, folder: Path, chance: random.Random) -> Count:
    """Kill runs of one network so many times, and compare each run that ended."""
    count, started = Count(name), time.perf_counter()
    expected, again = folder / "expected.pt", folder / "again.pt"
    for result, checkpoint in ((expected, None), (again, folder / "again-run.pt")):
        count.usual_seconds = seconds_to_the_end(forked(recipe, checkpoint, 2, 0, result))
    whole, repeated = (torch.load(result, weights_only=True) for result in (expected, again))
    count.bits_different_when_repeated = bits_different(whole, repeated)
    while count.kills < kills:
        _one_run(recipe, kills, folder / f"run {count.runs}", whole, count, chance)
    count.seconds = round(time.perf_counter() - started, 1)
    count.usual_seconds = round(count.usual_seconds, 2)
    return count


def _one_run(
    recipe: Recipe, kills: int, folder: Path, whole: Any, count: Count, chance: random.Random
) -> None:
    """Kill one run a few times, let it end, and add to the count what that showed."""
    folder.mkdir()
    checkpoint, result, every = folder / "run.pt", folder / "result.pt", chance.randint(1, 3)
    done, ended = 0, False
    for attempt in range(min(KILLS_A_RUN, kills - count.kills)):
        # A run without any checkpoint must start as the uninterrupted one did; a resumed one need not.
        start = attempt if checkpoint.exists() else 0
        child = forked(recipe, checkpoint, every, start, result)
        while_saving = chance.random() < 0.5
        moment = chance.uniform(0, count.usual_seconds / (2 if while_saving else 1))
        started = time.perf_counter()
        ended = not kill_some_time(child, folder, moment, while_saving)
        if ended:
            if attempt == 0:  # where the machine has less to do than before, a run takes less time
                count.usual_seconds = min(count.usual_seconds, time.perf_counter() - started)
            break
        result.unlink(missing_ok=True)
        found = steps_in(checkpoint)
        count.kills += 1
        count.while_saving += _left_by(child, folder)
        count.before_first_save += found == 0
        count.checkpoints_lost += found < done
        done = max(found, done)
    if not ended:
        start = KILLS_A_RUN if checkpoint.exists() else 0
        seconds_to_the_end(forked(recipe, checkpoint, every, start, result))
    left = torch.load(result, weights_only=True)
    count.runs += 1
    count.unfinished_left += sum(file.suffix == ".unfinished" for file in folder.iterdir())
    count.bits_different += bits_different(left, whole)
    count.bits_compared += bits_in(left)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def bits_in(result: Any) -> int:
    """Number of bits of all tensors in a nested result."""
    if isinstance(result, torch.Tensor):
        return 8 * result.nbytes
    parts = result.values() if isinstance(result, dict) else result
    return sum(map(bits_in, parts)) if isinstance(result, dict | list | tuple) else 0


def main() -> int:
    """Kill, compare, print the table, write the JSON file; exit code 1 if anything was lost."""
    parser = argparse.ArgumentParser(description="kill training runs and compare what they end with")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="all by default")
    parser.add_argument("--kills", type=int, default=100, help="in all, shared among the networks")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=runtime.PROJECT_ROOT / "_build" / "soak" / "soak.json")
    parser.add_argument("--store", action="store_true", help="also into book/reliability.json")
    options = parser.parse_args()
    if not hasattr(os, "fork"):
        parser.error("this system cannot fork processes: use Linux, macOS or WSL")
    known = recipes()
    chosen = options.networks or list(known)
    if set(chosen) - known.keys() or options.kills < 1:
        parser.error(f"choose from {', '.join(known)}; at least 1 kill")
    torch.set_num_threads(1)  # a forked process can't use the threads of its parent
    data.digits()
    import_module("torch._dynamo")  # the first update does so, which would take most of a child's time

    chance, counts = random.Random(options.seed), []
    for place, name in enumerate(chosen):
        share = options.kills * (place + 1) // len(chosen) - options.kills * place // len(chosen)
        with tempfile.TemporaryDirectory() as folder:
            counts.append(soak(name, known[name], share, Path(folder), chance))
        print(f"{name}: {counts[-1].kills} kills, {counts[-1].seconds:.0f} s", flush=True)
        write(options.out, counts, options.seed)
    print_table(counts)
    print(f"\nwritten to {options.out}")
    if options.store:
        store(options.out, runtime.PROJECT_ROOT / "book" / "reliability.json")
    return int(any(c.bits_different or c.checkpoints_lost or c.bits_different_when_repeated for c in counts))


def write(path: Path, counts: list[Count], seed: int) -> None:
    """Everything that was counted, into the JSON file."""
    machine = {
        "processor": runtime.processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        "seed": seed,
        "steps": STEPS,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"machine": machine, "networks": [asdict(c) for c in counts]}, indent=1) + "\n"
    )


def print_table(counts: list[Count]) -> None:
    """One row a network, and their sum."""
    rows = [
        ("network", "kills", "while saving", "runs", "checkpoints lost", "bits compared", "bits different")
    ]
    for c in [*counts, total(counts)]:
        numbers = (c.kills, c.while_saving, c.runs, c.checkpoints_lost, c.bits_compared, c.bits_different)
        rows.append((c.network, *(f"{number:,}" for number in numbers)))
    print(f"\n{table(rows)}")


def store(result: Path, page: Path) -> None:
    """Put a soak's counts into the file behind the page on reliability, beside what else is in it."""
    kept = json.loads(page.read_text("utf-8")) if page.exists() else {}
    text = json.dumps(kept | json.loads(result.read_text("utf-8")), indent=1, ensure_ascii=False)
    page.write_text(text + "\n", "utf-8")


def total(counts: list[Count]) -> Count:
    """The sum over all networks."""
    summed = {key: sum(getattr(c, key) for c in counts) for key in asdict(counts[0]) if key != "network"}
    return Count("all", **summed)


if __name__ == "__main__":
    sys.exit(main())
