"""The whole book as one PDF: `make pdf`.

The articles of all built pages are put one after another into one document, in the order of book/_toc.yml,
and Chromium prints it, without network. So links between pages lead inside the PDF. pypdf writes
its outline, from every heading of the book.
Solutions are unfolded and all tabs shown, since paper can't be clicked.
"""

from __future__ import annotations

import logging
import re
import sys
from html import escape
from pathlib import Path
from posixpath import normpath
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from pypdf import PdfReader, PdfWriter
from pypdf.generic import IndirectObject

sys.path.insert(0, str(Path(__file__).resolve().parent))
import chromium

logging.getLogger("pypdf").setLevel(logging.ERROR)  # Chromium counts its objects wrongly; nothing is lost
BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
NOT_PRINTED = "script, .headerlink, .onlyprint, .toggle-button, .definition, .prev-next-footer, .copybtn"
POINTERS = ("aria-labelledby", "aria-describedby", "for")  # attributes that name ids
FOOTER = """<div style="width: 100%; font: 8px sans-serif; color: #55606e; text-align: center">
<span class="pageNumber"></span></div>"""
CONTENTS = "contents"
HEADING = re.compile(r"^h[1-6]$")


def chapters(toc: Path = BOOK / "_toc.yml") -> list[str]:
    """The pages in reading order, as paths without suffix."""
    listed = yaml.safe_load(toc.read_text("utf-8"))
    return [listed["root"], *(chapter["file"] for part in listed["parts"] for chapter in part["chapters"])]


def anchor(page: str, fragment: str = "") -> str:
    """The id that a place of a page has in the one document: ids of different pages may be the same."""
    return f"{page}--{fragment}" if fragment else page


def article(html: Path, page: str, pages: list[str]) -> Tag:
    """What a page says, with its ids and links as the one document needs them.

    Raises:
        ValueError: the page isn't built.
    """
    path = html / f"{page}.html"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `make book` first")
    found = BeautifulSoup(path.read_text("utf-8"), "html.parser").find("article")
    for tag in found.select(NOT_PRINTED):
        tag.decompose()
    for tag in found.find_all(True):
        if tag.get("id"):
            tag["id"] = anchor(page, tag["id"])
        for name in POINTERS:
            if tag.get(name):
                tag[name] = " ".join(anchor(page, each) for each in tag[name].split())
        if tag.name == "input" and tag.get("name"):
            tag["name"] = anchor(page, tag["name"])
        if tag.get("src") and not urlsplit(tag["src"]).scheme:
            tag["src"] = (path.parent / tag["src"]).resolve().as_uri()
        if tag.name == "a" and tag.get("href"):
            tag["href"] = link(page, tag["href"], pages)
        if tag.name == "details":
            tag["open"] = ""
    found["id"] = page
    found["class"] = "bd-article chapter"
    return found


