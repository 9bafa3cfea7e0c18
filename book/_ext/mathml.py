"""Formulas as MathML, written while the book is built: a page needs no script and no network to show them."""

from __future__ import annotations

import html
import re
from itertools import pairwise
from xml.etree.ElementTree import Element, tostring

from docutils import nodes
from latex2mathml.commands import MATRICES
from latex2mathml.converter import Converter
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)
CHILDREN = dict.fromkeys(("mfrac", "mroot", "msub", "msup", "munder", "mover"), 2) | {
    "msubsup": 3,
    "munderover": 3,
}
ROWS = ("mrow", "mtd", "mstyle", "msqrt")


def to_mathml(latex: str, display: str) -> str:
    r"""A LaTeX formula as a `<math>` element.

    latex2mathml passes over what it doesn't know: `\foo` comes out as the text "\foo", a missing argument as
    a fraction without denominator. Both are looked for here, so that no reader meets them.

    Args:
        latex: the formula without its dollar signs.
        display: `inline` or `block`.

    Returns:
        The element's source, with the LaTeX in `alttext`.

    Raises:
        ValueError: the formula holds a command that is unknown, or is incomplete.
    """
    source = re.sub(r"\\(begin|end)\{(aligned|align|split|gathered)\}", r"\\\1{align*}", latex)
    source = re.sub(r"\d+(\{,\}\d{3})+", lambda number: rf"\text{{{number[0].replace('{,}', ',')}}}", source)
    for name in re.findall(r"\\begin\{([^}]*)\}", source):
        if rf"\{name}" not in MATRICES:
            raise ValueError(f"latex2mathml doesn't know the environment {name}")
    try:
        math = Converter(display=display).convert_to_element(source)
    except Exception as error:  # latex2mathml's errors have no common ancestor
        raise ValueError(f"{type(error).__name__} {error}".strip()) from error
    math.set("alttext", " ".join(latex.split()))
    for element in math.iter():
        element.text = html.unescape(element.text or "")
        if "\\" in element.text or (element.tag == "mi" and element.text in ("&", "{", "}")):
            raise ValueError(f"latex2mathml doesn't know {element.text}")
        if len(element) < CHILDREN.get(element.tag, 0):
            raise ValueError(f"an argument is missing ({element.tag})")
        if element.tag == "mo" and element.text.isalpha():
            element.tag = "mi"  # \operatorname{softmax} comes as an operator, which would get wider spaces
    for row in [element for element in math.iter() if element.tag in ROWS]:
        _space_function_names(row)
    return tostring(math, encoding="unicode")


def _space_function_names(row: Element) -> None:
    """Put TeX's thin space around the function names in a row, as in `log p`; MathML itself sets none."""
    for left, right in list(pairwise(row)):
        operator = right.tag == "mo" or (right.tag == "mrow" and len(right) and right[0].tag == "mo")
        if (_is_function(left) and not operator) or (_is_function(right) and left.tag != "mo"):
            row.insert(list(row).index(right), Element("mspace", width="0.167em"))


def _is_function(element: Element) -> bool:
    """Whether the element is a name such as `log`, with or without an index."""
    name = element[0] if element.tag in CHILDREN else element
    return name.tag == "mi" and len(name.text or "") > 1 and name.text.isascii()


def _math(translator: HTML5Translator, node: nodes.Element, display: str) -> None:
    """Write a formula, or warn where it stands."""
    try:
        translator.body.append(to_mathml(node.astext(), display))
    except ValueError as error:
        LOGGER.warning("formula %r: %s", node.astext(), error, type="course", subtype="math", location=node)


def visit_inline_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula that stands in a line of text."""
    translator.body.append(translator.starttag(node, "span", "", CLASS="math"))
    _math(translator, node, "inline")
    translator.body.append("</span>")
    raise nodes.SkipNode


def visit_display_math(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own, with its number if it is labelled."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    _math(translator, node, "block")
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the renderer that `html_math_renderer: mathml` asks for."""
    app.add_html_math_renderer("mathml", (visit_inline_math, None), (visit_display_math, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
