"""The page on speed, from book/performance.json: nothing on it is typed by hand.

Tables and plots, each a directive with the device's kind, `cpu` or `cuda`:

- ``{speed-table}``: images a second of every network in every way; ``{speed-ratios}``: `fit` against each;
  ``{speed-costs}``: `fit`'s steps a second and share of the matrix product; ``{speed-memory}``: GB of each.
- ``{speed-bars}``: the same as a plot, each way as a share of the bare step.
- ``{speed-growth}`` with `batch`, `data` or `width` after the kind: a plot and its table.
- ``{speed-tricks}`` with the network after the kind: gains, cumulative, as a plot and a table;
  ``{speed-extras}``: what else was tried.
- ``{speed-accuracy}``, ``{speed-time}``: tables. ``{speed-if-measured}``: the comparison on a device that may
  not have been measured yet. Option `name` of all: to refer to the table.

Roles: ``{speed}`cpu machine device` `` pastes a value by its place in the file; ``{gain}`cpu NETWORK | fit |
keras` `` a ratio, such as 1.3×; ``{trick}`cpu NETWORK | LABEL` `` what a trick multiplied the speed by.
`make bench ARGS=--store` writes the file; without it the strict build stops.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import charts
import speed_numbers as numbers
import tables
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

LOGGER = logging.getLogger(__name__)
Row = tuple[str, ...]
Results = dict[str, Any]


def table(caption: str, header: Row, rows: list[Row]) -> nodes.table:
    """A numbered table; the first column is as wide as two others."""
    return tables.table(caption, header, rows, classes=["speed"], widths=[2] + [1] * (len(header) - 1))


def figure(drawing: str) -> nodes.container:
    """A drawing as part of a page."""
    return nodes.container("", nodes.raw("", drawing, format="html"), classes=["chart"])


class Part(SphinxDirective):
    """``{speed-…} KIND [OF WHAT]``: a part of the page, or a warning."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {"name": directives.unchanged}
    parts: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Build the part."""
        self.env.note_dependency(str(Path(self.env.srcdir) / numbers.RESULTS))
        kind, _, what = self.arguments[0].partition(" ")
        try:
            if self.name == "speed-if-measured":
                return if_measured(self.env.srcdir, kind)
            built = self.parts[self.name](numbers.read(self.env.srcdir, kind), what.strip())
        except (ValueError, KeyError) as error:
            LOGGER.warning("%s", error, type="course", subtype="performance", location=self.get_location())
            return []
        self.add_name(built[-1])
        return built


def speed_bars(stored: Results, _: str) -> list[nodes.Node]:
    """The plot of each way as a share of the bare step."""
    groups = {
        network: {
            label: (numbers.ratio(found["ways"].get(way, {}), found["ways"]["bare step"]), way)
            for way, label in numbers.WAYS.items()
            if way != "bare step"
        }
        for network, found in stored["compare"].items()
    }
    return [figure(charts.shares(f"speed-bars-{stored['machine']['kind']}", groups))]


def speed_growth(stored: Results, what: str) -> list[nodes.Node]:
    """Plot and table of one kind of growth."""
    x_label, y_label = numbers.GROWTH[what]
    header, rows = numbers.growth_rows(stored, what)
    drawing = charts.lines(f"speed-growth-{what}", numbers.growth_points(stored, what), x_label, y_label)
    return [figure(drawing), table(f"{y_label.capitalize()} by {x_label}.", header, rows)]


def speed_tricks(stored: Results, network: str) -> list[nodes.Node]:
    """Plot and table of the tricks, cumulative."""
    rungs = [
        (label, result["median"]) for label, result, *_ in numbers.gains(stored["tricks"][network]["ladder"])
    ]
    header = ("trick", "images a second", "gain", "since the start")
    name = nodes.make_id(f"speed-tricks-{network}")
    rows = numbers.trick_rows(stored, network)
    return [figure(charts.steps(name, network, rungs)), table(f"Trick by trick: {network}.", header, rows)]


def speed_time(stored: Results, _: str) -> list[nodes.Node]:
    """How long `fit` takes to the article's accuracy, if that was measured."""
    if "time" not in stored:
        return [nodes.paragraph("", "Not measured in this run: MNIST was not at hand.")]
    header = ("network", "the article's", "reached", "passes", "training")
    return [table("Time to the article's accuracy.", header, numbers.time_rows(stored))]


def one_table(caption: str, header: Row, rows: Callable[[Results], list[Row]]) -> Any:
    """A part that is one table."""
    return lambda stored, _: [table(f"{caption}.", header, rows(stored))]


WAYS = tuple(numbers.WAYS.values())
OTHERS = tuple(label for way, label in numbers.WAYS.items() if way != "fit")
COSTS = ("network", "products in", "batch", "steps a second", "GFLOP/s", "of a matrix product")
ACCURACY = ("trained on and with", "test accuracy", "apart, points")

Part.parts = {
    "speed-bars": speed_bars,
    "speed-table": one_table("Images a second", ("network", *WAYS), numbers.speed_rows),
    "speed-ratios": one_table("How many times as fast fit is", ("against", *OTHERS), numbers.ratio_rows),
    "speed-costs": one_table("Operations a second", COSTS, numbers.cost_rows),
    "speed-memory": one_table("Memory in GB", ("network", *WAYS), numbers.memory_rows),
    "speed-accuracy": one_table("Accuracy with and without a trick", ACCURACY, numbers.accuracy_rows),
    "speed-growth": speed_growth,
    "speed-tricks": speed_tricks,
    "speed-extras": lambda stored, network: [
        table(
            f"What else was tried: {network}.",
            ("tried", "images a second", "gain"),
            numbers.extra_rows(stored, network),
        )
    ],
    "speed-time": speed_time,
}


def if_measured(srcdir: str, kind: str) -> list[nodes.Node]:
    """What was measured on a kind of device: plot and tables; or that there is nothing yet."""
    numbers.read(srcdir, "cpu")  # the file itself must be there
    try:
        stored = numbers.read(srcdir, kind)
    except ValueError:
        return [nodes.paragraph("", "Not measured yet: no such device has run the benchmark.")]
    machine = nodes.paragraph("", f"{stored['machine']['device']}; {stored['machine']['date']}.")
    shown = ("speed-bars", "speed-table", "speed-ratios", "speed-costs", "speed-memory")
    return [machine, *(node for name in shown for node in Part.parts[name](stored, ""))]


class Number(SphinxRole):
    """``{speed}``, ``{gain}`` and ``{trick}``: a number of the results, or a warning."""

    how: ClassVar[dict[str, Any]] = {
        "speed": numbers.value_at,
        "gain": numbers.gain_of,
        "trick": numbers.trick_of,
    }

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Paste the text."""
        self.env.note_dependency(str(Path(self.env.srcdir) / numbers.RESULTS))
        kind, _, what = self.text.partition(" ")
        try:
            return [nodes.inline("", self.how[self.name](numbers.read(self.env.srcdir, kind), what))], []
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
