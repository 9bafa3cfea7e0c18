"""What is mended for screen readers in the HTML of Sphinx and docutils."""

import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import access


@pytest.mark.parametrize(
    "cell", ["<th></th>", '<th class="head"><p></p></th>', '<th class="head">\n<p> </p> </th>']
)
def test_empty_header_cell_becomes_a_plain_cell(cell):
    assert access.mend(f"<tr>{cell}<th>year</th></tr>") == "<tr><td></td><th>year</th></tr>"


@pytest.mark.parametrize("cell", ["<th>0</th>", '<th><img src="a.png" alt="a"></th>', "<thead></thead>"])
def test_what_heads_a_column_stays(cell):
    assert access.mend(cell) == cell


def test_entries_of_a_bibliography_are_items_of_its_list(build_page):
    page, warnings = build_page("See [A1].\n\n```{eval-rst}\n.. [A1] A paper.\n```", "access", {})
    entries = BeautifulSoup(page, "html.parser").select("[role=list] > *")
    assert [entry["role"] for entry in entries] == ["listitem"]
    assert "not referenced" in warnings


def test_exercises_and_solutions_do_not_share_an_id():
    page = '<section id="exercise-content">a</section><section id="solution-content">b</section>'
    assert access.mend(page) == "<section>a</section><section>b</section>"
