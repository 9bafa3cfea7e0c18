"""Drawings as inline SVG; book/_static/course.css colours them, so that they follow light and dark mode."""

from __future__ import annotations

from html import escape


def element(name: str, *children: str, **attributes: object) -> str:
    """The source of one element.

    Args:
        name: the tag.
        children: sources of elements, or text that is escaped already.
        attributes: `class_` stands for class, other underscores for hyphens; lengths in px get one decimal.
    """
    head = [name]
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
        head.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return f"<{' '.join(head)}>{''.join(children)}</{name}>"


def text(content: str, x: float, y: float, class_: str) -> str:
    """One line of text; `y` is its baseline."""
    return element("text", escape(content), x=x, y=y, class_=class_)


def rectangle(x: float, y: float, width: float, height: float, class_: str) -> str:
    """A rectangle by its upper left corner."""
    return element("rect", x=x, y=y, width=width, height=height, class_=class_)


def polygon(corners: list[tuple[float, float]], class_: str) -> str:
    """A closed shape through its corners."""
    return element("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners), class_=class_)


def arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A straight arrow, down or to the right."""
    (x0, y0), (x, y) = start, end
    line = element("line", x1=x0, y1=y0, x2=x, y2=y, class_="arrow")
    down = [(x - 4, y - 5), (x + 4, y - 5), (x, y + 1)]
    right = [(x - 5, y - 4), (x - 5, y + 4), (x + 1, y)]
    return line + polygon(down if x == x0 else right, "arrow-head")


def picture(name: str, size: tuple[float, float], title: str, description: str, shapes: list[str]) -> str:
    """A whole drawing, which a screen reader takes for one image with a title and a description.

    Args:
        name: starts the ids in it; once a page.
        size: width and height in px. The page may show it smaller, never larger.
        title: what it is.
        description: all that can be read off it.
        shapes: sources of its elements.
    """
    heads = element("title", escape(title), id=f"{name}-title")
    heads += element("desc", escape(description), id=f"{name}-desc")
    width, height = (round(length) for length in size)
    return element(
        "svg",
        heads,
        *shapes,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-desc",
    )
