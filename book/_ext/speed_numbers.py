"""What book/performance.json says: rows, points and ratios for the page on speed."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import project  # noqa: F401  (helpers on the path)

from helpers.measure import signed

JOINED = "\N{WORD JOINER}"  # no line ends here
RESULTS = "book/performance.json"
WAYS = {
    "article": "the article's way",
    "keras": "Keras",
    "lightning": "Lightning",
    "fit": "fit",
    "bare step": "bare step",
}
GROWTH = {
    "batch": ("images in a batch", "images a second"),
    "data": ("images in the set", "images a second"),
    "width": ("million MACs an image", "images a second"),
}
EXTRAS = {
    "torch.compile": "all tricks",
    "bf16": "all tricks",
    "two loader processes": "the article's way",
}  # added to what
TRAINING = 6  # operations a MAC: two in the forward pass, four in the backward pass
Row = tuple[str, ...]
Results = dict[str, Any]


def read(srcdir: str, kind: str) -> Results:
    """The stored results of one kind of device.

    Raises:
        ValueError: the file is missing, is no such file, or holds nothing of that kind.
    """
    try:
        stored = json.loads((Path(srcdir) / RESULTS).read_text(encoding="utf-8"))
        return {part: stored[kind][part] for part in ("machine", *stored[kind])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{RESULTS} can't be used ({error!r}): run make bench ARGS=--store") from error


def ratio(above: Results, below: Results) -> float | None:
    """The median over rounds of one way's speed by another's; None where one of them was not measured."""
    if "runs" not in above or "runs" not in below:
        return None
    return statistics.median(a / b for a, b in zip(above["runs"], below["runs"], strict=True))


def spread(result: Results) -> str:
    """Median and, in brackets, the slowest and fastest run; or why there is none."""
    if "median" not in result:
        return "–"
    low, high = min(result["runs"]), max(result["runs"])
    median, low, high = (f"{speed:,.{places(low)}f}" for speed in (result["median"], low, high))
    return f"{median} ({low}{JOINED}–{JOINED}{high})"


def places(value: float) -> int:
    """Decimals for three digits of a number below a hundred."""
    return 0 if value >= 100 else 1 if value >= 10 else 2


def times(value: float | None) -> str:
    """A ratio in words."""
    return "–" if value is None else f"{value:.2f}×" if value < 10 else f"{value:,.0f}×"


def operations(found: Results, way: str) -> float | None:
    """Operations a second that a way's training reaches: six for each MAC of an image."""
    result = found["ways"].get(way, {})
    return TRAINING * found["macs"] * result["median"] if "median" in result else None


def speed_rows(stored: Results) -> list[Row]:
    """Network, then images a second of each way."""
    return [
        (network, *(spread(found["ways"].get(way, {})) for way in WAYS))
        for network, found in stored["compare"].items()
    ]


def ratio_rows(stored: Results) -> list[Row]:
    """Network, then how much faster `fit` is than each other way."""
    return [
        (
            network,
            *(times(ratio(found["ways"]["fit"], found["ways"].get(way, {}))) for way in WAYS if way != "fit"),
        )
        for network, found in stored["compare"].items()
    ]


def cost_rows(stored: Results) -> list[Row]:
    """Network, precision, batch, `fit`'s steps a second, GFLOP/s and their share of the matrix product's."""
    rows = []
    for network, found in stored["compare"].items():
        fit, best = found["ways"]["fit"], found["ways"]["matrix product"]["median"]
        reached = operations(found, "fit")
        rows.append(
            (
                network,
                found.get("precision", "float32"),
                f"{found['batch']:,}",
                f"{fit['median'] / found['batch']:,.{places(fit['median'] / found['batch'])}f}",
                f"{reached / 1e9:,.0f}",
                f"{100 * reached / best:.0f} %",
            )
        )
    return rows


def memory_rows(stored: Results) -> list[Row]:
    """Network, then the highest memory of each way in GB."""
    sizes = {
        network: [found["ways"].get(way, {}).get("peak_bytes") for way in WAYS]
        for network, found in stored["compare"].items()
    }
    return [
        (network, *("–" if size is None else f"{size / 1e9:.2f}" for size in own))
        for network, own in sizes.items()
    ]


