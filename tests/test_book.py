"""The built pages: offline, whole, readable by everybody, and true to the notebooks.

They are read from `_build/html`, or from the folder that COURSE_HTML names.
"""

import json
import os
import re
from ast import literal_eval
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).resolve().parent.parent
OTHER_HOST = re.compile(r"^\s*(?:[a-z]+:)?//", re.IGNORECASE)
LOADS = {"src", "srcset", "poster", "data", "xlink:href"}  # attributes that make a browser fetch something
CSS_LOAD = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")
DELIVERY_NETWORKS = re.compile(
    r"cdn\.|unpkg\.com|cdnjs\.|jsdelivr|polyfill\.io|googleapis\.com|gstatic\.com|mathjax@", re.IGNORECASE
)
PAGE_LIMIT = 1_500_000  # bytes of a page with all it loads


def toc_pages() -> list[str]:
    """The pages that book/_toc.yml lists, as paths without suffix."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


@cache
def parse(path: Path) -> BeautifulSoup:
    """One page's tree, parsed once for all tests."""
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    folder = Path(os.environ.get("COURSE_HTML") or ROOT / "_build" / "html").resolve()
    if not (folder / "book" / "intro.html").exists():
        pytest.fail(f"no built book in {folder}: run `make book` first, or set COURSE_HTML to its folder")
    return folder


@pytest.fixture(scope="session")
def pages(html) -> dict[str, BeautifulSoup]:
    """Every page of the book by its path, the redirect at the top excepted."""
    found = {path.relative_to(html).as_posix(): path for path in sorted(html.rglob("*.html"))}
    return {
        name: parse(path)
        for name, path in found.items()
        if name != "index.html" and not name.startswith("_static/")
    }


@pytest.fixture(scope="session")
def notebook_pages(pages) -> dict[str, BeautifulSoup]:
    """The pages that show a notebook."""
    return {name: page for name, page in pages.items() if name.startswith("notebooks/")}


def css_loads(css: str) -> list[str]:
    """What a style sheet fetches: fonts, images, other style sheets."""
    return [url or sheet for url, sheet in CSS_LOAD.findall(css) if not url.startswith("data:")]


def loads(page: BeautifulSoup) -> list[str]:
    """The addresses that a browser fetches to show a page."""
    found = [str(tag[name]) for tag in page.find_all(True) for name in LOADS & set(tag.attrs)]
    found += [str(tag["href"]) for tag in page.select("link[href], use[href], image[href]") if fetched(tag)]
    styles = [tag.string or "" for tag in page("style")] + [tag["style"] for tag in page.select("[style]")]
    found += [address for style in styles for address in css_loads(style)]
    return [address for address in found if not address.startswith("data:")]


def fetched(tag: Tag) -> bool:
    """Whether a tag with href loads it by itself: a style sheet does, a link to the next page doesn't."""
    only_named = {"next", "prev", "index", "search", "author", "canonical"}
    return tag.name != "link" or not only_named & set(tag["rel"])


