"""How fast the course trains, against what people would use instead and against the machine: `make bench`.

    python benchmarks/speed.py [--networks "MLP,AlexNet"] [--rivals keras,lightning,article]
        [--parts compare,growth,tricks,accuracy] [--device cpu] [--repeats 5] [--seconds 1]
        [--out FILE] [--resume] [--store]

compare    every network in every way, in turn: the article's way, Keras, Lightning, `fit`, the bare step
growth     speed by batch size, by number of images and where they lie, by the network's width
tricks     what each trick gives, one after another, for LeNet-5 and a small VGG16
accuracy   whether a trick changes what LeNet-5 learns: three seeds
time       (not by default) how long `fit` takes to the article's accuracy; needs MNIST

Each result is stored as soon as it is there; `--resume` goes on after the last one. `--store` puts them into
book/performance.json, which the page on speed shows. Keras and Lightning run in .venv-bench (`make bench`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import images
import parts
import recipes
from race import LOG, RIVALS, ratio

PARTS = ("compare", "growth", "tricks", "accuracy", "time")
PAGE = images.FOLDER.parent.parent / "book" / "performance.json"


class Results:
    """What was measured, as nested dictionaries, written to its file after each addition."""

    def __init__(self, path: Path, machine: dict[str, Any], resume: bool) -> None:
        self.path, self.values = path, {"machine": machine}
        if resume and path.exists():
            self.values = json.loads(path.read_text("utf-8"))
            if without_date(self.values["machine"]) != without_date(machine):
                raise ValueError(f"{path.name} holds other settings or another machine: leave out --resume")

    def get(self, place: Iterable[str]) -> Any:
        """What lies at a place, or None."""
        values: Any = self.values
        for key in place:
            values = values.get(key) if isinstance(values, dict) else None
        return values

    def add(self, place: tuple[str, ...], value: Any) -> None:
        """Put a value at a place and write the file."""
        values = self.values
        for key in place[:-1]:
            values = values.setdefault(key, {})
        values[place[-1]] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.values, indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(unfinished, self.path)


def without_date(machine: dict[str, Any]) -> dict[str, Any]:
    """A machine's description but for the day."""
    return {key: value for key, value in machine.items() if key != "date"}


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What runs here, and how it is measured."""
    import torch

    from helpers import runtime

    return {
        "device": runtime.hardware(),
        "kind": runtime.device().type,
        "threads": torch.get_num_threads(),
        "bf16": options.has_bf16,
        "torch": torch.__version__,
        "keras": rival_version("keras"),
        "tensorflow": rival_version("tensorflow"),
        "lightning": rival_version("lightning"),
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "system": platform.system(),
        "repeats": options.repeats,
        "seconds": options.seconds,
        "date": date.today().isoformat(),
    }


def rival_version(package: str) -> str:
    """The version of a package in the rivals' environment, or "not installed"."""
    python = RIVALS / "bin" / "python"
    names = [package, f"{package}-cpu", f"{package}_cpu"]  # as wheels may spell it
    code = (
        f"import importlib.metadata as m; print(*[d.version for d in m.distributions() if d.name in {names}])"
    )
    found = python.exists() and subprocess.run([python, "-c", code], capture_output=True, text=True).stdout
    return found.split()[0] if found and found.split() else "not installed"


def size_of(network: str, **changes: Any) -> dict[str, int]:
    """Parameters, MACs an image and images a batch of a network."""
    from task import Task

    from helpers.shapes import layer_table

    recipe = recipes.recipe(network, **changes)
    table = layer_table(Task(recipe, {}).model(), recipe.input_shape)
    return {"parameters": table.parameters, "macs": table.macs, "batch": recipe.batch}


def run_races(races: Iterable[parts.Race], results: Results, options: argparse.Namespace) -> None:
    """Run those races whose results are not there yet."""
    for race in races:
        if results.get(race.place):
            continue
        print(" · ".join(race.place), flush=True)
        for recipe in race.recipes():
            images.make(recipe)
        found = options.race(race.tasks, repeats=options.repeats, seconds=options.seconds)
        for label, result in found.items():
            print(f"    {label}: {shown(label, result)}", flush=True)
        first = next(iter(race.tasks.values()))
        size = size_of(first["network"], **first["changes"])
        short = options.has_bf16 and recipes.recipe(first["network"]).bf16
        precision = "bfloat16" if short else "float32"
        about = {"network": first["network"], **size, "precision": precision}
        results.add(race.place, about | {"ways": found})


def shown(label: str, result: dict[str, Any]) -> str:
    """A result in a few words."""
    if "missing" in result:
        return result["missing"]
    unit, by = ("GFLOP/s", 1e9) if label == "matrix product" else ("images/s", 1)
    runs = result["runs"]
    median, low, high = (number(speed / by) for speed in (result["median"], min(runs), max(runs)))
    return f"{median} {unit} ({low}–{high})"