def link(page: str, address: str, pages: list[str]) -> str:
    """Where a link of a page leads in the one document; addresses outside the book stay as they are."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return address
    target = normpath(f"{page}/../{parts.path}").removesuffix(".html") if parts.path else page
    return f"#{anchor(target, parts.fragment)}" if target in pages else f"#{CONTENTS}"


def contents(articles: dict[str, Tag], numbers: dict[str, int]) -> str:
    """The table of contents, with page numbers as far as they are known."""
    rows = []
    for page, tag in articles.items():
        number = numbers.get(page, "")
        rows.append(f'<li><a href="#{page}"><span>{escape(title(tag))}</span><span>{number}</span></a></li>')
    return f'<nav id="{CONTENTS}" class="bd-article chapter"><h1>Contents</h1><ol>{"".join(rows)}</ol></nav>'


def headings(page: str, found: Tag) -> list[tuple[int, str, str]]:
    """Depth (0 for the page's title), text and id of each heading of a page; the ids are given here.

    The title's is the page's own: where the chapter begins.
    """
    listed = []
    for count, tag in enumerate(found(HEADING)):
        place = page
        if count:
            place = tag["id"] = tag.get("id") or anchor(page, f"heading-{count}")
        listed.append((int(tag.name[1]) - 1, " ".join(tag.get_text().split()), place))
    return listed


def title(found: Tag) -> str:
    """The heading of a page."""
    return " ".join(found.find("h1").get_text().split())


def document(html: Path, articles: dict[str, Tag], places: list[str], numbers: dict[str, int]) -> str:
    """The one document: cover, contents and all articles, with the style sheets of the book and of paper.

    Each place is the target of a link that isn't shown: a browser writes such places into a PDF by name.
    """
    front = BeautifulSoup((html / "book" / "intro.html").read_text("utf-8"), "html.parser")
    sheets = [
        (html / "book" / urlsplit(tag["href"]).path).resolve().as_uri()
        for tag in front.select('head link[rel="stylesheet"]')
    ]
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    name, writer = settings["title"], settings["author"]
    head = "".join(f'<link rel="stylesheet" href="{sheet}">' for sheet in sheets)
    logo = (BOOK / "_static" / "logo.svg").as_uri()
    targets = "".join(f'<a href="#{escape(place)}"></a>' for place in places)
    cover = f'<img src="{logo}" alt=""><p class="title">{name}</p><p>{writer}</p>'
    return (
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{name}</title>{head}<style>{(BOOK / 'print.css').read_text('utf-8')}</style></head>"
        f'<body><main class="bd-main"><div class="bd-content"><section class="cover">{cover}</section>'
        f"{contents(articles, numbers)}{''.join(map(str, articles.values()))}</div></main>"
        f"{targets}</body></html>"
    )


def page_numbers(pdf: Path, places: list[str]) -> dict[str, int]:
    """The number of the page on which each place lies, by its id.

    Raises:
        ValueError: the PDF lacks one of them.
    """
    reader = PdfReader(pdf)
    # PDF names are latin-1, and pypdf gives what Chromium has written percent-encoded or not.
    found = {unquote(name.removeprefix("/")): place for name, place in reader.named_destinations.items()}
    missing = [place for place in places if place not in found]
    if missing:
        raise ValueError(f"{pdf} is not whole: it lacks {len(missing)} places, the first is {missing[0]}")
    return {place: reader.get_destination_page_number(found[place]) + 1 for place in places}


def write_outline(pdf: Path, listed: list[tuple[int, str, str]], numbers: dict[str, int]) -> None:
    """Give a PDF an outline: depth, text and place of each entry."""
    writer = PdfWriter(clone_from=pdf)
    parents: list[tuple[int, IndirectObject]] = []
    for depth, text, place in listed:
        while parents and parents[-1][0] >= depth:
            parents.pop()
        parent = parents[-1][1] if parents else None
        parents.append((depth, writer.add_outline_item(text, numbers[place] - 1, parent, is_open=False)))
    writer.write(pdf)


def make(html: Path, pdf: Path, pages: list[str]) -> dict[str, int]:
    """Print built pages into one PDF; return the page on which each chapter begins, the contents first.

    Outline and page numbers come from the book's own headings and ids, not from what a browser makes of them.

    Args:
        html: folder of the built book.
        pdf: file to write.
        pages: what to print, in order, as paths without suffix.

    Raises:
        FileNotFoundError: there is no Chromium.
        ValueError: a page isn't built, or the PDF lacks one.
    """
    articles = {page: article(html, page, pages) for page in pages}
    listed = [(0, "Contents", CONTENTS)]
    for page, tag in articles.items():
        listed += headings(page, tag)
    places = [place for _, _, place in listed]
    source = pdf.with_suffix(".html")
    with chromium.browser() as browser:
        tab = browser.new_context(offline=True).new_page()
        numbers: dict[str, int] = {}
        for _ in range(2):  # the first print says on which pages the chapters begin, the second names them
            source.write_text(document(html, articles, places, numbers), "utf-8")
            tab.goto(source.resolve().as_uri())
            tab.pdf(
                path=pdf,
                format="A4",
                margin={"top": "18mm", "bottom": "18mm", "left": "17mm", "right": "17mm"},
                print_background=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOTER,
                outline=False,
                tagged=True,
            )
            numbers = page_numbers(pdf, places)
    source.unlink()
    write_outline(pdf, listed, numbers)
    return {place: numbers[place] for place in (CONTENTS, *pages)}


def main(arguments: list[str]) -> None:
    """`python book/pdf.py HTML PDF`."""
    html, pdf = map(Path, arguments)
    try:
        numbers = make(html, pdf, chapters())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    print(f"{pdf}: {len(numbers) - 1} chapters, {pdf.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
