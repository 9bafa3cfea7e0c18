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


def test_pdf_that_lacks_a_place_is_refused(tmp_path):
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.add_named_destination("book/intro", 0)
    writer.write(tmp_path / "book.pdf")
    assert pdf.page_numbers(tmp_path / "book.pdf", ["book/intro"]) == {"book/intro": 1}
    with pytest.raises(ValueError, match=r"is not whole: it lacks 1 places, the first is book/results"):
        pdf.page_numbers(tmp_path / "book.pdf", ["book/intro", "book/results"])


def outline(reader, items=None, depth=0):
    """Depth, text and page of each entry of a PDF's outline, in order."""
    for item in reader.outline if items is None else items:
        if isinstance(item, list):
            yield from outline(reader, item, depth + 1)
        else:
            yield depth, item.title, reader.get_destination_page_number(item) + 1


def test_outline_nests_the_headings(tmp_path):
    path, writer = tmp_path / "book.pdf", pypdf.PdfWriter()
    for _ in range(3):
        writer.add_blank_page(100, 100)
    writer.write(path)
    listed = [
        (0, "Contents", "c"),
        (0, "One", "one"),
        (1, "In", "in"),
        (2, "Deep", "deep"),
        (0, "Two", "two"),
    ]
    pdf.write_outline(path, listed, {"c": 1, "one": 1, "in": 2, "deep": 2, "two": 3})
    expected = [(0, "Contents", 1), (0, "One", 1), (1, "In", 2), (2, "Deep", 2), (0, "Two", 3)]
    assert list(outline(pypdf.PdfReader(path))) == expected


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The PDF of some built pages: all but the notebooks after the first, which only take longer."""
    if not chromium.find():
        pytest.skip(chromium.NEEDED)
    path = tmp_path_factory.mktemp("pdf") / "book.pdf"
    numbers = pdf.make(HTML, path, PAGES)
    return path, pypdf.PdfReader(path), numbers


def shown(page):
    """The text of a page without regard to spaces, which a PDF need not keep."""
    return "".join(page.extract_text().split())


def headings(page):
    """The texts of a built page's headings, its title first."""
    article = BeautifulSoup((HTML / f"{page}.html").read_text("utf-8"), "html.parser").find("article")
    for tag in article.select(".headerlink, .onlyprint"):
        tag.decompose()
    return [" ".join(tag.get_text().split()) for tag in article(["h1", "h2", "h3", "h4", "h5", "h6"])]


def test_pdf_has_every_chapter_in_order_where_the_outline_and_the_contents_say(printed):
    _, reader, numbers = printed
    titles = {page: headings(page)[0] for page in PAGES}
    tops = {text: number for depth, text, number in outline(reader) if depth == 0}
    assert tops == {"Contents": numbers["contents"], **{titles[page]: numbers[page] for page in PAGES}}
    assert list(tops.values()) == sorted(set(tops.values()))
    contents = shown(reader.pages[numbers["contents"] - 1])
    for page, title in titles.items():
        assert "".join(title.split()) in shown(reader.pages[numbers[page] - 1])
        assert "".join(title.split()) + str(numbers[page]) in contents


def test_outline_has_every_heading_once_in_order(printed):
    entries = list(outline(printed[1]))
    assert [text for _, text, _ in entries] == [
        "Contents",
        *(text for page in PAGES for text in headings(page)),
    ]
    numbers = [number for _, _, number in entries]
    assert numbers == sorted(numbers)


def test_pdf_is_a4_numbered_and_of_bearable_size(printed):
    path, reader, _ = printed
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