def broken(path: Path, address: str) -> str | None:
    """Why an address on the page at `path` leads nowhere, or None if it's fine or lies outside the book."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no such file"
    if parts.fragment and target.suffix == ".html":
        page, anchor = parse(target), unquote(parts.fragment)
        if not page.find(id=anchor) and not page.find("a", attrs={"name": anchor}):
            return "no such anchor"
    return None


def report(problems: list[str]) -> None:
    """Fail with one problem a line."""
    assert not problems, "\n".join(["", *problems])


# ---- whole ---------------------------------------------------------------------------------------------


def test_no_id_is_given_twice_on_a_page(pages):
    twice = {}
    for name, page in pages.items():
        given = Counter(tag["id"] for tag in page.select("[id]"))
        twice[name] = [each for each, count in given.items() if count > 1]
    assert {name: found for name, found in twice.items() if found} == {}


def test_book_has_every_page_of_the_toc(pages):
    report([name for name in toc_pages() if f"{name}.html" not in pages])


def test_index_leads_to_the_first_page(html):
    refresh = parse(html / "index.html").find("meta", attrs={"http-equiv": "Refresh"})
    assert refresh["content"].split("url=")[1] == f"{toc_pages()[0]}.html"


def test_pages_have_no_broken_links(html, pages):
    problems = []
    for name, page in pages.items():
        addresses = {str(tag["href"]) for tag in page.select("[href]")} | set(loads(page))
        problems += [
            f"{name}: {address}: {why}"
            for address in sorted(addresses)
            if address != "#" and (why := broken(html / name, address))
        ]
    report(problems)


def test_search_index_holds_every_page(html):
    index = (html / "searchindex.js").read_text("utf-8")
    known = json.loads(index[len("Search.setIndex(") : -1])["docnames"]
    report([name for name in toc_pages() if name not in known])


# ---- offline -------------------------------------------------------------------------------------------


def test_pages_load_nothing_from_other_hosts(pages):
    report([f"{name}: {url}" for name, page in pages.items() for url in loads(page) if OTHER_HOST.match(url)])


def test_style_sheets_load_nothing_from_other_hosts(html):
    sheets = sorted(html.rglob("*.css"))
    assert sheets, "the book has no style sheets"
    addresses = [(sheet, url) for sheet in sheets for url in css_loads(sheet.read_text("utf-8"))]
    wrong = [(sheet, url) for sheet, url in addresses if OTHER_HOST.match(url) or broken(sheet, url)]
    report([f"{sheet.name}: {url}" for sheet, url in wrong])


def test_scripts_name_no_delivery_network(html, pages):
    texts = [(f"{name}, inline", tag.string or "") for name, page in pages.items() for tag in page("script")]
    scripts = {
        (html / name).parent.joinpath(urlsplit(str(tag["src"])).path).resolve()
        for name, page in pages.items()
        for tag in page.select("script[src]")
    }
    texts += [(path.name, path.read_text("utf-8")) for path in scripts if path.is_file()]
    report([f"{name}: {hit[0]}" for name, text in texts if (hit := DELIVERY_NETWORKS.search(text))])


def test_pages_keep_to_the_weight_limit(html, pages, record_property):
    weights = {}
    for name, page in pages.items():
        files = {(html / name).parent.joinpath(urlsplit(url).path).resolve() for url in loads(page)}
        weights[name] = sum(path.stat().st_size for path in {html / name, *files} if path.is_file())
    record_property("page weight in kB", {name: size // 1000 for name, size in weights.items()})
    print("\n".join(f"{size / 1000:8,.0f} kB  {name}" for name, size in weights.items()))
    report([f"{name}: {size / 1e6:.2f} MB" for name, size in weights.items() if size > PAGE_LIMIT])


# ---- formulas ------------------------------------------------------------------------------------------


def test_formulas_are_mathml(pages):
    boxes = [(name, box) for name, page in pages.items() for box in page.select(".math")]
    assert boxes, "no page has a formula: the MathML renderer isn't at work"
    report([f"{name}: {box}" for name, box in boxes if not box.find("math") or not box.math.get("alttext")])


def test_pages_have_no_mathjax(html, pages):
    report([name for name, page in pages.items() if "mathjax" in str(page).lower()])


# ---- for everybody -------------------------------------------------------------------------------------


def test_images_have_alt_text_that_says_what_they_show(pages):
    images = [
        (name, image, image.get("alt", "").strip()) for name, page in pages.items() for image in page("img")
    ]
    assert images, "no page has an image"
    path = re.compile(r"/|\.(png|svg|jpe?g|gif)$")
    report([f"{name}: {image}" for name, image, alt in images if not alt or path.search(alt)])


def test_every_table_and_figure_has_a_number_and_a_caption(pages):
    problems, counted = [], 0
    for name in toc_pages():
        for shown in pages[f"{name}.html"].select("article table, article figure"):
            counted += 1
            number, words = (shown.select_one(f".caption-{part}") for part in ("number", "text"))
            if number is None or not words.get_text(strip=True):
                problems.append(f"{name}: {shown.name} {' '.join(shown.get_text().split())[:60]}")
    assert counted > 100
    report(problems)


def test_drawings_say_in_words_what_they_show(pages):
    problems, count = [], 0
    for name, page in pages.items():
        for drawing in page.select("article svg[role=img]"):
            count += 1
            for reference in ("aria-labelledby", "aria-describedby"):
                found = page.find_all(id=drawing[reference])
                if len(found) != 1 or not found[0].get_text(strip=True):
                    problems.append(f"{name}: {reference}={drawing[reference]}")
    assert count, "no page has a drawing"
    report(problems)


def test_pages_have_one_title_a_language_and_a_viewport(pages):
    problems = []
    for name, page in pages.items():
        titles = [title for title in page("h1") if not title.find_parent(class_="onlyprint")]
        viewport = page.find("meta", attrs={"name": "viewport"})
        checks = {
            f"{len(titles)} titles (h1)": len(titles) == 1,
            "no lang attribute": page.html.get("lang") == "en",
            "no viewport": viewport is not None and "width=device-width" in viewport["content"],
            "no <title>": page.title is not None and bool(page.title.get_text(strip=True)),
        }
        problems += [f"{name}: {what}" for what, fine in checks.items() if not fine]
    report(problems)


def test_pages_show_no_unrendered_markdown(pages):
    raw = re.compile(r"^\s*\|.*\|\s*$|\{(?:glue|here|term|cite|ref)\b[^}]*\}`", re.MULTILINE)
    shown = [
        f"{name}: {text.strip()[:80]}"
        for name, page in pages.items()
        for text in page.find_all(string=raw)
        if not text.find_parent(["pre", "code", "script", "style"])
    ]
    assert not shown, shown


def test_headings_skip_no_level(pages):
    problems = []
    for name, page in pages.items():
        article = page.find("article") or page
        levels = [int(heading.name[1]) for heading in article(re.compile(r"^h[1-6]$"))]
        jumps = [(a, b) for a, b in pairwise(levels) if b > a + 1]
        problems += [f"{name}: h{a} is followed by h{b}" for a, b in jumps]
    report(problems)


# ---- true to the notebooks -----------------------------------------------------------------------------


def recorded(notebook: str) -> dict[str, str]:
    """The texts that a notebook stored with `runtime.record`, read from its file."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    stored = [output for output in outputs if "scrapbook" in output.get("metadata", {})]
    keys = [output["metadata"]["scrapbook"]["name"] for output in stored]
    texts = ["".join(output["data"]["application/papermill.record/text/plain"]) for output in stored]
    return dict(zip(keys, map(literal_eval, texts), strict=True))


