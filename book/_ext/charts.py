"""Bars, steps and lines as inline SVG, narrow enough for a phone; book/_static/course.css colours them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from svg import element, picture, polygon, rectangle, text

WIDTH = 376  # px, as the drawings of the networks
COLOURS = ("one", "two", "three", "four")  # classes series-one …, in this order
Points = list[tuple[float, float]]


def legend(labels: list[str], y: float) -> tuple[list[str], float]:
    """A line for each label with a patch of its colour; and the height below them."""
    parts = []
    for place, label in enumerate(labels):
        parts.append(rectangle(0, y + 18 * place, 12, 12, f"series-{COLOURS[place]}"))
        parts.append(text(label, 18, y + 18 * place + 10.5, "chart-label"))
    return parts, y + 18 * len(labels)


def shares(name: str, groups: dict[str, dict[str, tuple[float | None, str]]]) -> str:
    """Bars by network: each way's speed as a share of the bare step, which is the line at the right.

    Args:
        name: starts the ids.
        groups: by network, by way: the share (None: not measured) and a key that is not shown.
    """
    labels = list(next(iter(groups.values())))
    parts, y = legend(labels, 2)
    longest = max(share for group in groups.values() for share, _ in group.values() if share is not None)
    unit = (WIDTH - 52) / max(1.0, longest)
    top, y, words = y + 6, y + 24, []
    for network, group in groups.items():
        parts.append(text(network, 0, y, "chart-name"))
        for place, (label, (share, _)) in enumerate(group.items()):
            bar = y + 7 + 14 * place
            shown = "not measured" if share is None else f"{share:.2f}"
            if share is not None:
                parts.append(rectangle(0, bar, max(1.0, share * unit), 10, f"series-{COLOURS[place]}"))
            end = (share or 0) * unit
            beside = unit if unit - 30 < end < unit else end  # not across the line
            parts.append(text(shown, beside + 5, bar + 9, "chart-value"))
            words.append(f"{network}, {label}: {shown}.")
        y += 7 + 14 * len(group) + 22
    parts.append(element("line", x1=unit, y1=top, x2=unit, y2=y - 20, class_="chart-limit"))
    parts.append(text("bare step", unit, y - 6, "chart-end"))
    title = "Speed of each way as a share of the bare step"
    return picture(name, (WIDTH, y), title, " ".join(words), parts)


def steps(name: str, network: str, rungs: list[tuple[str, float]]) -> str:
    """One bar a trick, the part that it added in another colour than what was there before."""
    parts, y, before, words = [], 14.0, 0.0, []
    unit = (WIDTH - 70) / max(value for _, value in rungs)
    for place, (label, value) in enumerate(rungs):
        parts.append(text(label if place == 0 else f"+ {label}", 0, y, "chart-label"))
        parts.append(rectangle(0, y + 5, max(1.0, min(before or value, value) * unit), 12, "series-one"))
        if value > before > 0:
            parts.append(rectangle(before * unit, y + 5, max(1.0, (value - before) * unit), 12, "series-two"))
        parts.append(text(rounded(value), value * unit + 5, y + 15.5, "chart-value"))
        words.append(f"{label}: {rounded(value)} images a second.")
        before, y = value, y + 37
    title = f"{network}: images a second as the tricks are added"
    return picture(name, (WIDTH, y - 14), title, " ".join(words), parts)


def lines(name: str, series: dict[str, Points], x_label: str, y_label: str) -> str:
    """Lines through points on two logarithmic axes."""
    parts, top = legend(list(series), 2)
    left, right, top, bottom = 52.0, WIDTH - 12.0, top + 26, top + 236
    every = [point for points in series.values() for point in points]
    x_range, y_range = (span([point[axis] for point in every]) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_range[0]) / (x_range[1] - x_range[0])
        up = (math.log10(y) - y_range[0]) / (y_range[1] - y_range[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    for tick in ticks(y_range):
        y = place(10 ** x_range[0], tick)[1]
        parts.append(element("line", x1=left, y1=y, x2=right, y2=y, class_="chart-grid"))
        parts.append(text(rounded(tick), left - 6, y + 4, "chart-tick-y"))
    for tick in ticks(x_range):
        x = place(tick, 10 ** y_range[0])[0]
        parts.append(element("line", x1=x, y1=top, x2=x, y2=bottom, class_="chart-grid"))
        parts.append(text(rounded(tick), x, bottom + 16, "chart-tick-x"))
    words = []
    for number, (label, points) in enumerate(series.items()):
        places = [place(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(element("polyline", points=path, class_=f"line-{COLOURS[number]}"))
        parts += [mark(*at, f"series-{COLOURS[number]}") for at in places]
        words.append(f"{label}: " + ", ".join(f"{rounded(y)} at {rounded(x)}" for x, y in points) + ".")
    parts.append(text(y_label, 0, top - 10, "chart-label"))
    parts.append(text(x_label, (left + right) / 2, bottom + 34, "chart-tick-x"))
    return picture(name, (WIDTH, bottom + 42), f"{y_label} by {x_label}", " ".join(words), parts)


def mark(x: float, y: float, class_: str) -> str:
    """A small diamond around a point."""
    return polygon([(x - 4, y), (x, y - 4), (x + 4, y), (x, y + 4)], class_)


def span(values: list[float]) -> tuple[float, float]:
    """A range of powers of ten, with a little room, around positive values."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.04 * (high - low), 0.04)
    return low - room, high + room


def ticks(powers: tuple[float, float]) -> Iterator[float]:
    """Round numbers inside a range of powers of ten: 1, 10, 100, and 2 and 5 of each where there is room."""
    steps = (1, 2, 5) if powers[1] - powers[0] < 2.2 else (1,)
    for power in range(math.floor(powers[0]), math.ceil(powers[1]) + 1):
        for step in steps:
            if powers[0] <= math.log10(step * 10.0**power) <= powers[1]:
                yield step * 10.0**power


def rounded(value: float) -> str:
    """Three digits, with commas."""
    if value >= 100 or value == round(value):
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
