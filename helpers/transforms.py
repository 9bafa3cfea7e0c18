"""From uint8 images to a network's input: on whole batches, on the device they lie on, in float32."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F


class Transform:
    """A function from image batch to image batch that prints as the call that made it."""

    def __init__(self, text: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._text, self._function = text, function

    def __repr__(self) -> str:
        return self._text

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The transformed batch; the given one stays as it is."""
        return self._function(images)


def scale(low: float = 0, high: float = 1) -> Transform:
    """Bring uint8 pixels 0…255 to float32 low…high, as in `scale(-1, 1)`; low > high inverts the image.

    Raises:
        ValueError: low equals high, or is not finite; on the call, if the images are not uint8.
    """
    text = f"scale({low}, {high})"
    if low == high or not math.isfinite(high - low):
        raise ValueError(f"{text}: wants two different finite numbers")
    return Transform(text, lambda images: _to_float(images, text).div_(255 / (high - low)).add_(low))


def normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Transform:
    """Bring uint8 pixels x to float32 (x/255 − mean)/std, with one mean and std in all or one per channel.

    Raises:
        ValueError: means and stds differ in number, a std is not above 0, or one of them is not finite; on
            the call, if the images are not uint8.
    """
    text = f"normalize({mean}, {std})"
    columns = [torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in (mean, std)]
    usable = len(columns[0]) == len(columns[1]) and bool(torch.stack(columns).isfinite().all())
    if not usable or bool((columns[1] <= 0).any()):
        raise ValueError(f"{text}: wants as many stds as means, all finite and the stds above 0")

    @functools.cache  # so that no batch waits for a copy to its device
    def columns_on(device: torch.device) -> list[torch.Tensor]:
        return [values.to(device) for values in columns]

    def apply(images: torch.Tensor) -> torch.Tensor:
        means, stds = columns_on(images.device)
        return _to_float(images, text).div_(255).sub_(means).div_(stds)

    return Transform(text, apply)


def pad(pixels: int, value: float) -> Transform:
    """Put a border of so many pixels of one value around float images, as in `pad(2, -0.1)`.

    Raises:
        ValueError: pixels is no whole number from 0 on; on the call, if the images are not floats.
    """
    text = f"pad({pixels}, {value})"
    if not isinstance(pixels, int) or pixels < 0:
        raise ValueError(f"{text}: wants a whole number of pixels from 0 on")

    def apply(images: torch.Tensor) -> torch.Tensor:
        if not images.is_floating_point():
            raise ValueError(f"{text} wants float images, not {images.dtype}: scale or normalize them first")
        return F.pad(images, (pixels,) * 4, value=value)

    return Transform(text, apply)


def compose(*steps: Callable[[torch.Tensor], torch.Tensor]) -> Transform:
    """Apply several transforms one after the other, as in `compose(scale(-0.1, 1.175), pad(2, -0.1))`.

    Raises:
        ValueError: there are none.
    """
    if not steps:
        raise ValueError("compose() wants one transform or more, as in compose(scale(0, 1), pad(2, 0))")
    # A plain function goes by its name: its repr holds an address, which differs from run to run.
    text = f"compose({', '.join(getattr(step, '__qualname__', repr(step)) for step in steps)})"
    return Transform(text, lambda images: functools.reduce(lambda batch, step: step(batch), steps, images))


def _to_float(images: torch.Tensor, text: str) -> torch.Tensor:
    """A float32 copy of uint8 images."""
    if images.dtype != torch.uint8:
        raise ValueError(f"{text} wants uint8 images, not {images.dtype}: apply it once, and first")
    return images.float()
