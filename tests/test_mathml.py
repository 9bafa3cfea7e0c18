"""Formulas as MathML."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import mathml


def shape(latex: str) -> str:
    """A formula's MathML without name space, attributes and spaces, as nested tags with their text."""

    def write(element: ElementTree.Element) -> str:
        tag = element.tag.split("}")[-1]
        children = " ".join(write(child) for child in element if "mspace" not in child.tag)
        return f"{tag}({element.text or ''}{children})"

    return write(ElementTree.fromstring(mathml.to_mathml(latex, "block")))


def test_to_mathml_writes_a_fraction():
    expected = "math(mrow(mfrac(mrow(mi(W) mo(−) mi(F)) mrow(mi(S))) mo(+) mn(1)))"
    assert shape(r"\frac{W-F}{S}+1") == expected


def test_to_mathml_keeps_the_latex_for_screen_readers_and_copying():
    assert ElementTree.fromstring(mathml.to_mathml("a < b", "inline")).get("alttext") == "a < b"


def test_to_mathml_escapes_signs_that_html_would_take_for_a_tag():
    assert "<mtext>a&lt;b</mtext>" in mathml.to_mathml(r"\text{a<b}", "inline")


def test_to_mathml_keeps_a_number_with_thousands_together():
    assert shape("61{,}706") == "math(mrow(mtext(61,706)))"


def test_to_mathml_sets_aligned_lines_as_a_table_without_numbers():
    table = shape(r"\begin{aligned} a &= b \\ c &= d \end{aligned}")
    assert table.count("mtr(") == 2
    assert table.count("mtd(") == 4


def test_to_mathml_sets_a_space_between_a_function_and_its_argument_only_where_tex_does():
    assert mathml.to_mathml(r"\log p", "inline").count("<mspace") == 1
    assert mathml.to_mathml(r"a \log p", "inline").count("<mspace") == 2
    assert mathml.to_mathml(r"\tanh(a)", "inline").count("<mspace") == 0
    assert mathml.to_mathml(r"-\log_2 p", "inline").count("<mspace") == 1
    assert mathml.to_mathml(r"10\%", "inline").count("<mspace") == 0


INCOMPLETE = [
    r"\frac{a}",
    "x_{",
    "x^2^3",
    "a & b",
    "a }",
    r"\left( x",
    r"\begin{cases",
    r"\begin{tabular}a\end{tabular}",
    "",
]


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", *INCOMPLETE])
def test_to_mathml_rejects_what_it_cannot_show(latex):
    with pytest.raises(ValueError, match=r"\w"):
        mathml.to_mathml(latex, "inline")
