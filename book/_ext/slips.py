"""The page of all slips: what the notebooks recorded as `slip-1`, `slip-2` …, in a list for each notebook."""

from __future__ import annotations

import re
from pathlib import Path

import project  # noqa: F401  (helpers on the path)
from docutils import nodes
from docutils.statemachine import StringList
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from helpers.stamps import read, records

LOGGER = logging.getLogger(__name__)
SECTION = "8-what-the-article-got-wrong"  # anchor of the part of a notebook where its slips are shown


def slips(notebook: NotebookNode) -> list[str]:
    """The slips that a notebook recorded, in order of their numbers.

    Raises:
        ValueError: a number is missing.
    """
    found = {}
    for key, text in records(notebook).items():
        if match := re.fullmatch(r"slip-(\d+)", key):
            found[int(match[1])] = text
    if sorted(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"the slips are numbered {', '.join(map(str, sorted(found)))}")
    return [found[number] for number in sorted(found)]


def title(notebook: NotebookNode) -> str:
    """The heading of a notebook's page.

    Raises:
        ValueError: the first cell does not start with one.
    """
    match = re.match(r"# (.+)", notebook.cells[0].source)
    if not match:
        raise ValueError("the first cell has no heading")
    return match[1].strip()


class Slips(SphinxDirective):
    """``{slips}``: a sentence with their number, then a section for each notebook."""

    def run(self) -> list[nodes.Node]:
        """Return the sentence and the sections; warn of a notebook that cannot be read."""
        self.env.note_reread()  # notebooks come and go
        sections, total = [], 0
        for path in sorted(Path(self.env.srcdir, "notebooks").glob("[0-9][0-9]*_*.ipynb")):
            try:
                notebook = read(path.stem, path.parent)
                found = slips(notebook)
                if found:
                    sections.append(self._section(path.stem, title(notebook), found))
            except ValueError as error:
                where = {"type": "course", "subtype": "slips", "location": self.get_location()}
                LOGGER.warning("%s: %s", path.name, error, **where)
                continue
            total += len(found)
        if not sections:
            LOGGER.warning(
                "no notebook recorded a slip", type="course", subtype="slips", location=self.get_location()
            )
        sentence = (
            f"**{total} mistakes** were found in {len(sections)} articles. "
            "Each has its check, in part 8 of the article's notebook."
        )
        return [*self._parse(sentence), *sections]

    def _section(self, name: str, heading: str, found: list[str]) -> nodes.section:
        """One notebook: how many slips, where they are checked, and which."""
        mistakes = f"{len(found)} mistake{'s' * (len(found) > 1)}"
        lines = [f"{mistakes}, [checked in part 8](/notebooks/{name}.ipynb#{SECTION}).", ""]
        lines += [f"{number}. {text}" for number, text in enumerate(found, 1)]
        section = nodes.section("", nodes.title("", heading), names=[nodes.fully_normalize_name(heading)])
        self.state.document.note_implicit_target(section, section)
        section += self._parse("\n".join(lines))
        return section

    def _parse(self, source: str) -> list[nodes.Node]:
        """Markdown as nodes."""
        holder = nodes.Element()
        self.state.nested_parse(StringList(source.splitlines(), source="slips"), self.content_offset, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the directive."""
    app.add_directive("slips", Slips)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
