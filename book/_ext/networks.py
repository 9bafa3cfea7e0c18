"""Draws a network from its own code, so that the drawing cannot disagree with it.

    ```{network} 01_lenet5 ArticleLeNet5() 1x28x28
    :title: LeNet-5, as the article builds it

    {{parameters}} parameters, {{share C5}} of them in C5.
    ```

The model comes from the notebook's cells tagged `model`, shapes and counts from `helpers.shapes.layer_table`,
on torch's `meta` device, where even VGG16 needs no memory. The text beside the drawing takes its numbers from
the same table: `parameters`, `MACs`, `layers`; `parameters`, `MACs`, `share`, `output` with names of layers.
"""

from __future__ import annotations

import re
from html import escape
from math import prod, sqrt
from typing import ClassVar

import project  # noqa: F401  (helpers on the path)
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from network_stages import Stage, examine, input_stage, percent, shown, stages
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from svg import arrow, element, picture, polygon, rectangle, text

from helpers import shapes
from helpers.shapes import LayerTable, Shape

LOGGER = logging.getLogger(__name__)
FACT = re.compile(r"\{\{(.*?)\}\}")
WIDTH, COLUMN, TEXT = 376, 124, 138  # px: the drawing, the boxes' column, where the text starts
GAP, LEAST = 18, 60  # px: between two rows, the height of a row
SIDE, DEPTH, SLANT = 3.0, 1.0, 0.22  # a root of pixels, of channels; rise of the depth
LARGEST = 66  # px: the side of the largest map, if no deeper box asks for the room


# ---- the drawing ---------------------------------------------------------------------------------------


def box_size(shape: Shape, scale: float = 1.0) -> tuple[float, float, float, float]:
    """A box's front and the offset of its back: width, height, right, up. All go by square roots."""
    channels, height, width = shape if len(shape) == 3 else (prod(shape), 1, 1)
    side, depth = scale * SIDE, scale * DEPTH * sqrt(channels)
    return side * sqrt(width), side * sqrt(height), depth, SLANT * depth


def common_scale(found: list[Stage]) -> float:
    """The scale that lets all boxes of a network into their column."""
    sizes = [box_size(stage.output) for stage in found]
    widest, tallest = (max(w + right for w, _, right, _ in sizes), max(height for _, height, _, _ in sizes))
    return min((COLUMN - 4) / widest, LARGEST / tallest)


def box(stage: Stage, middle: float, scale: float) -> tuple[str, float, float]:
    """A stage's box around the height `middle`: its source, its top and its bottom."""
    width, height, right, up = box_size(stage.output, scale)
    x, y = (COLUMN - width - right) / 2, middle - (height - up) / 2
    front = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    top = [front[0], (x + right, y - up), (x + width + right, y - up), front[1]]
    side = [front[1], (x + width + right, y - up), (x + width + right, y + height - up), front[2]]
    faces = polygon(front, "front") + polygon(top, "top") + polygon(side, "side")
    return element("g", faces, class_=f"stage-{stage.colour}"), y - up, y + height


def labels(stage: Stage, middle: float, total: int) -> str:
    """The lines beside a box, and a bar that shows its share of all parameters."""
    name = element("tspan", escape(stage.label), class_="stage-name")
    size = element("tspan", shown(stage.output), dx=8, class_="stage-shape")
    lines = element("text", name, size, x=TEXT, y=middle - 11)
    lines += text(stage.words, TEXT, middle + 5, "stage-kind")
    if not stage.parameters:
        return lines
    share = stage.parameters / total
    lines += text(f"{stage.cost}, {percent(share)}", TEXT, middle + 20, "stage-kind")
    lines += rectangle(TEXT, middle + 25, WIDTH - TEXT, 4, "bar-track")
    return lines + rectangle(TEXT, middle + 25, max(1.0, (WIDTH - TEXT) * share), 4, f"bar-{stage.colour}")