def growth_points(stored: Results, what: str) -> dict[str, list[tuple[float, float]]]:
    """Points (size, images a second) by way."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for size, found in stored["growth"][what].items():
        x = found["macs"] / 1e6 if what == "width" else float(size)
        for way, result in found["ways"].items():
            if "median" in result:
                lines.setdefault(WAYS.get(way, way), []).append((x, result["median"]))
    return {label: sorted(points) for label, points in lines.items()}


def growth_rows(stored: Results, what: str) -> tuple[Row, list[Row]]:
    """Header and rows: size, then images a second of each way; by width GFLOP/s too."""
    first = next(iter(stored["growth"][what].values()))
    header = (GROWTH[what][0], *(WAYS.get(way, way) for way in first["ways"]))
    rows = []
    for size, found in stored["growth"][what].items():
        shown = f"{found['macs'] / 1e6:,.0f}" if what == "width" else f"{int(size):,}"
        row = (shown, *(spread(result) for result in found["ways"].values()))
        rows.append((*row, f"{operations(found, 'fit') / 1e9:,.0f}") if what == "width" else row)
    return ((*header, "GFLOP/s of fit") if what == "width" else header), rows


def gains(ladder: Results) -> list[tuple[str, dict[str, Any], float | None, float | None]]:
    """Label, result, gain over the rung before and over the first rung."""
    rungs = list(ladder["ways"].items())
    first, found = rungs[0][1], []
    for place, (label, result) in enumerate(rungs):
        before = rungs[place - 1][1] if place else result
        found.append((label, result, ratio(result, before), ratio(result, first)))
    return found


def trick_rows(stored: Results, network: str) -> list[Row]:
    """Trick, images a second, what it multiplies the speed by, what all so far do."""
    return [
        (label, spread(result), times(step), times(whole))
        for label, result, step, whole in gains(stored["tricks"][network]["ladder"])
    ]


def extra_rows(stored: Results, network: str) -> list[Row]:
    """What was tried and on top of what, images a second, gain."""
    ways, rows = stored["tricks"][network]["extras"]["ways"], []
    for label, base in EXTRAS.items():
        result = ways.get(label, {"missing": "not tried"})
        shown = result["missing"] if "missing" in result else spread(result)
        rows.append((f"{label}, on top of {base}", shown, times(ratio(result, ways[base]))))
    return rows


def accuracy_rows(stored: Results) -> list[Row]:
    """Data and variant, mean ± standard deviation of the test accuracy, difference to all tricks."""
    rows = []
    for name, found in stored["accuracy"].items():
        reference = statistics.mean(found["top1"]["all tricks"])
        for label, values in found["top1"].items():
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            apart = "–" if label == "all tricks" else signed(100 * (mean - reference))
            rows.append((f"{name}, {label}", f"{100 * mean:.2f} ± {100 * deviation:.2f} %", apart))
    return rows


def time_rows(stored: Results) -> list[Row]:
    """Network, the article's accuracy, what was reached, passes, seconds."""
    return [
        (
            network,
            f"{100 * found['target']:.2f} %",
            f"{100 * found['top1']:.2f} %" + ("" if found["reached"] else ", not reached"),
            f"{found['passes']:,}",
            f"{found['seconds']:,.0f} s",
        )
        for network, found in stored.get("time", {}).items()
    ]


def value_at(stored: Results, path: str) -> str:
    """A value by its place, as in `machine device`.

    Raises:
        KeyError: there is none.
    """
    value: Any = stored
    for key in path.split():
        value = value[key]
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def gain_of(stored: Results, text: str) -> str:
    """`NETWORK | WAY | OTHER`: how many times as fast the one is as the other."""
    network, way, other = (part.strip() for part in text.split("|"))
    ways = stored["compare"][network]["ways"]
    return times(ratio(ways[way], ways[other]))


def trick_of(stored: Results, text: str) -> str:
    """`NETWORK | LABEL`: what a trick multiplied the speed by; `NETWORK | all`: what all of them did."""
    network, label = (part.strip() for part in text.split("|"))
    found = {name: (step, whole) for name, _, step, whole in gains(stored["tricks"][network]["ladder"])}
    if label == "all":
        return times(list(found.values())[-1][1])
    if label in found:
        return times(found[label][0])
    ways = stored["tricks"][network]["extras"]["ways"]
    return times(ratio(ways[label], ways[EXTRAS[label]]))
