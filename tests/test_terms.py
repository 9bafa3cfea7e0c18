"""Glossary words that carry their definition."""

import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

GLOSSARY = """
```{glossary}
stride
  How far the *window* moves; see {term}`window`. `2` is < 3.

window
  A small square of side {math}`F^2`.
```
"""


@pytest.fixture
def build(build_page):
    def built(text):
        page, warnings = build_page(text + GLOSSARY, "terms", {})
        assert warnings == ""
        return BeautifulSoup(page, "html.parser")

    return built


def test_word_is_described_by_its_definition(build):
    page = build("A {term}`long step <stride>`, and another {term}`stride`.")
    links = page.select("p > .explained > a[href='#term-stride']")
    assert [link.get_text() for link in links] == ["long step", "stride"]
    for link in links:
        box = page.find_all(id=link["aria-describedby"])
        assert len(box) == 1
        assert box[0]["role"] == "tooltip"
        assert box[0].get_text() == "How far the window moves; see window. 2 is < 3."
        assert not box[0].find("a")


def test_definition_keeps_its_marks_and_formulas(build):
    page = build("A {term}`stride` of a {term}`window`.")
    first, second = page.select("p > .explained > .definition")[:2]
    assert first.em.get_text() == "window"
    assert first.code.get_text() == "2"
    assert second.math["alttext"] == "F^2"


def test_words_of_the_glossary_itself_are_explained(build):
    explained = build("Nothing.").select("dd .explained")
    assert [word.a.get_text() for word in explained] == ["window"]


def test_other_links_stay_plain(build):
    page = build("See [above](#a-page) and [there](https://example.org).")
    assert not page.select("p > .explained:not(dd .explained)")


def test_search_does_not_find_definitions(build, tmp_path):
    build("A {term}`stride`.")
    index = (tmp_path / "html" / "searchindex.js").read_text("utf-8")
    assert '"squar":0' in index.replace(" ", "")  # once, in the glossary; not as a list of two places