def draw(name: str, title: str, found: list[Stage], total: int) -> str:
    """The drawing of a network: one row a stage, from the input above to the answer below."""
    parts, top, bottom, scale = [], 4.0, None, common_scale(found)
    for stage in found:
        _, height, _, up = box_size(stage.output, scale)
        middle = top + max(LEAST, height + up) / 2
        source, first, last = box(stage, middle, scale)
        if bottom is not None:
            parts.append(arrow((COLUMN / 2, bottom + 4), (COLUMN / 2, first - 4)))
        parts += [source, labels(stage, middle, total)]
        top, bottom = top + max(LEAST, height + up) + GAP, last
    parts.append(arrow((COLUMN / 2, bottom + 4), (COLUMN / 2, top + 6)))
    answer = f"answer: {prod(found[-1].output):,} numbers"
    parts.append(text(answer, TEXT, top + 6, "stage-name"))
    return picture(name, (WIDTH, top + 14), f"{title}, drawn layer by layer", described(found, answer), parts)


def described(found: list[Stage], answer: str) -> str:
    """The drawing in words, for those who do not see it."""
    first, *rest = found
    lines = [f"{stage.label}: {stage.words}, output {shown(stage.output)}, {stage.cost}." for stage in rest]
    return " ".join([f"Input: {first.words}.", *lines, f"{answer.capitalize()}."])


# ---- the text beside it --------------------------------------------------------------------------------


def fact(wanted: str, table: LayerTable) -> str:
    """A number of a table by its name, such as `parameters`, `share C5 F6` or `output C1`.

    Raises:
        ValueError: there is no such fact or no such layer.
    """
    what, *names = wanted.split() or [""]
    try:
        rows = [table.row(name) for name in names]
    except KeyError as error:
        raise ValueError(error.args[0]) from error
    known = {
        "layers": lambda: str(len(rows or table.rows)),
        "parameters": lambda: f"{sum(row.parameters for row in rows or table.rows):,}",
        "MACs": lambda: f"{sum(row.macs for row in rows or table.rows):,}",
        "share": lambda: percent(sum(row.parameters for row in rows) / table.parameters),
        "output": lambda: ", ".join("×".join(f"{size:,}" for size in row.output) for row in rows),
    }
    if what not in known:
        raise ValueError(f"a table has no {what!r}: use {', '.join(known)}")
    return known[what]().replace(" %", "\N{NO-BREAK SPACE}%")


class Network(SphinxDirective):
    """The directive; its body is the text beside the drawing."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar = {"title": directives.unchanged_required, "name": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the text and the drawing, or warn and return nothing."""
        notebook, _, rest = self.arguments[0].partition(" ")
        for path in (self.env.doc2path(f"notebooks/{notebook}"), shapes.__file__, __file__):
            self.env.note_dependency(path)
        try:
            return [self._page_part(notebook, rest.rpartition(" ")[0].strip())]
        except ValueError as error:
            LOGGER.warning("%s", error, type="course", subtype="network", location=self.get_location())
            return []

    def _page_part(self, notebook: str, call: str) -> nodes.Element:
        """Text and figure, side by side where there is room."""
        model, table, shape = examine(self.arguments[0])
        title = self.options.get("title", type(model).__name__)
        name = nodes.make_id(self.options.setdefault("name", f"network-{notebook}-{type(model).__name__}"))
        lines = FACT.sub(lambda match: fact(match[1], table), "\n".join(self.content)).splitlines()
        beside = nodes.container(classes=["network-text"])
        self.state.nested_parse(StringList(lines, source="network"), self.content_offset, beside)
        caption, _ = self.parse_inline(
            f"{title}: {table.parameters:,} parameters, {table.macs:,} multiply-accumulates an image. "
            f"Drawn from `{call}` of [its notebook](/notebooks/{notebook}.ipynb)."
        )
        source = draw(name, title, [input_stage(shape), *stages(model, table)], table.parameters)
        drawing = nodes.raw("", source, format="html")
        figure = nodes.figure("", drawing, nodes.caption("", "", *caption), classes=["network-drawing"])
        self.add_name(figure)
        return nodes.container("", beside, figure, classes=["network"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the directive."""
    app.add_directive("network", Network)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
