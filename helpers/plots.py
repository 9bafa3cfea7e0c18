"""The course's figures: curves, picture grids, filters, feature maps, confusion.

All draw on white, for dark pages too, with text to be read on a phone, and return the Axes drawn on. None
calls `plt.show()`: that ends the notebook's cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle

# Okabe & Ito 2008: told apart under every common colour blindness. Their yellow is too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH = 6.4  # inches: on a phone an inch is some 56 CSS pixels, so that 13 points are 10 of them


def use_style() -> None:
    """Make the course's style matplotlib's default; for a notebook's first cell."""
    plt.rc("figure", figsize=(WIDTH, 4.0), dpi=110, facecolor="white")
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("savefig", facecolor="white")
    plt.rc("font", family="DejaVu Sans", size=13)  # comes with matplotlib, so the same everywhere
    plt.rc("axes", titlesize=14, grid=True, axisbelow=True)
    plt.rc("axes", prop_cycle=plt.cycler(linestyle=["-", "--", ":"]) * plt.cycler(color=PALETTE))
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("grid", color="#DDDDDD")
    plt.rc("legend", frameon=False)
    plt.rc("lines", linewidth=2)


def curves(
    series: dict, *, xlabel: str, ylabel: str, title: str = "", smooth=0, log="", ax: Axes | None = None
) -> Axes:
    """Draw one line per series, with a legend above if there are several.

    Args:
        series: label → (x, y), or (x, y, sd) for a band of y ± sd: lists, arrays or tensors of one length.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        title: shown above the legend.
        smooth: points in a centred running mean; a single series keeps its raw values as a pale line.
        log: which axes are logarithmic: "", "x", "y" or "xy".
        ax: where to draw instead of on a new figure.

    Raises:
        ValueError: no series, x and y of unequal length, fewer points than `smooth`, or an unknown `log`.
    """
    if not series or log not in ("", "x", "y", "xy"):
        raise ValueError(f'curves needs a series, and log "", "x", "y" or "xy": got {list(series)}, {log!r}')
    ax = ax or plt.subplots(layout="constrained")[1]
    for label, values in series.items():
        raw = [_array(value) for value in values]
        if len(raw) not in (2, 3) or {c.shape for c in raw} != {(raw[0].size,)} or not raw[0].size:
            raise ValueError(f"series {label!r} must be (x, y) or (x, y, sd), not {[c.shape for c in raw]}")
        if not 0 <= smooth <= raw[0].size:
            raise ValueError(f"series {label!r} has {raw[0].size} points: smooth={smooth} must be 0 to that")
        x, y, *sd = [np.convolve(c, np.full(smooth, 1 / smooth), "valid") for c in raw] if smooth else raw
        (line,) = ax.plot(x, y, label=label, marker="o" if x.size <= 20 else "")
        if smooth > 1 and len(series) == 1:
            ax.plot(raw[0], raw[1], color=line.get_color(), alpha=0.3, linewidth=0.7, zorder=1)
        if sd:
            ax.fill_between(x, y - sd[0], y + sd[0], color=line.get_color(), alpha=0.2, linewidth=0)
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.set(xlabel=xlabel, ylabel=ylabel, **{f"{axis}scale": "log" for axis in log})
    columns = max(1, min(len(series), 62 // (max(map(len, series)) + 6)))
    if len(series) > 1:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, handlelength=1.5)
    ax.set_title(title, loc="left", pad=10 + 21 * math.ceil(len(series) / columns) * (len(series) > 1))
    return ax


def image_grid(images: Any, titles: Sequence | None = None, *, columns: int = 8, wrong: Any = None) -> Axes:
    """Show a batch of pictures; those marked wrong get a thick orange-red frame and a bold title.

    Args:
        images: (N, 1 or 3, H, W) or (N, H, W). uint8, or floats from 0 (black) to 1; if a float lies
            outside, the batch's lowest value is black and its highest white.
        titles: N short texts, or none.
        columns: pictures in a row. 16 photographs stay below 120 kB with 8, not with 4.
        wrong: N truth values, or none.

    Raises:
        ValueError: another shape, values that are not finite, or not N titles or marks.
    """
    array = _pictures(images, "images", "(N, 1 or 3, H, W) or (N, H, W)", (3, 4))
    if torch.as_tensor(images).dtype == torch.uint8:
        array = array / 255
    elif array.min() < 0 or array.max() > 1:
        array = (array - array.min()) / (np.ptp(array) or 1)
    return _grid(array, titles, columns, wrong, cmap="gray", vmin=0, vmax=1)


def filters(weight: Any, titles: Sequence | None = None, *, columns: int = 8) -> Axes:
    """Show a convolution's filters, each scaled by its own largest weight: compare patterns, not strengths.

    Args:
        weight: (O, 1, kH, kW), blue for negative, white for 0, red for positive; or (O, 3, kH, kW), colours
            around grey. Of a deeper layer show one input channel: `weight[:, i : i + 1]`.
        titles: O short texts, or none.
        columns: filters in a row.

    Raises what `image_grid` raises.
    """
    array = _pictures(weight, "weight", "(O, 1 or 3, kH, kW), so try weight[:, :1]", (4,))
    peak = np.abs(array).max(axis=(1, 2, 3), keepdims=True)
    array = array / np.where(peak > 0, peak, 1)
    array = array if array.shape[1] == 1 else (array + 1) / 2
    return _grid(array, titles, columns, cmap="RdBu_r", vmin=-1, vmax=1)


def feature_maps(maps: Any, titles: Sequence | None = None, *, columns: int = 8) -> Axes:
    """Show what a layer makes of one image, a picture per channel, all on one scale: bright is high.

    Args:
        maps: (C, H, W).
        titles: C short texts, or none.
        columns: maps in a row.

    Raises what `image_grid` raises.
    """
    array = _pictures(maps, "maps", "(C, H, W), a layer's output for one image", (3,))
    return _grid(array, titles, columns, cmap="viridis", vmin=array.min(), vmax=array.max())


def confusion(matrix: Any, classes: Sequence[str], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix: the counts, on shades that follow the square root of the true class's share.

    Args:
        matrix: (K, K) counts, row = true class, column = predicted class.
        classes: K names.
        title: optional.
        ax: where to draw instead of on a new figure.

    Raises:
        ValueError: the matrix is not (K, K), or holds anything but counts.
    """
    counts = _array(matrix)
    size = (len(classes), len(classes))
    if counts.shape != size or not counts.size or (counts < 0).any() or (counts % 1 != 0).any():
        raise ValueError(f"matrix must be {size}, one class each way, of whole counts: got {counts.shape}")
    ax = ax or plt.subplots(figsize=(WIDTH, WIDTH), layout="constrained")[1]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.4 else "black" if count else "#777777"
        ax.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=12)
    ax.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 3 else 0)
    ax.set(xlabel="predicted", ylabel="true", title=title, yticks=range(len(classes)), yticklabels=classes)
    ax.grid(False)
    return ax


def _array(values: Any) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().double().numpy()


def _pictures(values: Any, name: str, form: str, dims: tuple[int, ...]) -> np.ndarray:
    """The values as (N, 1 or 3, H, W) floats, or a ValueError that says which form was expected."""
    array = _array(values)
    pictures = array[:, None] if array.ndim == 3 else array
    if array.ndim not in dims or 0 in array.shape or pictures.shape[1] not in (1, 3):
        raise ValueError(f"{name} must be {form}: got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite: there are NaNs or infinities")
    return pictures


def _grid(array: np.ndarray, titles: Any, columns: int, wrong: Any = None, **how: Any) -> Axes:
    """Draw pictures (N, C, H, W), each 1 wide, on one Axes: far quicker than one Axes for each."""
    count, columns = len(array), min(columns, len(array))
    titles = [""] * count if titles is None else [str(title) for title in titles]
    wrong = [False] * count if wrong is None else [bool(mark) for mark in wrong]
    if columns < 1 or len(titles) != count or len(wrong) != count:
        raise ValueError(f"{count} pictures go with {count} titles and marks or none, and with columns ≥ 1")
    inches, gap, ratio = min(WIDTH / columns, 1.6), 0.08, array.shape[2] / array.shape[3]
    head = 0.22 / inches * max(len(title.split("\n")) if title else 0 for title in titles)
    rows, pitch = math.ceil(count / columns), head + ratio + gap
    size = (columns * inches, rows * pitch / (1 + gap) * inches)
    dpi, sharp = (72, None) if array.shape[2] > 64 else (None, "nearest")  # photographs hardly compress
    ax = plt.figure(figsize=size, layout="none", dpi=dpi).add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    for i, picture in enumerate(array):
        left, top = i % columns * (1 + gap), i // columns * pitch + head
        pixels = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
        ax.imshow(pixels, extent=(left, left + 1, top + ratio, top), interpolation=sharp, **how)
        if wrong[i]:
            ax.add_patch(Rectangle((left, top), 1, ratio, fill=False, linewidth=4, edgecolor=PALETTE[1]))
        if titles[i]:
            look = {"color": PALETTE[1], "weight": "bold"} if wrong[i] else {"color": "black"}
            ax.text(left + 0.5, top - 0.03, titles[i], ha="center", va="bottom", fontsize=12, **look)
    ax.set(xlim=(-gap / 2, columns * (1 + gap) - gap / 2), ylim=(rows * pitch - gap / 2, -gap / 2))
    return ax