def test_notebook_pages_are_stamped(notebook_pages):
    assert notebook_pages, "the book has no notebook page"
    stamps = {name: page.select_one("article p.course-stamp") for name, page in notebook_pages.items()}
    stamp = re.compile(r"(quick|cpu|full) budget · .+ · torch [\d.]+.* · \d{4}-\d\d-\d\d · [\d,]+ s")
    report([f"{name}: {tag}" for name, tag in stamps.items() if not tag or not stamp.search(tag.get_text())])


def test_notebook_pages_say_first_what_they_need_teach_and_take(notebook_pages):
    for name, page in notebook_pages.items():
        opening = " ".join(p.get_text(" ", strip=True) for p in page.select("article h1 ~ p"))
        found = re.search(r"You need .+ You will learn .+ Time: .+ took (?:\d+ min )?\d+ s ;", opening)
        assert found, (name, opening)


@pytest.mark.parametrize("name", ["results", "timeline", "comparison"])
def test_page_shows_what_the_notebooks_recorded(pages, name):
    source = (ROOT / "book" / f"{name}.md").read_text("utf-8")
    asked = re.findall(r"\{here\}`([\w-]+):([\w-]+)`", source)
    assert asked, f"book/{name}.md pastes no result"
    shown = [tag.get_text() for tag in pages[f"book/{name}.html"].select(".pasted-text")]
    assert shown == [recorded(notebook)[key] for notebook, key in asked]


def test_slips_page_lists_every_slip_of_every_notebook(pages):
    notebooks = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]*_*.ipynb"))
    slips = [text for name in notebooks for key, text in recorded(name).items() if key.startswith("slip-")]
    assert slips, "no notebook recorded a slip"
    page = pages["book/slips.html"].find("article")
    assert [plain(item.get_text()) for item in page.select("ol li")] == [plain(slip) for slip in slips]
    assert f"{len(slips)} mistakes were found" in page.get_text()


def plain(text: str) -> str:
    """A text without marks for code and without the curve of its quotes."""
    return " ".join(text.replace("`", "").replace("’", "'").split())


def test_every_network_is_drawn(pages):
    drawn = {link["href"].split("#")[0] for link in pages["book/networks.html"].select("figcaption a[href]")}
    notebooks = [name for name in toc_pages() if name.startswith("notebooks/")]
    report([name for name in notebooks if f"../{name}.html" not in drawn])


def test_pasted_results_are_not_empty(pages):
    pasted = [(name, tag) for name, page in pages.items() for tag in page.select(".pasted-text")]
    report([f"{name}: {tag.parent}" for name, tag in pasted if not tag.get_text(strip=True)])


def test_pages_show_no_error_but_those_meant_to_be_seen(pages):
    wrong = "article .traceback, article .stderr, article .system-message, article .problematic"
    shown = [(name, tag) for name, page in pages.items() for tag in page.select(wrong)]
    report(
        [
            f"{name}: {tag.get_text()[:200]}"
            for name, tag in shown
            if not tag.find_parent(class_="tag_raises-exception")
        ]
    )
