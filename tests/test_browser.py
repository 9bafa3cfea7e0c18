"""The built pages as a reader meets them: in Chromium, opened from disk, with the network cut.

They are read from `_build/html`, or from the folder that COURSE_HTML names. Without Chromium all is skipped.
"""

import os
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "book"))
import chromium  # noqa: E402 - its folder is on the path only now

pytest.importorskip("playwright", reason="playwright isn't installed: make test sets it up")
axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.skipif(not chromium.find(), reason=chromium.NEEDED)

HTML = Path(os.environ.get("COURSE_HTML") or PROJECT / "_build" / "html").resolve()
PAGES = sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html"))
PAGES = [name for name in PAGES if not name.startswith("_static/") and name != "index.html"]
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
LESSON = "notebooks/01_lenet5.html"

# axe looks up the neighbours of every element: minutes, for a notebook's thousands of coloured words. One of
# each look is enough, since colours follow from the classes of an element and of those around it.
ONE_OF_EACH_LOOK = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll("pre span")) {
    if (word.childElementCount) continue;
    let look = "";
    for (let element = word; element; element = element.parentElement) look += element.className + "|";
    if (seen.has(look)) word.remove(); else seen.add(look);
  }
}"""
OPEN_SOLUTIONS = "document.querySelectorAll('.toggle-button-hidden').forEach(button => button.click())"


@pytest.fixture(scope="module")
def browser():
    if not PAGES:
        pytest.fail(f"no built book in {HTML}: run `make book` first, or set COURSE_HTML to its folder")
    with chromium.browser() as started:
        yield started


@pytest.fixture(scope="module")
def page(browser):
    """A tab without network."""
    context = browser.new_context(viewport=DESKTOP, offline=True)
    context.set_default_timeout(120_000)  # on a busy machine
    yield context.new_page()
    context.close()


@pytest.fixture
def events(page):
    """What goes wrong in the tab during a test: console errors, failed requests, requests elsewhere."""
    found = []

    def note(what, text, wrong=True):
        if wrong:
            found.append(f"{what}: {text}")

    listeners = {
        "console": lambda message: note("console", message.text, message.type == "error"),
        "pageerror": lambda error: note("script", error),
        # aborted: the next page was asked for before this one's icon had come
        "requestfailed": lambda request: note("failed", request.url, request.failure != "net::ERR_ABORTED"),
        "request": lambda request: note(
            "elsewhere", request.url, not request.url.startswith(("file:", "data:"))
        ),
    }
    for name, listener in listeners.items():
        page.on(name, listener)
    yield found
    for name, listener in listeners.items():
        page.remove_listener(name, listener)


def visit(page, name, width=DESKTOP, scheme="light"):
    """Open a page from disk."""
    page.set_viewport_size(width)
    page.emulate_media(color_scheme=scheme)
    page.goto((HTML / name).as_uri())


STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"


def violations(page, **options):
    """What axe-core objects to, one line for each kind of element; colours don't fade while it looks."""
    page.add_style_tag(content=STILL)
    options |= {"preload": False, "resultTypes": ["violations"]}  # from disk, style sheets can't be preloaded
    found = axe_playwright.Axe().run(page, options=options).response["violations"]
    for _ in range(30):  # the theme's script may just be changing the mode: a real fault is there to the end
        if not found:
            break
        page.wait_for_timeout(1000)
        found = axe_playwright.Axe().run(page, options=options).response["violations"]
    return [f"{rule['id']}: {node['html'][:150]}" for rule in found for node in rule["nodes"]]


# ---- every page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_page_opens_from_disk_and_asks_nobody(page, events, name):
    asked = []
    page.once("load", lambda: asked.append(page.url))
    visit(page, name)
    page.wait_for_load_state("networkidle")
    assert asked == [(HTML / name).as_uri()]
    assert events == []


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(page, name):
    visit(page, name, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_in_light_and_dark(page, name):
    visit(page, name)
    page.evaluate(OPEN_SOLUTIONS)
    page.evaluate(ONE_OF_EACH_LOOK)
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-theme=dark]")
    assert violations(page, runOnly=["color-contrast", "link-in-text-block"]) == []


def test_axe_is_at_work_in_both_modes(page):
    """The checks above find what they look for: grey on grey, and a picture without words."""
    visit(page, "book/intro.html", scheme="dark")
    page.evaluate(
        """() => document.querySelector("article").insertAdjacentHTML("beforeend",
           '<p style="color: #777; background: #888">grey</p><img src="../_static/logo.svg">')"""
    )
    rules = {line.split(":")[0] for line in violations(page)}
    assert rules == {"color-contrast", "image-alt"}


def test_a_request_elsewhere_would_be_noticed(page, events):
    visit(page, "book/intro.html")
    page.evaluate("fetch('https://example.org/').catch(() => 0)")
    assert "elsewhere: https://example.org/" in events


