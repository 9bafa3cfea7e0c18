"""Keep in the built book's style sheets only the rules that its pages can use.

The theme brings all of Bootstrap: 400 kB that every page loads, of which the book uses a part. A rule goes
only if each of its selectors names a class that no page has and no script mentions.
"""

from __future__ import annotations

import re
from pathlib import Path

import tinycss2
from sphinx.application import Sphinx

CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
ARGUMENT = re.compile(r""":(?:not|is|where|has)\([^()]*\)|"[^"]*"|'[^']*'""")  # names in these need not exist
NESTED = ("media", "supports", "layer", "container")


def prune(css: str, used: set[str]) -> str:
    """The style sheet without the rules that need a class which is not in use.

    Args:
        css: a style sheet, or what stands in the braces of an @media rule.
        used: names of the classes in use, without dots.
    """
    rules = tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True)
    return "".join(_pruned(rule, used) for rule in rules)


def _pruned(rule: tinycss2.ast.Node, used: set[str]) -> str:
    """One rule as text; empty if nothing of it can apply."""
    if rule.type == "at-rule" and rule.lower_at_keyword in NESTED and rule.content is not None:
        inner = prune(tinycss2.serialize(rule.content), used)
        return f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}" if inner else ""
    if rule.type != "qualified-rule":
        return rule.serialize()
    selectors = _split(rule.prelude)
    kept = ",".join(selector for selector in selectors if _can_apply(selector, used))
    return f"{kept}{{{tinycss2.serialize(rule.content)}}}" if kept else ""


def _split(prelude: list[tinycss2.ast.Node]) -> list[str]:
    """The selectors of a rule; commas inside brackets belong to one selector."""
    selectors = [[]]
    for token in prelude:
        if token == ",":
            selectors.append([])
        else:
            selectors[-1].append(token)
    return [tinycss2.serialize(selector).strip() for selector in selectors]


def _can_apply(selector: str, used: set[str]) -> bool:
    """Whether every class that the selector asks for is in use; one with an escape is kept."""
    return "\\" in selector or set(CLASS.findall(ARGUMENT.sub("", selector))) <= used


def keep_used_rules(app: Sphinx, exception: Exception | None) -> None:
    """Prune the style sheets of the finished book."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    used: set[str] = set()
    for page in folder.rglob("*.html"):
        for names in re.findall(r'class="([^"]*)"', page.read_text("utf-8")):
            used |= set(names.split())
    for script in folder.rglob("*.js"):
        used |= set(re.findall(r"[\w-]+", script.read_text("utf-8")))
    for sheet in folder.rglob("*.css"):
        sheet.write_text(prune(sheet.read_text("utf-8"), used), "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after the last page is written."""
    app.connect("build-finished", keep_used_rules)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