def number(value: float) -> str:
    """Three digits of a small number, all those before the point of a large one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def run_accuracy(results: Results, options: argparse.Namespace) -> None:
    """Accuracies with and without each trick."""
    import accuracy

    from helpers import data

    splits = data.mnist("real" if options.real else "embedded")
    if not results.get(("accuracy", splits.name)):
        print(f"accuracy · {splits.name}", flush=True)
        results.add(("accuracy", splits.name), accuracy.unchanged(splits, options.passes))
        for label, found in results.get(("accuracy", splits.name, "top1")).items():
            print(f"    {label}: {', '.join(f'{100 * top1:.2f} %' for top1 in found)}", flush=True)


def run_time(results: Results, options: argparse.Namespace) -> None:
    """Time to the article's accuracy, where there is MNIST."""
    import accuracy

    from helpers import data

    try:
        splits = data.mnist("real")
    except FileNotFoundError as error:
        print(f"time: left out, {error}")
        return
    for network in options.networks:
        if recipes.RECIPES[network].target is None or results.get(("time", network)):
            continue
        print(f"time · {network}", flush=True)
        results.add(("time", network), accuracy.time_to_target(network, splits, options.limit))
        found = results.get(("time", network))
        print(f"    {100 * found['top1']:.2f} % after {found['passes']} passes, {found['seconds']:.0f} s")


def table_of(results: Results) -> str:
    """The comparison as a table: images a second, and `fit` against the others."""
    from helpers.notebooks import table

    rows = [("network", *parts.WAYS, "fit/article", "fit/keras", "fit/lightning", "fit/bare")]
    for network, found in results.values.get("compare", {}).items():
        ways = {way: found["ways"].get(way, {}) for way in parts.WAYS}
        speeds = [number(ways[way]["median"]) if "median" in ways[way] else "–" for way in parts.WAYS]
        others = [ratio(ways["fit"], ways[way]) for way in ("article", "keras", "lightning", "bare step")]
        rows.append((network, *speeds, *(f"{value:.2f}" if value else "–" for value in others)))
    return table(rows)


def store(results: Results, page: Path = PAGE) -> None:
    """Put the results into the file behind the page, beside those of other kinds of device.

    The networks are put in the course's order, which resumed runs may have left.
    """
    kept = json.loads(page.read_text("utf-8")) if page.exists() else {}
    values = dict(results.values)
    if compared := values.get("compare"):
        values["compare"] = {name: compared[name] for name in recipes.RECIPES if name in compared}
    kept[values["machine"]["kind"]] = values
    page.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")


def listed(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names, all of which must be known."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)} is unknown: choose from {', '.join(known)}"
            )
        return names

    return parse


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; bad ones end with one line."""
    parser = argparse.ArgumentParser(description="how fast the course trains, and against whom")
    parser.add_argument("--networks", type=listed(recipes.RECIPES), default=list(recipes.RECIPES))
    parser.add_argument("--rivals", type=listed(parts.RIVALS), default=list(parts.RIVALS))
    parser.add_argument("--parts", type=listed(PARTS), default=list(PARTS[:-1]))
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: leave a GPU alone")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a run is")
    parser.add_argument("--real", action="store_true", help="accuracy on MNIST, not the embedded digits")
    parser.add_argument("--passes", type=int, default=20, help="of the accuracy part")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds of training a network, part time")
    parser.add_argument("--out", type=Path, default=images.FOLDER / "speed.json")
    parser.add_argument("--resume", action="store_true", help="keep what the file holds already")
    parser.add_argument("--store", action="store_true", help="also into book/performance.json")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.passes < 1 or not options.seconds > 0:
        parser.error("wants 1 repeat and 1 pass at least, and seconds above 0")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anything asks for a GPU, here and in the workers
    from race import race

    from helpers import runtime

    options.has_bf16, options.race = runtime.has_bf16(), race
    LOG.unlink(missing_ok=True)
    try:
        results = Results(options.out, machine(options), options.resume)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    accelerator = runtime.device().type != "cpu"
    every = {
        "compare": lambda: run_races(
            parts.compare(options.networks, options.rivals, accelerator, options.has_bf16), results, options
        ),
        "growth": lambda: run_races(parts.growth(), results, options),
        "tricks": lambda: run_races(parts.tricks(options.has_bf16), results, options),
        "accuracy": lambda: run_accuracy(results, options),
        "time": lambda: run_time(results, options),
    }
    for part in PARTS:
        if part in options.parts:
            every[part]()
    if "compare" in options.parts:
        print(f"\nimages a second, median of {options.repeats}\n{table_of(results)}")
    print(f"\nwritten to {options.out}")
    if options.store:
        store(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
