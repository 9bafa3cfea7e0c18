"""The whole book as one PDF: `make pdf`.

The articles of all built pages are put one after another into one document, in the order of book/_toc.yml,
and Chromium prints it, without network. So links between pages lead inside the PDF, and its outline has every
heading.
Solutions are unfolded and all tabs shown, since paper can't be clicked.
"""

from __future__ import annotations

import logging
import re
import sys
from html import escape
from pathlib import Path
from posixpath import normpath
from urllib.parse import urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

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
        name = title(tag)
        number = numbers.get(joined(name), "")
        rows.append(f'<li><a href="#{page}"><span>{escape(name)}</span><span>{number}</span></a></li>')
    return f'<nav id="{CONTENTS}" class="bd-article chapter"><h1>Contents</h1><ol>{"".join(rows)}</ol></nav>'


def title(found: Tag) -> str:
    """The heading of a page."""
    return " ".join(found.find("h1").get_text().split())


def joined(text: str) -> str:
    """A text without its spaces: Chromium's outline drops those at which a line of a heading breaks."""
    return "".join(text.split())


def document(html: Path, articles: dict[str, Tag], numbers: dict[str, int]) -> str:
    """The one document: cover, contents and all articles, with the style sheets of the book and of paper."""
    front = BeautifulSoup((html / "book" / "intro.html").read_text("utf-8"), "html.parser")
    sheets = [
        (html / "book" / urlsplit(tag["href"]).path).resolve().as_uri()
        for tag in front.select('head link[rel="stylesheet"]')
    ]
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    name, writer = settings["title"], settings["author"]
    head = "".join(f'<link rel="stylesheet" href="{sheet}">' for sheet in sheets)
    logo = (BOOK / "_static" / "logo.svg").as_uri()
    cover = f'<img src="{logo}" alt=""><p class="title">{name}</p><p>{writer}</p>'
    return (
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{name}</title>{head}<style>{(BOOK / 'print.css').read_text('utf-8')}</style></head>"
        f'<body><main class="bd-main"><div class="bd-content"><section class="cover">{cover}</section>'
        f"{contents(articles, numbers)}{''.join(map(str, articles.values()))}</div></main></body></html>"
    )


def page_numbers(pdf: Path) -> dict[str, int]:
    """The number of the page on which each chapter begins, by its title in the outline of a PDF."""
    reader = PdfReader(pdf)
    tops = [item for item in reader.outline if not isinstance(item, list)]
    return {item.title: reader.get_destination_page_number(item) + 1 for item in tops}


def mend_outline(pdf: Path, headings: list[str]) -> None:
    """Give the outline the headings with all their spaces."""
    spaced = {joined(heading): heading for heading in headings}
    writer = PdfWriter(clone_from=pdf)
    waiting = [writer.root_object["/Outlines"]]
    while waiting:
        item = waiting.pop().get_object()
        if "/Title" in item:
            heading = spaced.get(joined(item["/Title"]), item["/Title"])
            item[NameObject("/Title")] = TextStringObject(heading)
        waiting += [item[name] for name in ("/First", "/Next") if name in item]
    writer.write(pdf)


def make(html: Path, pdf: Path, pages: list[str]) -> dict[str, int]:
    """Print built pages into one PDF; return the page on which each chapter begins, the contents first.

    Args:
        html: folder of the built book.
        pdf: file to write.
        pages: what to print, in order, as paths without suffix.

    Raises:
        FileNotFoundError: there is no Chromium.
        ValueError: a page isn't built, or the PDF lacks one.
    """
    articles = {page: article(html, page, pages) for page in pages}
    headings = [" ".join(tag.get_text().split()) for each in articles.values() for tag in each(HEADING)]
    source = pdf.with_suffix(".html")
    with chromium.browser() as browser:
        tab = browser.new_context(offline=True).new_page()
        numbers: dict[str, int] = {}
        for _ in range(2):  # the first print says on which pages the chapters begin, the second names them
            source.write_text(document(html, articles, numbers), "utf-8")
            tab.goto(source.resolve().as_uri())
            tab.pdf(
                path=pdf,
                format="A4",
                margin={"top": "18mm", "bottom": "18mm", "left": "17mm", "right": "17mm"},
                print_background=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOTER,
                outline=True,
                tagged=True,
            )
            numbers = {joined(heading): number for heading, number in page_numbers(pdf).items()}
    source.unlink()
    mend_outline(pdf, headings)
    found = page_numbers(pdf)
    expected = ["Contents", *map(title, articles.values())]
    if list(found) != expected:
        raise ValueError(f"{pdf} is not whole: its outline has {list(found)}, the book {expected}")
    return found


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
