"""The page of slips, in a small build."""

import re
import sys
from pathlib import Path

import pytest
from nbformat import from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import slips


def notebook(records: dict, heading="# A net (2018)", part="## 8 What the article got wrong"):
    """A notebook that recorded something."""
    prefix = "application/papermill.record/"
    outputs = [
        {
            "output_type": "display_data",
            "data": {f"{prefix}text/plain": repr(text)},
            "metadata": {"scrapbook": {"name": key, "mime_prefix": prefix}},
        }
        for key, text in records.items()
    ]
    code = new_code_cell("", execution_count=1, outputs=[from_dict(output) for output in outputs])
    return new_notebook(cells=[new_markdown_cell(heading), new_markdown_cell(part), code])


def test_slips_come_in_the_order_of_their_numbers():
    found = slips.slips(notebook({f"slip-{n}": f"mistake {n}" for n in (10, *range(1, 10))} | {"slip": "no"}))
    assert found == [f"mistake {n}" for n in range(1, 11)]


def test_slips_reject_a_gap_in_the_numbers():
    with pytest.raises(ValueError, match="numbered 1, 3"):
        slips.slips(notebook({"slip-1": "a", "slip-3": "b"}))


def test_build_lists_the_slips_of_each_notebook_with_a_link_to_their_checks(build_page):
    books = {
        "01_a": notebook({"slip-1": "`f` is not *g*", "slip-2": "[−1, 1] is not [0, 1]"}),
        "02_b": notebook({"slip-1": "it is another network"}, heading="# Another"),
        "03_c": notebook({"accuracy": "97 %"}, heading="# Without slips"),
    }
    page, warnings = build_page("```{slips}\n```", "slips", books)
    assert warnings == ""
    assert "<strong>3 mistakes</strong> were found in 2 articles." in page
    assert re.findall(r"<h2>(.*?)<a", page) == ["A net (2018)", "Another"]
    assert len(re.findall(r"<li><p>", page)) == 3
    assert 'href="notebooks/01_a.html#what-the-article-got-wrong"' in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (notebook({"slip-2": "a"}), "the slips are numbered 2"),
        (notebook({"slip-1": "a"}, heading="no heading"), "the first cell has no heading"),
        (notebook({"slip-1": "a"}, part="## 8 Something else"), "8-what-the-article-got-wrong"),
        (notebook({}), "no notebook recorded a slip"),
    ],
)
def test_build_warns_where_it_cannot_list_or_link(build_page, wrong, message):
    _, warnings = build_page("```{slips}\n```", "slips", {"01_a": wrong})
    assert message in warnings
