"""What the book adds to its pages: stamps, and results pasted from the notebooks.

- Every notebook page says under its title where its outputs come from (the stamp).
- ``{here}`01_lenet5:lenet5-test-accuracy` `` pastes a result that notebook 01_lenet5 stored with
  `helpers.runtime.record`; ``{stamp}`01_lenet5` `` pastes that notebook's stamp, and
  ``{stamp}`01_lenet5 brief` `` its budget, device and date, ``{stamp}`01_lenet5 time` `` how long it ran.

What can't be shown is a warning, and the strict build (`make book`) stops on warnings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from docutils import nodes
from myst_nb.ext.glue.utils import PendingGlueReference
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

LOGGER = logging.getLogger(__name__)
NOTEBOOKS = "notebooks/"


def stamp_text(notebook: Path, how: str = "") -> str:
    """What a notebook's stored outputs come from, in one line.

    Args:
        notebook: path of an executed notebook, stamped by `python -m helpers.notebooks`.
        how: "brief" for budget, device and date only, "time" for how long it ran; "" for all.

    Returns:
        For example "cpu budget · MNIST · AMD EPYC · torch 2.14.1 · Python 3.11.9 · 2026-11-23 · 9 s".

    Raises:
        ValueError: there is no such notebook, its stamp is missing or incomplete, or `how` is none of these.
    """
    try:
        metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
        stamp = metadata.get("course", {}).get("stamp")
        if not stamp:
            raise ValueError(f"{notebook.name} has no stamp: run it with `make full`")
        parts = [f"{stamp['budget']} budget", stamp["data"], stamp["device"], f"torch {stamp['torch']}"]
        if "bf16" in stamp:  # those of 2026-11-28 and before don't say
            parts += ["products in bfloat16 where asked for" if stamp["bf16"] else "float32"]
        parts += [f"Python {stamp['python']}", stamp["date"], f"{stamp['wall_seconds']:,.0f} s"]
        minutes, seconds = divmod(round(stamp["wall_seconds"]), 60)
        texts = {
            "": " · ".join(parts),
            "brief": " · ".join((parts[0], stamp["device"], stamp["date"])),
            "time": f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s",
        }
    except FileNotFoundError as error:
        raise ValueError(f"there is no notebook {notebook.stem}") from error
    except KeyError as error:
        raise ValueError(f"the stamp of {notebook.name} lacks {error}: run it with `make full`") from error
    if how not in texts:
        raise ValueError(f"{how!r} is no kind of stamp: write brief, time or nothing")
    return texts[how]


def add_stamp(app: Sphinx, doctree: nodes.document) -> None:
    """Put the stamp under the title of a notebook's page."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    try:
        text = f"Outputs on this page: {stamp_text(path)}."
    except ValueError as error:
        LOGGER.warning("%s", error, type="course", subtype="stamp", location=app.env.docname)
        return
    title = next(doctree.findall(nodes.title), None)
    if title is not None:
        note = nodes.paragraph("", text, classes=["course-stamp"])
        title.parent.insert(title.parent.index(title) + 1, note)


class Stamp(SphinxRole):
    """``{stamp}`01_lenet5` ``, also with `brief` or `time` behind it: the stamp of a notebook."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Paste the text, or warn."""
        name, _, how = (part.strip() for part in self.text.partition(" "))
        path = self.env.doc2path(NOTEBOOKS + name)
        self.env.note_dependency(path)
        try:
            look = [] if how == "time" else ["course-stamp"]
            return [nodes.inline("", stamp_text(Path(path), how), classes=look)], []
        except ValueError as error:
            LOGGER.warning("%s", error, type="course", subtype="stamp", location=self.get_location())
            return [], []


class Here(SphinxRole):
    """``{here}`01_lenet5:key` ``: the text that a notebook recorded under a key, on any page.

    myst-nb looks the key up and warns if there is none. Its own ``{glue:text}`path::key` `` would do if it
    didn't take the last colon for the start of a number format (myst-nb 1.4.0).
    """

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Leave a reference that myst-nb fills in once all pages are read."""
        notebook, _, key = self.text.partition(":")
        docname = NOTEBOOKS + notebook
        self.env.note_dependency(self.env.doc2path(docname))  # a new run of the notebook renews this page
        reference = PendingGlueReference(refdoc=docname, key=key, inline=True, gtype="text", fmt_spec="s")
        reference.source, reference.line = self.get_source_info()
        return [reference], []


def forget_results(app: Sphinx, env: object, docnames: Iterable[str]) -> None:
    """Remove what an earlier build noted of the pages about to be read, or deleted keys would live on."""
    for docname in docnames:
        Path(app.env.mystnb_config.output_folder, f"{docname}.glue.json").unlink(missing_ok=True)


def hide_launch_buttons(app: Sphinx, config: object) -> None:
    """Show the Colab and Binder buttons only if _config.yml sets `repository.url`: the one switch for all."""
    options = app.config.html_theme_options
    if not options.get("repository_url"):
        options.pop("launch_buttons", None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of the above with Sphinx."""
    app.add_role("here", Here())
    app.add_role("stamp", Stamp())
    app.connect("config-inited", hide_launch_buttons)
    app.connect("env-before-read-docs", forget_results)
    app.connect("doctree-read", add_stamp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