# ---- what a reader does --------------------------------------------------------------------------------


def test_index_leads_to_the_first_page(page, events):
    visit(page, "index.html")
    page.wait_for_url("**/book/intro.html")
    assert events == []


def test_search_finds_pages_from_disk(page, events):
    visit(page, "book/intro.html")
    page.click("button.search-button-field")
    page.keyboard.type("momentum")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    page.wait_for_selector("#search-results .search-summary >> text=/found \\d+ page/")
    titles = page.locator("#search-results li a").all_inner_texts()
    assert any("AlexNet" in title for title in titles)
    page.click("#search-results li a >> nth=0")
    page.wait_for_selector("article h1")
    assert events == []


def test_solution_unfolds_and_folds(page):
    visit(page, LESSON)
    solution = page.locator(".solution").first
    body, button = solution.locator("section p").first, solution.locator("button.toggle-button")
    assert not body.is_visible()
    button.click()
    body.wait_for(state="visible")
    button.click()
    body.wait_for(state="hidden")


def test_keyboard_reaches_search_navigation_and_solution(page):
    visit(page, LESSON)
    wanted = {"button.search-button-field", "nav.bd-links a", "article a", ".solution button"}
    for _ in range(page.locator("a, button, input, [tabindex]").count()):
        page.keyboard.press("Tab")
        wanted -= {each for each in wanted if page.evaluate("s => document.activeElement.matches(s)", each)}
        if not wanted:
            break
    assert not wanted, "Tab never came to these"
    assert page.evaluate("document.activeElement.matches('.solution button')")
    page.keyboard.press("Enter")
    page.locator(".solution section p").first.wait_for(state="visible")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


GLOSSARY_WORD = "article .explained:has(a[href$='#term-convolutional-network'])"


@pytest.mark.parametrize("width", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_glossary_word_explains_itself_to_pointer_and_keyboard(page, width):
    visit(page, "book/intro.html", width)
    word = page.locator(GLOSSARY_WORD)
    definition = page.locator(f"#{word.locator('a').get_attribute('aria-describedby')}")
    assert not definition.is_visible()
    word.locator("a").hover()
    definition.wait_for(state="visible")
    assert "first layers are convolutions" in definition.inner_text()
    box = definition.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width["width"]
    assert box["y"] + box["height"] <= width["height"]
    page.mouse.move(box["x"] + 5, box["y"] + 5)  # one can go into it, to select its text
    assert definition.is_visible() or width is PHONE
    page.mouse.move(1, 1)
    definition.wait_for(state="hidden")
    word.locator("a").focus()
    definition.wait_for(state="visible")
    page.keyboard.press("Escape")
    definition.wait_for(state="hidden")


def test_glossary_word_explains_itself_to_a_finger_and_then_leads_on(browser):
    context = browser.new_context(viewport=PHONE, has_touch=True, offline=True)
    context.set_default_timeout(120_000)
    tab = context.new_page()
    tab.goto((HTML / "book/intro.html").as_uri())
    word = tab.locator(GLOSSARY_WORD)
    word.locator("a").tap()
    word.locator(".definition").wait_for(state="visible")
    assert tab.url.endswith("intro.html")
    tab.locator("article h1 >> nth=-1").tap()
    word.locator(".definition").wait_for(state="hidden")
    word.locator("a").tap()
    word.locator("a").tap()
    tab.wait_for_url("**/glossary.html#term-convolutional-network")
    context.close()


def test_open_definition_is_accessible_in_both_modes(page):
    visit(page, "book/intro.html")
    page.locator(f"{GLOSSARY_WORD} a").focus()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_selector(f"html[data-theme={scheme}]")
        assert page.locator(f"{GLOSSARY_WORD} .definition").is_visible()
        assert violations(page) == []


def test_mode_switch_darkens_the_page(page):
    visit(page, "book/intro.html")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    for _ in range(3):  # auto, light and dark, in the theme's order
        page.click(".bd-main .theme-switch-button")
        if page.get_attribute("html", "data-theme") == "dark":
            break
    assert page.evaluate(background) != light
    page.evaluate("localStorage.clear()")


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("notebooks/")])
def test_code_printed_from_a_page_is_not_cut(browser, name):
    context = browser.new_context(
        viewport={"width": 660, "height": 960}, offline=True
    )  # A4 within its margins
    context.set_default_timeout(120_000)
    tab = context.new_page()
    tab.goto((HTML / name).as_uri())
    tab.emulate_media(media="print")
    cut = "all => all.filter(p => p.scrollWidth > p.clientWidth + 1).map(p => p.innerText.slice(0, 80))"
    found = tab.locator("article pre").evaluate_all(cut)
    assert found == []
    context.close()
