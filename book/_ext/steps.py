"""Convolution and pooling as step figures; torch works out every number while the book is built.

    ```{window-steps} convolution
    :input: 1 0 2 / 0 1 1 / 2 1 0
    :kernel: 1 0 / 0 -1
    :stride: 1
    :padding: 0
    :show: 1 4

    The caption.
    ```

``{window-steps} pooling`` takes `size` instead of `kernel` and keeps the largest number. `padding` is a
number of pixels for all sides, or `same` for what TensorFlow adds. `show` picks steps; without it all are
drawn.
The role ``{positions}`28 5 1 2` `` works the size formula out, for W, F, S and P.
"""

from __future__ import annotations

import re
from itertools import product
from typing import ClassVar

import project  # noqa: F401  (helpers on the path)
import torch
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from step_numbers import Windows, grid, number, reckoning, slide
from svg import arrow, element, picture, rectangle, text

from helpers.shapes import output_size

LOGGER = logging.getLogger(__name__)
CELL, MARGIN, BETWEEN = 24, 3, 30  # px: a number's square, around the drawing, between the two grids


# ---- the drawings --------------------------------------------------------------------------------------


def cells(values: torch.Tensor, corner: tuple[float, float], classes: list[str], known: int) -> str:
    """A grid of numbers from its upper left corner; the first `known` are written in."""
    parts, (left, top) = [], corner
    for index, value in enumerate(values.flatten().tolist()):
        row, column = divmod(index, len(values))
        x, y = left + CELL * column, top + CELL * row
        parts.append(rectangle(x, y, CELL, CELL, classes[index]))
        if index < known:
            parts.append(text(number(value), x + CELL / 2, y + CELL / 2 + 5, f"number {classes[index]}"))
    return "".join(parts)


def step(windows: Windows, index: int, name: str) -> str:
    """One step: the window on the padded input, and the output as far as it is known."""
    (row, column), inside, outside = windows.places[index], len(windows.padded), len(windows.output)
    height = CELL * max(inside, outside)
    left, right = MARGIN, MARGIN + CELL * inside + BETWEEN
    y_in, y_out = (MARGIN + (height - CELL * count) / 2 for count in (inside, outside))
    (before, after), all_places = windows.added, product(range(inside), repeat=2)
    image = range(before, inside - after)
    looks = ["cell" if y in image and x in image else "cell-padding" for y, x in all_places]
    made = ["cell-new" if place == index else "cell" for place in range(outside * outside)]
    offset, side = CELL * windows.stride, CELL * windows.size
    parts = [
        cells(windows.padded, (left, y_in), looks, inside * inside),
        rectangle(left + offset * column, y_in + offset * row, side, side, "window"),
        arrow((right - BETWEEN + 6, MARGIN + height / 2), (right - 6, MARGIN + height / 2)),
        cells(windows.output, (right, y_out), made, index + 1),
        rectangle(right + CELL * column, y_out + CELL * row, CELL, CELL, "mark"),
    ]
    top, start = row * windows.stride + 1, column * windows.stride + 1
    description = (
        f"The window covers rows {top} to {top + windows.size - 1} and columns {start} to "
        f"{start + windows.size - 1} of {inside} by {inside} numbers, padding included. "
        f"Row {row + 1}, column {column + 1} of the output becomes {reckoning(windows, row, column)}."
    )
    size = (right + CELL * outside + MARGIN, height + 2 * MARGIN)
    return picture(f"{name}-{index + 1}", size, f"Step {index + 1}", description, parts)


def kernel_drawing(kernel: torch.Tensor, name: str) -> str:
    """The weights, beside the steps."""
    rows = "; ".join(" ".join(map(number, row)) for row in kernel.tolist())
    parts = [cells(kernel, (MARGIN, MARGIN), ["cell-weight"] * kernel.numel(), kernel.numel())]
    side = CELL * len(kernel) + 2 * MARGIN
    drawing = picture(f"{name}-kernel", (side, side), "The kernel", f"Its rows: {rows}.", parts)
    return element("div", drawing, element("p", "the kernel"), class_="kernel")


def draw(windows: Windows, chosen: list[int], name: str) -> str:
    """The whole figure: the kernel if there is one, then the chosen steps, each with its sum."""
    items = []
    for index in chosen:
        total = reckoning(windows, *windows.places[index]).replace(" ", "\N{THIN SPACE}")
        line = element("p", element("b", f"Step {index + 1}"), total)
        items.append(element("li", step(windows, index, name), line))
    first = "" if windows.kernel is None else kernel_drawing(windows.kernel, name)
    small = len(windows.padded) + len(windows.output) <= 7  # two of them fit side by side on a phone
    return element("div", first, element("ol", *items), class_="steps small" if small else "steps")


# ---- on the page ---------------------------------------------------------------------------------------


class Steps(SphinxDirective):
    """The directive; its body is the caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {
        "input": directives.unchanged_required,
        "kernel": directives.unchanged_required,
        "size": directives.positive_int,
        "stride": directives.positive_int,
        "padding": directives.unchanged_required,
        "show": directives.unchanged_required,
        "name": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Return the figure, or warn and return nothing."""
        self.env.note_dependency(__file__)
        try:
            windows, chosen = self._windows()
        except (ValueError, KeyError) as error:
            what = f"an option is missing: {error}" if isinstance(error, KeyError) else error
            LOGGER.warning("steps: %s", what, type="course", subtype="steps", location=self.get_location())
            return []
        name = nodes.make_id(self.options.setdefault("name", f"steps-{self.lineno}"))
        drawing = nodes.raw("", draw(windows, chosen, name), format="html")
        caption, _ = self.parse_inline(" ".join(self.content))
        figure = nodes.figure("", drawing, nodes.caption("", "", *caption), classes=["step-figure"])
        self.add_name(figure)
        return [figure]

    def _windows(self) -> tuple[Windows, list[int]]:
        """The windows that the options ask for, and which steps to show."""
        kind, padding = self.arguments[0], self.options.get("padding", "0")
        if kind not in ("convolution", "pooling"):
            raise ValueError(f"{kind!r} is neither convolution nor pooling")
        kernel = grid(self.options["kernel"]) if kind == "convolution" else self.options["size"]
        stride = self.options.get("stride", kernel if kind == "pooling" else 1)
        amount = padding if padding == "same" else int(padding)
        windows = slide(grid(self.options["input"]), kernel, stride, amount)
        count = len(windows.places)
        chosen = [int(word) - 1 for word in self.options.get("show", "").split()] or list(range(count))
        if not all(0 <= index < count for index in chosen):
            raise ValueError(f"show={self.options['show']}: there are {count} steps")
        return windows, chosen


class Positions(SphinxRole):
    """``{positions}`28 5 1 2` ``: the size formula, worked out for W, F, S and P."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Paste the line, or warn."""
        try:
            width, window, stride, padding = map(int, re.split(r"\s+", self.text.strip()))
            size = output_size(width, window, stride, padding)
        except ValueError as error:
            LOGGER.warning("%s", error, type="course", subtype="steps", location=self.get_location())
            return [], []
        line = f"⌊({width} − {window} + 2·{padding}) / {stride}⌋ + 1 = {size}"
        return [nodes.inline("", line, classes=["positions"])], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the directive and the role."""
    app.add_directive("window-steps", Steps)
    app.add_role("positions", Positions())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
