"""The numbers of the step figures: small convolutions and poolings, worked out by torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import project  # noqa: F401  (helpers on the path)
import torch
import torch.nn.functional as F

from helpers.shapes import output_size, same_padding


@dataclass(frozen=True)
class Windows:
    """A window that moves over a small square image."""

    padded: torch.Tensor  # (H, W); what was added around the image is 0, or −∞ for pooling
    added: tuple[int, int]  # pixels before and after, on both axes
    kernel: torch.Tensor | None  # (F, F) weights; None for pooling
    size: int
    stride: int
    output: torch.Tensor  # (H', W')

    @property
    def places(self) -> list[tuple[int, int]]:
        """Rows and columns of the output, in the order of the steps."""
        return list(product(range(len(self.output)), repeat=2))

    def under(self, row: int, column: int) -> torch.Tensor:
        """The (F, F) numbers that the window covers when it makes one output."""
        y, x = row * self.stride, column * self.stride
        return self.padded[y : y + self.size, x : x + self.size]


def grid(source: str) -> torch.Tensor:
    """A square of numbers from `1 0 / 0 -1`.

    Raises:
        ValueError: it is no square of numbers.
    """
    rows = [[float(number) for number in row.split()] for row in source.split("/")]
    if any(len(row) != len(rows) for row in rows):
        raise ValueError(f"{source!r} is no square of numbers")
    return torch.tensor(rows)


def slide(image: torch.Tensor, kernel: torch.Tensor | int, stride: int, padding: int | str) -> Windows:
    """Let torch convolve an image with a kernel, or take the largest numbers of windows of a size.

    Raises:
        ValueError: the window outgrows the padded image, or a length is out of its range.
    """
    pooling = isinstance(kernel, int)
    size = kernel if pooling else len(kernel)
    output_size(len(image), size, stride, padding)  # raises
    added = same_padding(len(image), size, stride) if padding == "same" else (padding, padding)
    padded = F.pad(image, added * 2, value=float("-inf") if pooling else 0.0)
    batch = padded[None, None]
    output = (
        F.max_pool2d(batch, size, stride) if pooling else F.conv2d(batch, kernel[None, None], stride=stride)
    )
    return Windows(padded, added, None if pooling else kernel, size, stride, output[0, 0])


def number(value: float) -> str:
    """A number as text, with a true minus sign."""
    return "−∞" if value == float("-inf") else f"{value + 0.0:g}".replace("-", "−")  # no −0


def reckoning(windows: Windows, row: int, column: int) -> str:
    """How one output comes about: `1 + 2 − 3 = 0`, weights of 0 left out, or `max(1, 2) = 2`."""
    pixels = windows.under(row, column).flatten().tolist()
    result = number(windows.output[row, column].item())
    if windows.kernel is None:
        return f"max({', '.join(map(number, pixels))}) = {result}"
    terms = []
    for weight, pixel in zip(windows.kernel.flatten().tolist(), pixels, strict=True):
        if weight:
            factor = "" if abs(weight) == 1 else f"{number(abs(weight))}·"
            terms.append(("− " if weight < 0 else "+ ") + factor + number(pixel))
    return f"{' '.join(terms).removeprefix('+ ')} = {result}"
