"""The tables of the page on reliability, from book/reliability.json: nothing in them is typed by hand.

- ``{faults}``: fault, times tried, what happened, lost.
- ``{bad-inputs}``: every bad input with the message that it got. Both take a `name` to refer to.
- ``{soak}`key` ``: a number of the soak run, as in ``{soak}`kills` ``, or of its machine.

`make soak ARGS=--store` and `python tests/bad_inputs.py` write the file; without it the strict build stops.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import tables
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

LOGGER = logging.getLogger(__name__)
RESULTS = "book/reliability.json"
Row = tuple[str, ...]


def read(srcdir: str) -> dict[str, Any]:
    """The stored results.

    Raises:
        ValueError: the file is missing, or is no such file.
    """
    path = Path(srcdir) / RESULTS
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {part: stored[part] for part in ("machine", "networks", "inputs")}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{RESULTS} can't be used ({error}): run make soak, tests/bad_inputs.py") from error


def totals(stored: dict[str, Any]) -> dict[str, Any]:
    """The soak's counts over all networks, and what is known of its machine."""
    counts = Counter()
    for network in stored["networks"]:
        counts.update({key: value for key, value in network.items() if key != "network"})
    return {**stored["machine"], **counts, "inputs": len(stored["inputs"])}


def fault_rows(stored: dict[str, Any]) -> list[Row]:
    """Fault, times tried, what happened, lost: one row a network, then one a group of bad inputs."""
    rows = [
        (
            f"{network['network']}: killed while training or saving",
            f"{network['kills']:,}",
            f"{network['runs']:,} runs resumed to their end; {network['bits_different']:,} of "
            f"{network['bits_compared']:,} bits differ from the uninterrupted run",
            f"{network['checkpoints_lost']:,} checkpoints",
        )
        for network in stored["networks"]
    ]
    for group in dict.fromkeys(row["group"] for row in stored["inputs"]):
        own = [row for row in stored["inputs"] if row["group"] == group]
        happened = Counter(row["happened"] for row in own)
        words = ", ".join(f"{count:,} {what}" for what, count in happened.items())
        rows.append((f"bad {group}", f"{len(own):,}", words, f"{sum(row['lost'] for row in own):,} files"))
    return rows


def input_rows(stored: dict[str, Any]) -> list[Row]:
    """Group, bad input, what happened, message."""
    return [(r["group"], r["name"], r["happened"], r["message"] or "–") for r in stored["inputs"]]


class _Table(SphinxDirective):
    """A table of the stored results, or a warning."""

    option_spec: ClassVar[dict[str, Any]] = {"name": directives.unchanged}

    header: Row
    widths: tuple[int, ...]
    literal: tuple[int, ...] = ()
    caption: str
    rows: Any

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        self.env.note_dependency(str(Path(self.env.srcdir) / RESULTS))
        try:
            rows = type(self).rows(read(self.env.srcdir))
            numbered = tables.table(
                self.caption,
                self.header,
                rows,
                classes=["reliability"],
                widths=self.widths,
                literal=self.literal,
            )
            self.add_name(numbered)
            return [numbered]
        except ValueError as error:
            LOGGER.warning("%s", error, type="course", subtype="reliability", location=self.get_location())
            return []


class Faults(_Table):
    """``{faults}``: what was tried, how often, and what came of it."""

    header = ("fault", "times tried", "what happened", "lost")
    widths = (35, 10, 40, 15)
    caption = "What was tried, and what was lost."
    rows = staticmethod(fault_rows)


class BadInputs(_Table):
    """``{bad-inputs}``: every bad input and its message."""

    header = ("what is bad", "how", "what happened", "message")
    widths = (12, 23, 10, 55)
    literal = (3,)
    caption = "Every bad input, and what it is told."
    rows = staticmethod(input_rows)


class Soak(SphinxRole):
    """``{soak}`kills` ``: one of the totals."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Paste the text, or warn."""
        self.env.note_dependency(str(Path(self.env.srcdir) / RESULTS))
        try:
            value = totals(read(self.env.srcdir))[self.text]
        except (ValueError, KeyError) as error:
            LOGGER.warning("%s", error, type="course", subtype="reliability", location=self.get_location())
            return [], []
        return [nodes.inline("", f"{value:,}" if isinstance(value, int) else str(value))], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of the above with Sphinx."""
    app.add_directive("faults", Faults)
    app.add_directive("bad-inputs", BadInputs)
    app.add_role("soak", Soak())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
