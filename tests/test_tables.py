"""Numbered tables: those of code cells, by what their metadata say, in a small build."""

import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import tables

MARKDOWN = "| way | images/s |\n|---|---:|\n| by hand | 1,632 |\n| fit | 1,579 |"
HTML = (
    '<table class="layer-table"><caption>Net, input 1×8×8</caption><thead><tr><th scope="col">layer</th>'
    '<th scope="col">MACs</th></tr></thead><tbody><tr><th scope="row">fc &lt;1&gt;</th><td>640</td></tr>'
    "</tbody></table>"
)


def shown(mime, text, **metadata):
    """A notebook of one cell with one output."""
    output = new_output("display_data", data={mime: text, "text/plain": "<an object>"})
    cell = new_code_cell("show()", execution_count=1, outputs=[output], metadata=metadata)
    notebook = new_notebook(cells=[new_markdown_cell("# A notebook"), cell])
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook


def named(name, caption="What was measured."):
    return {"table": {"caption": caption, "name": name}}


@pytest.fixture
def built(build_page, tmp_path):
    """Build notebooks and a page that refers to their tables; the pages, and the warnings."""

    def build(text="", **notebooks):
        index, warnings = build_page(text, "tables", notebooks)
        pages = {
            name: (tmp_path / "html" / "notebooks" / f"{name}.html").read_text("utf-8") for name in notebooks
        }
        trees = {
            name: BeautifulSoup(page, "html.parser") for name, page in (pages | {"index": index}).items()
        }
        return trees, warnings

    return build


def test_tables_of_cells_are_numbered_in_order_and_can_be_referred_to(built):
    text = "See {numref}`table-layers` and {numref}`table-speeds`."
    first = shown("text/markdown", MARKDOWN, **named("table-speeds"))
    second = shown("text/html", HTML, **named("table-layers", "Layer by layer."))
    pages, warnings = built(text, a=first, b=second)
    assert warnings == ""
    links = {link.get_text(): link["href"] for link in pages["index"].select("p a.reference")}
    assert links == {"Table 2": "notebooks/b.html#table-layers", "Table 1": "notebooks/a.html#table-speeds"}
    captions = {
        name: page.caption.get_text().removesuffix("¶") for name, page in pages.items() if page.caption
    }
    assert captions == {
        "a": "Table 1 What was measured.",
        "b": "Table 2 Layer by layer: Net, input 1×8×8.",
    }


def test_a_table_of_html_keeps_its_cells_row_heads_and_class(built):
    pages, _ = built(b=shown("text/html", HTML, **named("table-layers")))
    (table,) = pages["b"]("table")
    assert [[cell.get_text(strip=True) for cell in row(["th", "td"])] for row in table("tr")] == [
        ["layer", "MACs"],
        ["fc <1>", "640"],
    ]
    assert [cell.get_text(strip=True) for cell in table.select("tbody th")] == ["fc <1>"]
    assert {"layer-table"} < set(table["class"])


def test_tables_of_cells_that_ask_for_nothing_stay_as_they_are(built):
    pages, warnings = built(a=shown("text/markdown", MARKDOWN), b=shown("text/html", HTML))
    assert warnings == ""
    assert pages["a"].caption is None
    assert pages["b"].caption.get_text() == "Net, input 1×8×8"


@pytest.mark.parametrize(
    ("mime", "text", "metadata", "count"),
    [
        ("text/plain", "no table", named("table-a"), 0),
        ("text/html", "<p>no table</p>", named("table-a"), 0),
        ("text/html", HTML + HTML, named("table-a"), 0),
        ("text/html", HTML.replace("<td>640</td>", ""), named("table-a"), 0),
        ("text/markdown", f"{MARKDOWN}\n\nand\n\n{MARKDOWN}", named("table-a"), 2),
        ("text/markdown", MARKDOWN, {"table": {"caption": "A caption."}}, 1),
    ],
    ids=["text", "html", "two in html", "uneven", "two", "no name"],
)
def test_a_cell_without_its_one_table_is_warned_of(built, mime, text, metadata, count):
    _, warnings = built(a=shown(mime, text, **metadata))
    assert "must show one table" in warnings
    assert f"and shows {count}" in warnings


def test_table_has_captions_widths_and_row_heads():
    made = tables.table(
        "All of it.", ("a", "b"), [("1", "2"), ("3", "4")], classes=["x"], widths=[3, 1], stub=1
    )
    assert [node.astext() for node in made.findall(tables.nodes.title)] == ["All of it."]
    assert [(node["colwidth"], node.get("stub")) for node in made.findall(tables.nodes.colspec)] == [
        (3, 1),
        (1, None),
    ]
    assert [node.astext() for node in made.findall(tables.nodes.entry)] == ["a", "b", "1", "2", "3", "4"]
    assert made["classes"] == ["x"]
    assert list(made.findall(tables.nodes.literal)) == []


def test_table_keeps_what_programs_print_as_it_is():
    made = tables.table(
        "Messages.", ("input", "message"), [("'a'", "'a' is \"no\"")], classes=[], literal=[1]
    )
    assert [node.astext() for node in made.findall(tables.nodes.literal)] == ["'a' is \"no\""]
