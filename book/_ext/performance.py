"""The page on speed, from book/performance.json: nothing on it is typed by hand.

Tables and plots, each a directive with the device's kind, `cpu` or `cuda`:

- ``{speed-table}``: images a second of every network in every way; ``{speed-ratios}``: `fit` against each;
  ``{speed-costs}``: `fit`'s steps a second and share of the matrix product; ``{speed-memory}``: GB of each.
- ``{speed-bars}``: the same as a plot, each way as a share of the bare step.
- ``{speed-growth}`` with `batch`, `data` or `width` after the kind: a plot and its table.
- ``{speed-tricks}`` with the network after the kind: gains, cumulative, as a plot and a table;
  ``{speed-extras}``: what else was tried.
- ``{speed-accuracy}``, ``{speed-time}``: tables. ``{speed-if-measured}``: the comparison on a device that may
  not have been measured yet.

Roles: ``{speed}`cpu machine device` `` pastes a value by its place in the file; ``{gain}`cpu NETWORK | fit |
keras` `` a ratio, such as 1.3×; ``{trick}`cpu NETWORK | LABEL` `` what a trick multiplied the speed by.
`make bench ARGS=--store` writes the file; without it the strict build stops.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, ClassVar

import charts
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

LOGGER = logging.getLogger(__name__)
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
TRAINING = 6  # operations a MAC: two in the forward pass, four in the backward pass
Row = tuple[str, ...]
Results = dict[str, Any]


# ---- the numbers ---------------------------------------------------------------------------------------


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
    return f"{result['median']:,.{places(low)}f} ({low:,.{places(low)}f}–{high:,.{places(low)}f})"


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
    """Network, batch, `fit`'s steps a second, its GFLOP/s and their share of the matrix product's."""
    rows = []
    for network, found in stored["compare"].items():
        fit, best = found["ways"]["fit"], found["ways"]["matrix product"]["median"]
        reached = operations(found, "fit")
        rows.append(
            (
                network,
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
    """What was tried, on top of what, images a second, gain."""
    ways, rows = stored["tricks"][network]["extras"]["ways"], []
    for label, base in EXTRAS.items():
        result = ways.get(label, {"missing": "not tried"})
        shown = result["missing"] if "missing" in result else spread(result)
        rows.append((label, base, shown, times(ratio(result, ways[base]))))
    return rows


EXTRAS = {"torch.compile": "all tricks", "bf16": "all tricks", "two loader processes": "the article's way"}


def accuracy_rows(stored: Results) -> list[Row]:
    """Data, variant, mean ± standard deviation of the test accuracy in percent, difference to all tricks."""
    rows = []
    for name, found in stored["accuracy"].items():
        reference = statistics.mean(found["top1"]["all tricks"])
        for label, values in found["top1"].items():
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            apart = "–" if label == "all tricks" else f"{100 * (mean - reference):+.2f}"
            rows.append((name, label, f"{100 * mean:.2f} ± {100 * deviation:.2f} %", apart))
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


# ---- what the page shows -------------------------------------------------------------------------------


def table(header: Row, rows: list[Row]) -> nodes.table:
    """A table of plain text; the first column is as wide as two others."""
    group = nodes.tgroup("", cols=len(header))
    group += [nodes.colspec(colwidth=2 if place == 0 else 1) for place in range(len(header))]
    for part, lines in ((nodes.thead(), [header]), (nodes.tbody(), rows)):
        for line in lines:
            part += nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in line))
        group += part
    return nodes.table("", group, classes=["speed"])


def figure(drawing: str) -> nodes.container:
    """A drawing as part of a page."""
    return nodes.container("", nodes.raw("", drawing, format="html"), classes=["chart"])


class Part(SphinxDirective):
    """``{speed-…} KIND [OF WHAT]``: a part of the page, or a warning."""

    required_arguments = 1
    final_argument_whitespace = True
    parts: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Build the part."""
        self.env.note_dependency(str(Path(self.env.srcdir) / RESULTS))
        kind, _, what = self.arguments[0].partition(" ")
        try:
            if self.name == "speed-if-measured":
                return if_measured(self.env.srcdir, kind)
            return self.parts[self.name](read(self.env.srcdir, kind), what.strip())
        except (ValueError, KeyError) as error:
            LOGGER.warning("%s", error, type="course", subtype="performance", location=self.get_location())
            return []


