"""Mend what a screen reader stumbles over in the HTML that Sphinx and docutils write.

- Entries of the bibliography are items of a list. Docutils gives them the role `doc-biblioentry`, which may
  not stand in a list and is deprecated (ARIA in HTML).
- All exercises of `sphinx-exercise` have one id, and all solutions; a page may have an id once. Nothing links
  to these.
- A header cell without text, such as the corner of a table, is a plain cell: it heads nothing.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

SHARED_ID = re.compile(r' id="(?:exercise|solution)-content"')
EMPTY_HEADER = re.compile(r"<th(?: [^>]*)?>\s*(?:<p>\s*</p>)?\s*</th>")


def mend(body: str) -> str:
    """The HTML of a page's text with roles, ids and header cells as they should be."""
    body = SHARED_ID.sub("", body.replace('role="doc-biblioentry"', 'role="listitem"'))
    return EMPTY_HEADER.sub("<td></td>", body)


def mend_page(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Mend a page before it goes into the theme's frame."""
    if "body" in context:
        context["body"] = mend(context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Run on every page."""
    app.connect("html-page-context", mend_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
