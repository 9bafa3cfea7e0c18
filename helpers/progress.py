"""One line that shows how a long run is doing, in a notebook or a terminal, and ends as short text."""

from __future__ import annotations

import html
import math
import sys
import time
from types import TracebackType

from IPython import get_ipython
from IPython.display import display

MOST_POINTS = 400  # of the curve; then every second one is dropped, and of those that come


class ProgressLine:
    """A line such as `training: step 1,200 of 50,000 · loss 0.4112 · 15,300 images/s · 5 min 20 s left`.

    In a notebook the line is one output that is replaced in place, with the curve of the measure below it
    while the run goes on; the stored page holds the last state alone. In a terminal it is
    rewritten on stderr; elsewhere (a pipe, a log) only its end is printed.
    Use it as a context manager: an error or an interrupt leaves a line that says how far the run got.
    """

    def __init__(self, label: str, total: int, *, enabled: bool = True, seconds_between: float = 0.5):
        """Prepare the line; nothing shows before the first update.

        Args:
            label: what the run is called.
            total: number of steps of the whole run.
            enabled: False shows nothing at all.
            seconds_between: least time between two updates.
        """
        self.label, self.total, self.enabled, self.seconds_between = label, total, enabled, seconds_between
        self.started = self.shown = time.perf_counter()
        self.first: tuple[int, int] | None = None
        self.step = 0
        self.in_notebook = get_ipython() is not None and hasattr(get_ipython(), "kernel")
        self.handle = None
        self.points: list[tuple[int, float]] = []  # of the curve: step, value
        self.values, self.stride = 0, 1  # how many values came, every how many-th is drawn

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.finish(f"stopped at step {self.step:,} of {self.total:,} ({kind.__name__})")

    def due(self) -> bool:
        """Whether enough time has passed for another update."""
        return self.enabled and time.perf_counter() - self.shown >= self.seconds_between

    def update(self, step: int, images: int, measure: str, value: float | None = None) -> None:
        """Show the state of the run.

        Args:
            step: steps done.
            images: training images processed.
            measure: the value to watch, such as `loss 0.41`.
            value: the same as a number, for the curve.
        """
        if value is not None and math.isfinite(value):
            if self.values % self.stride == 0:
                self.points.append((step, value))
            self.values += 1
            if len(self.points) > MOST_POINTS:
                del self.points[1::2]
                self.stride *= 2
        now = time.perf_counter()
        self.step, self.shown = step, now
        if self.first is None:
            self.first, self.started = (step, images), now
            self._show(f"{self.label}: step {step:,} of {self.total:,} · {measure}")
            return
        elapsed = now - self.started
        rate = (images - self.first[1]) / elapsed
        left = (self.total - step) * elapsed / max(step - self.first[0], 1)
        self._show(
            f"{self.label}: step {step:,} of {self.total:,} · {measure} · "
            f"{rate:,.0f} images/s · {duration(left)} left"
        )

    def finish(self, text: str) -> None:
        """Replace the line by its last state."""
        if self.enabled:
            self._show(f"{self.label}: {text}", last=True)

    def _show(self, text: str, last: bool = False) -> None:
        if self.in_notebook:
            content = {"text/plain": text}
            if len(self.points) > 1 and not last:
                content["text/html"] = f"<pre>{html.escape(text)}</pre>{curve(self.points, self.total)}"
            if self.handle is None:
                self.handle = display(content, raw=True, display_id=True)
            else:
                self.handle.update(content, raw=True)
        elif sys.stderr.isatty():
            print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last:
            print(text)


def curve(points: list[tuple[int, float]], total: int) -> str:
    """A small line plot as SVG: values from the lowest to the highest, steps from 0 to `total`.

    Args:
        points: (step, value), two or more; values finite.
        total: the last step of the run.
    """
    low, high = (pick(value for _, value in points) for pick in (min, max))
    height = (high - low) or 1.0
    places = " ".join(f"{240 * s / total:.1f},{2 + 56 * (high - v) / height:.1f}" for s, v in points)
    line = f'<polyline points="{places}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    name = f"from {points[0][1]:.3g} to {points[-1][1]:.3g}"
    return f'<svg width="240" height="60" viewBox="0 0 240 60" role="img" aria-label="{name}">{line}</svg>'


def duration(seconds: float) -> str:
    """A time span as people say it: `42 s`, `3 min 20 s`, `1 h 05 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
