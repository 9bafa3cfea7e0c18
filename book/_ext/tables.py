"""Numbered tables: made from rows of text, and those that code cells put out.

A code cell whose metadata say `"table": {"caption": "…", "name": "table-…"}` shows one table, in Markdown
or in HTML. In the book it gets a number and the caption, its own behind it, and ``{numref}`table-…` `` refers
to it on every page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
Row = Sequence[str]


def table(
    caption: str,
    header: Row,
    rows: Sequence[Row],
    *,
    classes: list[str],
    widths: Row | Sequence[int] = (),
    stub: int = 0,
    literal: Sequence[int] = (),
) -> nodes.table:
    """A table of plain text, which Sphinx numbers.

    Args:
        caption: what it shows.
        header: the columns' heads.
        rows: as many cells each as there are heads.
        classes: for the style sheet.
        widths: of the columns, relative to each other; all are equal by default.
        stub: how many columns at the left name their row.
        literal: places of the columns that hold what a program prints, quotes and all.
    """
    group = nodes.tgroup("", cols=len(header))
    for place, width in enumerate(widths or [1] * len(header)):
        group += nodes.colspec(colwidth=width, **({"stub": 1} if place < stub else {}))
    for part, lines in ((nodes.thead(), [header]), (nodes.tbody(), rows)):
        for line in lines:
            printed = literal if part.tagname == "tbody" else ()
            part += nodes.row("", *(_entry(cell, place in printed) for place, cell in enumerate(line)))
        group += part
    return nodes.table("", nodes.title("", caption), group, classes=classes)


def _entry(cell: str, literal: bool) -> nodes.entry:
    """One cell."""
    inner = nodes.literal("", cell) if literal else nodes.Text(cell)
    return nodes.entry("", nodes.paragraph("", "", inner))


def from_html(source: str) -> nodes.table | None:
    """The one table in a piece of HTML, with its caption; None if there isn't just one, or it is uneven."""
    found = BeautifulSoup(source, "html.parser").find_all("table")
    if len(found) != 1:
        return None
    lines = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in found[0].find_all("tr")]
    if len({len(line) for line in lines}) != 1:
        return None
    stub = len(found[0].select("tbody tr:first-child > th"))
    own = found[0].caption
    return table(
        own.get_text() if own else "", lines[0], lines[1:], classes=list(found[0].get("class", [])), stub=stub
    )


class NumberTables(SphinxTransform):
    """Give the tables of a notebook's outputs their captions and names."""

    default_priority = 700  # before Sphinx takes note of what can be referred to

    def apply(self, **_: Any) -> None:
        """Do so, or warn of a cell that says it has a table and shows none, or several."""
        for cell in list(self.document.findall(nodes.container)):
            wanted = cell.get("cell_metadata", {}).get("table")
            if not wanted:
                continue
            for raw in list(cell.findall(nodes.raw)):
                made = from_html(raw.astext()) if raw["format"] == "html" else None
                if made is not None:
                    raw.parent.replace(raw, made)  # replace_self would hand the classes of raw HTML on
            found = list(cell.findall(nodes.table))
            if len(found) != 1 or set(wanted) != {"caption", "name"}:
                LOGGER.warning(
                    "a cell with the metadata %r must show one table, and shows %d",
                    wanted,
                    len(found),
                    type="course",
                    subtype="tables",
                    location=cell,
                )
                continue
            own = [title.astext() for title in found[0].findall(nodes.title)]
            caption = ": ".join([wanted["caption"].rstrip("."), *filter(None, own)])
            found[0][:] = [nodes.title("", f"{caption}."), *found[0].findall(nodes.tgroup)]
            found[0]["names"].append(nodes.fully_normalize_name(wanted["name"]))
            self.document.note_explicit_target(found[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform with Sphinx."""
    app.add_transform(NumberTables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