def speed_bars(stored: Results, _: str) -> list[nodes.Node]:
    """The plot of each way as a share of the bare step."""
    groups = {
        network: {
            label: (ratio(found["ways"].get(way, {}), found["ways"]["bare step"]), way)
            for way, label in WAYS.items()
            if way != "bare step"
        }
        for network, found in stored["compare"].items()
    }
    return [figure(charts.shares(f"speed-bars-{stored['machine']['kind']}", groups))]


def speed_growth(stored: Results, what: str) -> list[nodes.Node]:
    """Plot and table of one kind of growth."""
    x_label, y_label = GROWTH[what]
    header, rows = growth_rows(stored, what)
    drawing = charts.lines(f"speed-growth-{what}", growth_points(stored, what), x_label, y_label)
    return [figure(drawing), table(header, rows)]


def speed_tricks(stored: Results, network: str) -> list[nodes.Node]:
    """Plot and table of the tricks, cumulative."""
    rungs = [(label, result["median"]) for label, result, *_ in gains(stored["tricks"][network]["ladder"])]
    header = ("trick", "images a second", "gain", "since the start")
    name = nodes.make_id(f"speed-tricks-{network}")
    return [figure(charts.steps(name, network, rungs)), table(header, trick_rows(stored, network))]


Part.parts = {
    "speed-table": lambda s, _: [table(("network, images a second", *WAYS.values()), speed_rows(s))],
    "speed-ratios": lambda s, _: [
        table(("fit against …", *(label for way, label in WAYS.items() if way != "fit")), ratio_rows(s))
    ],
    "speed-costs": lambda s, _: [
        table(
            ("network", "batch", "steps a second", "GFLOP/s", "of a matrix product"),
            cost_rows(s),
        )
    ],
    "speed-memory": lambda s, _: [table(("network, GB", *WAYS.values()), memory_rows(s))],
    "speed-bars": speed_bars,
    "speed-growth": speed_growth,
    "speed-tricks": speed_tricks,
    "speed-extras": lambda s, network: [
        table(("tried", "on top of", "images a second", "gain"), extra_rows(s, network))
    ],
    "speed-accuracy": lambda s, _: [
        table(("data", "trained with", "test accuracy", "apart, points"), accuracy_rows(s))
    ],
    "speed-time": lambda s, _: (
        [table(("network", "the article's", "reached", "passes", "training"), time_rows(s))]
        if "time" in s
        else [nodes.paragraph("", "Not measured in this run: MNIST was not at hand.")]
    ),
}


def if_measured(srcdir: str, kind: str) -> list[nodes.Node]:
    """What was measured on a kind of device: plot and tables; or that there is nothing yet."""
    read(srcdir, "cpu")  # the file itself must be there
    try:
        stored = read(srcdir, kind)
    except ValueError:
        return [nodes.paragraph("", "Not measured yet: no such device has run the benchmark.")]
    machine = nodes.paragraph("", f"{stored['machine']['device']}; {stored['machine']['date']}.")
    shown = ("speed-bars", "speed-table", "speed-ratios", "speed-costs", "speed-memory")
    return [machine, *(node for name in shown for node in Part.parts[name](stored, ""))]


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


class Number(SphinxRole):
    """``{speed}``, ``{gain}`` and ``{trick}``: a number of the results, or a warning."""

    how: ClassVar[dict[str, Any]] = {"speed": value_at, "gain": gain_of, "trick": trick_of}

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Paste the text."""
        self.env.note_dependency(str(Path(self.env.srcdir) / RESULTS))
        kind, _, what = self.text.partition(" ")
        try:
            return [nodes.inline("", self.how[self.name](read(self.env.srcdir, kind), what))], []
        except (ValueError, KeyError, TypeError) as error:
            LOGGER.warning("%s", error, type="course", subtype="performance", location=self.get_location())
            return [], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of the above with Sphinx."""
    for name in (*Part.parts, "speed-if-measured"):
        app.add_directive(name, Part)
    for name in Number.how:
        app.add_role(name, Number())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
