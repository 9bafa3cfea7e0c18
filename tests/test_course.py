"""The book's own Sphinx extension: stamps and pasted results, alone and in a small build."""

import json
import re
import sys
from io import StringIO
from pathlib import Path
from types import MappingProxyType

import pytest
from myst_nb.ext.glue.crossref import read_glue_cache
from nbformat import from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import course

STAMP = {
    "budget": "cpu",
    "data": "MNIST",
    "device": "a processor, 2 cores",
    "torch": "2.14.1",
    "python": "3.11.9",
    "date": "2026-11-23",
    "wall_seconds": 1620.4,
}


# ---- stamps --------------------------------------------------------------------------------------------


def write_notebook(
    path: Path, *, stamp: dict | None = None, text: str = "", outputs: dict = MappingProxyType({})
) -> Path:
    """A notebook with one page of text and one code cell that recorded `outputs`."""
    prefix = "application/papermill.record/"
    stored = [
        {
            "output_type": "display_data",
            "data": {f"{prefix}text/plain": repr(shown)},
            "metadata": {"scrapbook": {"name": key, "mime_prefix": prefix}},
        }
        for key, shown in outputs.items()
    ]
    code = new_code_cell("", execution_count=1, outputs=[from_dict(output) for output in stored])
    notebook = new_notebook(cells=[new_markdown_cell(f"# A notebook\n\n{text}"), code])
    notebook.metadata = {"course": {"stamp": stamp}} if stamp else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(notebook), "utf-8")
    return path


def test_stamp_text_names_everything_a_number_depends_on(tmp_path):
    text = course.stamp_text(write_notebook(tmp_path / "a.ipynb", stamp=STAMP))
    run = "cpu budget · MNIST · a processor, 2 cores · torch 2.14.1 · Python 3.11.9"
    assert text == f"{run} · 2026-11-23 · 1,620 s"


@pytest.mark.parametrize(
    ("how", "text"),
    [("brief", "cpu budget · a processor, 2 cores · 2026-11-23"), ("time", "27 min 00 s")],
)
def test_stamp_text_can_be_brief_or_the_time_alone(tmp_path, how, text):
    assert course.stamp_text(write_notebook(tmp_path / "a.ipynb", stamp=STAMP), how) == text


def test_stamp_text_of_a_short_run_has_no_minutes(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", stamp=STAMP | {"wall_seconds": 9.4})
    assert course.stamp_text(path, "time") == "9 s"


def test_stamp_text_rejects_another_kind(tmp_path):
    with pytest.raises(ValueError, match="'long' is no kind of stamp: write brief, time or nothing"):
        course.stamp_text(write_notebook(tmp_path / "a.ipynb", stamp=STAMP), "long")


def test_stamp_text_rejects_a_notebook_without_stamp(tmp_path):
    with pytest.raises(ValueError, match="no stamp: run it with"):
        course.stamp_text(write_notebook(tmp_path / "a.ipynb"))


def test_stamp_text_names_the_missing_entry(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", stamp={key: STAMP[key] for key in STAMP if key != "date"})
    with pytest.raises(ValueError, match="lacks 'date'"):
        course.stamp_text(path)


# ---- a small build -------------------------------------------------------------------------------------

CONFIG = {
    "extensions": ["myst_nb", "course", "mathml"],
    "html_theme": "basic",
    "nb_execution_mode": "off",
    "html_math_renderer": "mathml",
    "myst_enable_extensions": ["dollarmath"],
    "nitpicky": True,
}
TOC = "```{toctree}\nnotebooks/01_net\n```\n"


class Book:
    """A book of one page and one notebook, built by Sphinx in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out = folder / "source", folder / "out" / "html"
        self.source.mkdir()

    def build(
        self, page="", notebook="", *, outputs=MappingProxyType({}), stamp=MappingProxyType(STAMP)
    ) -> str:
        """Write the sources that changed, build, and return the warnings."""
        index, text = self.source / "index.md", f"# A book\n\n{page}\n\n{TOC}"
        if not index.exists() or index.read_text("utf-8") != text:
            index.write_text(text, "utf-8")
        path = self.source / "notebooks" / "01_net.ipynb"
        write_notebook(path, text=notebook, outputs=outputs, stamp=stamp and dict(stamp))
        read_glue_cache.cache_clear()  # myst-nb keeps it as long as the process lives
        warnings = StringIO()
        with patch_docutils(), docutils_namespace():
            places = {
                "srcdir": self.source,
                "confdir": None,
                "outdir": self.out,
                "doctreedir": self.out.parent,
            }
            Sphinx(**places, buildername="html", confoverrides=CONFIG, status=None, warning=warnings).build()
        return re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue())  # no colours

    def read(self, page: str) -> str:
        """The source of a built page."""
        return (self.out / f"{page}.html").read_text("utf-8")


@pytest.fixture
def book(tmp_path) -> Book:
    return Book(tmp_path)


def test_build_pastes_results_exactly_as_recorded(book):
    texts = {"net-accuracy": "97.40 %", "net-parameters": "61,706", "net-rate": "1e-3"}
    pasted = " and ".join(f"{{here}}`01_net:{key}`" for key in texts)
    own = " and ".join(f"{{glue:text}}`{key}`" for key in texts)
    assert book.build(f"{pasted}, {{stamp}}`01_net`", own, outputs=texts) == ""
    for page in ("index", "notebooks/01_net"):
        shown = [part.split("<")[0] for part in book.read(page).split('<span class="pasted-text">')[1:]]
        assert shown == list(texts.values())
        assert "cpu budget · MNIST" in book.read(page)


def test_build_pastes_again_when_only_the_notebook_changed(book):
    page = "{here}`01_net:net-accuracy`"
    book.build(page, outputs={"net-accuracy": "97.40 %"})
    assert book.build(page, outputs={"net-accuracy": "97.99 %"}) == ""
    assert "97.99 %" in book.read("index")
    assert "'net-accuracy' not found" in book.build(page, outputs={})


def test_build_warns_of_all_that_it_cannot_show(book):
    page = "{here}`01_net:no-such-key` {here}`09_none:net-accuracy` {stamp}`09_none` $\\nosuchcommand$"
    warnings = book.build(page, outputs={"net-accuracy": "97.40 %"}, stamp=None)
    for expected in (
        "'no-such-key' not found in doc 'notebooks/01_net'",
        "'net-accuracy' not found in doc 'notebooks/09_none'",
        "there is no notebook 09_none",
        "01_net.ipynb has no stamp",
        "latex2mathml doesn't know \\nosuchcommand",
    ):
        assert expected in warnings
    assert len(warnings.strip().splitlines()) == 5


def test_build_numbers_a_labelled_formula_and_links_to_it(book):
    assert book.build("$$a = b$$ (eq-size)\n\nBy {eq}`eq-size`.") == ""
    assert '<span class="eqno">(1)<a class="headerlink" href="#equation-eq-size"' in book.read("index")
    assert 'href="#equation-eq-size">(1)</a>' in book.read("index")
