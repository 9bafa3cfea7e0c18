"""Glossary words that explain themselves: ``{term}`stride` `` shows its definition when it is pointed at.

The definition is in the page, so it needs no network, and a screen reader reads it as the link's description.
It appears on hover, on keyboard focus and, by book/_static/terms.js, on a tap; the link still leads to the
glossary.
"""

from __future__ import annotations

from html import escape

from docutils import nodes
from mathml import to_mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.writers.html5 import HTML5Translator

TAGS = {nodes.literal: "code", nodes.emphasis: "em", nodes.strong: "strong"}


class explained(nodes.Inline, nodes.TextElement):
    """A link into the glossary with its definition: attributes `refuri`, `number`, `definition` (HTML)."""


def definition_html(node: nodes.Element) -> str:
    """A definition as HTML in one line: links are plain words, and what is cited is left out."""
    parts = []
    for child in node.children:
        if isinstance(child, nodes.Text):
            parts.append(escape(child.astext()))
        elif isinstance(child, nodes.math):
            parts.append(to_mathml(child.astext(), "inline"))
        elif not (isinstance(child, addnodes.pending_xref) and child.get("refdomain") == "cite"):
            tag = TAGS.get(type(child))
            inner = definition_html(child)
            parts.append(f"<{tag}>{inner}</{tag}>" if tag else inner)
    return " ".join("".join(parts).split()).replace(" .", ".")


def definitions(env: BuildEnvironment) -> dict[str, str]:
    """The definition of each glossary word as HTML, by "document#anchor"."""
    found = {}
    terms = [(*place, kind) for (kind, _), place in env.get_domain("std").objects.items()]
    for document in {document for document, _, kind in terms if kind == "term"}:
        for item in env.get_doctree(document).findall(nodes.definition_list_item):
            definition = definition_html(item.next_node(nodes.definition))
            for term in item.findall(nodes.term):
                found |= {f"{document}#{anchor}": definition for anchor in term["ids"]}
    return found


def note_dependency(app: Sphinx, doctree: nodes.document) -> None:
    """Renew a page that uses glossary words when the glossary changes."""
    if any(reference["reftype"] == "term" for reference in doctree.findall(addnodes.pending_xref)):
        for document in {
            place[0] for (kind, _), place in app.env.get_domain("std").objects.items() if kind == "term"
        }:
            app.env.note_dependency(app.env.doc2path(document))


def explain_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn links into the glossary into links that carry the definition."""
    if app.builder.format != "html":
        return
    if not hasattr(app.builder, "course_definitions"):
        app.builder.course_definitions = definitions(app.env)
    places = {
        app.builder.get_relative_uri(docname, place.split("#")[0]) + "#" + place.split("#")[1]: text
        for place, text in app.builder.course_definitions.items()
    }
    for number, link in enumerate(list(doctree.findall(nodes.reference)), start=1):
        address = link.get("refuri") or f"#{link.get('refid')}"
        word = link.next_node(nodes.inline)
        if word is not None and "std-term" in word["classes"] and address in places:
            new = explained("", "", *link.children, refuri=address, number=number, definition=places[address])
            link.replace_self(new)


def visit_explained(translator: HTML5Translator, node: explained) -> None:
    """Open the link."""
    described = f'aria-describedby="definition-{node["number"]}"'
    link = translator.starttag(node, "a", "", CLASS="reference internal", href=node["refuri"])
    translator.body.append(f'<span class="explained">{link.replace("<a ", f"<a {described} ", 1)}')


def depart_explained(translator: HTML5Translator, node: explained) -> None:
    """Close the link and write the definition after it."""
    box = f'<span class="definition" role="tooltip" id="definition-{node["number"]}">'
    translator.body.append(f"</a>{box}{node['definition']}</span></span>")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when all links of a page are known."""
    app.add_node(explained, html=(visit_explained, depart_explained))
    app.connect("doctree-read", note_dependency)
    app.connect("doctree-resolved", explain_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
