"""What several test modules share: no dials from outside, and a small course in a temporary folder."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks, several workers; before torch is imported

import contextlib
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook


@pytest.fixture(autouse=True)
def no_dials(monkeypatch):
    """Tests start from the defaults, whatever the shell has set."""
    monkeypatch.delenv("COURSE_BUDGET", raising=False)
    monkeypatch.delenv("COURSE_DATA", raising=False)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course in a folder of its own: `course(name, *cells)` writes a notebook and returns its path.

    A cell is a node, or the source of a code cell.
    """
    from helpers import notebooks, runtime, stamps

    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text("title: small\n")
    monkeypatch.setattr(runtime, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(stamps, "NOTEBOOKS", folder)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder)
    monkeypatch.setattr(notebooks, "RUN_FOLDER", tmp_path / "_build" / "run")

    def write(name, *cells, stamp=None):
        nodes = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        metadata = {"course": {"stamp": stamp}} if stamp else {}
        path = folder / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=nodes, metadata=metadata), path)
        return path

    return write


@pytest.fixture
def build_page(tmp_path):
    """`build_page(text, extension, notebooks)` builds one page; returns its source and the warnings.

    The notebooks are nodes by name. They are on the book's path, but the models still come from the course.
    """
    from io import StringIO

    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    def build(text, extension, notebooks):
        source, out, warnings = tmp_path / "source", tmp_path / "html", StringIO()
        (source / "notebooks").mkdir(parents=True, exist_ok=True)
        for name, notebook in notebooks.items():
            nbformat.write(notebook, source / "notebooks" / f"{name}.ipynb")
        toc = "\n".join(f"notebooks/{name}" for name in notebooks)
        (source / "index.md").write_text(f"# A page\n\n{text}\n\n```{{toctree}}\n{toc}\n```\n", "utf-8")
        settings = {"extensions": ["myst_nb", extension], "nb_execution_mode": "off", "numfig": True}
        settings |= {"html_theme": "basic", "myst_heading_anchors": 3, "nb_render_markdown_format": "myst"}
        with patch_docutils(), docutils_namespace():
            places = {"srcdir": source, "confdir": None, "outdir": out, "doctreedir": tmp_path / "trees"}
            Sphinx(
                **places, buildername="html", confoverrides=settings, status=None, warning=warnings
            ).build()
        return (out / "index.html").read_text("utf-8"), warnings.getvalue()

    return build


@contextlib.contextmanager
def nobody():
    """As a user without rights, where this process is the superuser, whom no folder keeps out."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@pytest.fixture
def unwritable():
    """A folder outside `tmp_path` and a context: inside it nothing can be written into that folder.

    The superuser, whom no folder keeps out, becomes a user without rights meanwhile.
    """
    if os.name != "posix":
        pytest.skip("the rights of folders are not those of Windows")

    @contextlib.contextmanager
    def protect(folder):
        folder.chmod(0o555)
        try:
            with nobody():
                yield
        finally:
            folder.chmod(0o755)

    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name), protect
