"""One setting, `repository.url`, and the Colab and Binder buttons of every notebook page come alive."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

from helpers import stamps

ROOT = Path(__file__).resolve().parent.parent
URL = "https://github.com/someone/classic-cnns"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The whole book, strictly built with an address."""
    folder = tmp_path_factory.mktemp("published")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    config["repository"]["url"] = URL
    (folder / "_config.yml").write_text(yaml.safe_dump(config), "utf-8")
    for part in ("book", "notebooks", "helpers"):
        leave_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / part, folder / part, ignore=leave_out)
    builder = "from jupyter_book.cli.main import main; main()"
    toc = str(folder / "book" / "_toc.yml")
    done = subprocess.run(
        [sys.executable, "-c", builder, "build", str(folder), "--toc", toc, "-nW", "--keep-going"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "_build" / "html"


def buttons(page: Path) -> dict[str, str]:
    """Where the buttons above a page lead, by what they are called."""
    tree = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    found = tree.select(".article-header-buttons a[href]")
    return {" ".join(button.get_text().split()): button["href"] for button in found}


@pytest.mark.parametrize("name", stamps.names())
def test_with_an_address_every_button_leads_to_the_notebook(published, name):
    assert buttons(published / "notebooks" / f"{name}.html") == {
        "Colab": f"https://colab.research.google.com/github/someone/classic-cnns/blob/main/notebooks/{name}.ipynb",
        "Binder": f"https://mybinder.org/v2/gh/someone/classic-cnns/main?urlpath=lab/tree/notebooks/{name}.ipynb",
        ".ipynb": f"../_sources/notebooks/{name}.ipynb",
    }


def test_with_an_address_pages_that_are_no_notebooks_offer_none(published):
    for page in (published / "book").glob("*.html"):
        assert set(buttons(page)) <= {".md"}, page.name


def test_with_an_address_the_pages_still_load_nothing_from_elsewhere(published):
    pages = list((published / "notebooks").glob("*.html"))
    assert len(pages) == len(stamps.names())
    for page in pages:
        tree = BeautifulSoup(page.read_text("utf-8"), "html.parser")
        loaded = [tag["src"] for tag in tree.select("[src]")] + [
            tag["href"] for tag in tree.select("link[href]")
        ]
        assert [address for address in loaded if re.match(r"(?:[a-z]+:)?//", address)] == [], page.name


@pytest.mark.parametrize("name", stamps.names())
def test_the_stored_book_offers_what_its_address_allows(name):
    folder = Path(os.environ.get("COURSE_HTML") or ROOT / "_build" / "html")
    page = folder / "notebooks" / f"{name}.html"
    address = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"]
    assert set(buttons(page)) == ({"Colab", "Binder", ".ipynb"} if address else {".ipynb"})
    downloaded = page.parent / buttons(page)[".ipynb"]
    assert downloaded.read_bytes() == (ROOT / "notebooks" / f"{name}.ipynb").read_bytes()
