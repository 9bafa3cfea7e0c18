"""The book as one PDF: whole, in order, with an outline, its links inside and its code unfolded."""

import os
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "book"))
import chromium  # noqa: E402 - its folder is on the path only now

pypdf = pytest.importorskip("pypdf", reason="pypdf isn't installed: make test sets it up")
import pdf  # noqa: E402

HTML = Path(os.environ.get("COURSE_HTML") or PROJECT / "_build" / "html").resolve()
LIMIT = 15_000_000  # bytes
PAGES = [name for name in pdf.chapters() if not name.startswith("notebooks/0") or name.endswith("basics")]
A4 = (595, 842)  # points


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("https://example.org/a.html", "https://example.org/a.html"),
        ("#here", "#notebooks/one--here"),
        ("two.html", "#notebooks/two"),
        ("../book/three.html#there", "#book/three--there"),
        ("../_static/logo.svg", "#contents"),
    ],
)
def test_link_leads_inside_the_document(address, place):
    assert pdf.link("notebooks/one", address, ["notebooks/one", "notebooks/two", "book/three"]) == place


def test_missing_page_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"book/intro\.html is missing: run `make book` first"):
        pdf.article(tmp_path, "book/intro", ["book/intro"])


def test_without_chromium_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "no-such-program")
    with pytest.raises(FileNotFoundError, match=r"^Chromium is needed: install"), chromium.browser():
        pass


def test_incomplete_pdf_is_refused(monkeypatch, tmp_path):
    if not chromium.find():
        pytest.skip(chromium.NEEDED)
    monkeypatch.setattr(pdf, "mend_outline", lambda path, headings: None)
    monkeypatch.setattr(pdf, "page_numbers", lambda path: {"Contents": 1})
    with pytest.raises(ValueError, match=r"is not whole: its outline has \['Contents'\], the book"):
        pdf.make(HTML, tmp_path / "book.pdf", ["book/references"])


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The PDF of some built pages: all but the notebooks after the first, which only take longer."""
    if not chromium.find():
        pytest.skip(chromium.NEEDED)
    path = tmp_path_factory.mktemp("pdf") / "book.pdf"
    pdf.make(HTML, path, PAGES)
    return path, pypdf.PdfReader(path)


def shown(page):
    """The text of a page without regard to spaces, which a PDF need not keep."""
    return "".join(page.extract_text().split())


def test_pdf_has_every_chapter_in_order_where_the_outline_and_the_contents_say(printed):
    path, reader = printed
    titles = []
    for name in PAGES:
        heading = BeautifulSoup((HTML / f"{name}.html").read_text("utf-8"), "html.parser").select_one(
            "article h1:not(.onlyprint h1)"
        )
        heading.select_one(".headerlink").decompose()
        titles.append(" ".join(heading.get_text().split()))
    numbers = pdf.page_numbers(path)
    assert list(numbers) == ["Contents", *titles]
    assert list(numbers.values()) == sorted(set(numbers.values()))
    contents = shown(reader.pages[numbers["Contents"] - 1])
    for title in titles:
        assert "".join(title.split()) in shown(reader.pages[numbers[title] - 1])
        assert "".join(title.split()) + str(numbers[title]) in contents


def test_pdf_is_a4_numbered_and_of_bearable_size(printed):
    path, reader = printed
    assert path.stat().st_size < LIMIT
    sizes = {tuple(map(float, page.mediabox[2:])) for page in reader.pages}
    assert all(abs(size - asked) < 2 for pair in sizes for size, asked in zip(pair, A4, strict=True))
    ends = [shown(page)[-6:] for page in reader.pages]
    assert [n for n, end in enumerate(ends, start=1) if not end.endswith(str(n))] == []


def test_pdf_shows_solutions_and_every_tab(printed):
    text = "".join(shown(page) for page in printed[1].pages)
    for page in PAGES:
        article = BeautifulSoup((HTML / f"{page}.html").read_text("utf-8"), "html.parser").find("article")
        for solution in article.select(".solution section p, .sd-tab-content pre"):
            words = "".join(solution.find(string=lambda part: len(part.strip()) > 3).split())
            assert words in text, f"{page}: {words}"


def test_pdf_links_lead_inside_the_pdf(printed):
    actions = [
        note.get_object().get("/A", {}).get("/URI", "")
        for page in printed[1].pages
        for note in page.get("/Annots", [])
    ]
    assert len(actions) > 100
    assert [address for address in actions if address.startswith("file:")] == []
