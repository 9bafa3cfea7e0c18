"""From uint8 images to a network's input: on whole batches, on the device they lie on.

Crops, flips and colour draw from torch's global generator of that device, so that `seed_everything` and a
resumed run repeat them. None of them waits for the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F


class Transform:
    """A function from image batch to image batch that prints as the call that made it."""

    def __init__(self, text: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._text, self._function = text, function

    def __repr__(self) -> str:
        return self._text

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The transformed batch; the given one stays as it is.

        Raises:
            ValueError: the images are no tensor, or not of the shape and type that the transform wants.
        """
        if not isinstance(images, torch.Tensor):
            kind = type(images).__name__
            raise ValueError(f"{self} wants a tensor (N, C, H, W), not {kind}: torch.from_numpy(…) makes one")
        return self._function(images)


def scale(low: float = 0, high: float = 1) -> Transform:
    """Bring uint8 pixels 0…255 to float32 low…high, as in `scale(-1, 1)`; low > high inverts the image.

    Raises:
        ValueError: low equals high, or is not finite; on the call, if the images are not uint8.
    """
    text = f"scale({low}, {high})"
    if low == high or not math.isfinite(high - low):
        raise ValueError(f"{text}: wants two different finite numbers")

    def apply(images: torch.Tensor) -> torch.Tensor:
        scaled = _to_float(images, text).div_(255 / (high - low))
        return scaled.add_(low) if low else scaled

    return Transform(text, apply)


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


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Square uint8 images (N, C, size, size), antialiased; a whole data set is done a piece at a time.

    Args:
        images: (N, C, H, W) uint8; H ≠ W squeezes the picture.
        size: new height and width in pixels.

    Raises:
        ValueError: the images are not uint8 (N, C, H, W), or the size is below 1.
    """
    if not _is_uint8_batch(images) or size < 1:
        given = _kind(images)
        raise ValueError(f"resize to {size} wants ≥ 1 pixel and uint8 images (N, C, H, W), not {given}")
    small = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8, device=images.device)
    for start in range(0, len(images), 512):
        piece = images[start : start + 512]
        piece = piece if images.device.type == "cpu" else piece.float()  # accelerators resize no uint8
        done = F.interpolate(piece, size=(size, size), mode="bilinear", antialias=True)
        small[start : start + 512] = done.round().clamp(0, 255) if done.is_floating_point() else done
    return small


def random_crop(size: int) -> Transform:
    """Cut a square of this many pixels from each image, every image at a place of its own.

    Raises:
        ValueError: on the call, if the images (N, C, H, W) are smaller.

    Source: Krizhevsky et al. 2012, section 4.1: 224 from 256.
    """
    text = f"random_crop({size})"

    def apply(images: torch.Tensor) -> torch.Tensor:
        height, width = _room(images, size, text)
        count, device = len(images), images.device
        top = torch.randint(height + 1, (count, 1), device=device)
        left = torch.randint(width + 1, (count, 1), device=device)
        return _cut(images, top, left, size, one_by_one=device.type == "cpu" and count > 0)

    return Transform(text, apply)


def random_flip() -> Transform:
    """Mirror each image left to right with probability ½, every image for itself."""

    def apply(images: torch.Tensor) -> torch.Tensor:
        _room(images, 1, "random_flip()")
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return _mirror(images, mirrored, one_by_one=images.device.type == "cpu" and len(images) > 0)

    return Transform("random_flip()", apply)


def _cut(
    images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, size: int, *, one_by_one: bool
) -> torch.Tensor:
    """The window of each image whose corner is at top, left (N, 1).

    One by one waits for the corners. On a CPU, copying rows takes a twentieth of fetching pixels by index.
    """
    if one_by_one:
        corners = zip(images, top.flatten().tolist(), left.flatten().tolist(), strict=True)
        return torch.stack([image[:, y : y + size, x : x + size] for image, y, x in corners])
    window = torch.arange(size, device=images.device)
    which = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = (top + window)[:, :, None], (left + window)[:, None, :]
    return images[which, :, rows, columns].permute(0, 3, 1, 2)


def _mirror(images: torch.Tensor, mirrored: torch.Tensor, *, one_by_one: bool) -> torch.Tensor:
    """Those images mirrored left to right whose entry in (N, 1, 1, 1) is true."""
    if one_by_one:
        turns = zip(images, mirrored.flatten().tolist(), strict=True)
        return torch.stack([image.flip(-1) if turn else image for image, turn in turns])
    return torch.where(mirrored, images.flip(-1), images)


def center_crop(size: int) -> Transform:
    """Cut the square of this many pixels in the middle of each image.

    Raises:
        ValueError: on the call, if the images (N, C, H, W) are smaller.
    """
    text = f"center_crop({size})"

    def apply(images: torch.Tensor) -> torch.Tensor:
        top, left = (round(room / 2) for room in _room(images, size, text))  # as torchvision rounds
        return images[
            ..., top : top + size, left : left + size
        ].clone()  # a view would let others write into it

    return Transform(text, apply)


def ten_crops(images: torch.Tensor, size: int) -> torch.Tensor:
    """The four corners and the centre of each image, then the same five mirrored: (10, N, C, size, size).

    Raises:
        ValueError: the images (N, C, H, W) are smaller.

    Source: Krizhevsky et al. 2012, section 4.1.
    """
    height, width = _room(images, size, f"ten_crops({size})")
    corners = [(0, 0), (0, width), (height, 0), (height, width), (round(height / 2), round(width / 2))]
    five = torch.stack([images[..., top : top + size, left : left + size] for top, left in corners])
    return torch.cat([five, five.flip(-1)])


def pca_colour(images: torch.Tensor, sigma: float = 0.1, std: Sequence[float] = (1, 1, 1)) -> Transform:
    """Shift each image's colour along the principal components of the RGB values of a whole set.

    An image gets p₁α₁λ₁ + p₂α₂λ₂ + p₃α₃λ₃ added to all its pixels: p and λ are the eigenvectors and
    eigenvalues of the set's 3×3 covariance of pixels in 0…1, each α is drawn from N(0, sigma).

    Args:
        images: (N, 3, H, W) uint8, the set; of a large one, 1,000 images are enough.
        sigma: standard deviation of α.
        std: what `normalize` has divided the channels by, if it came first.

    Raises:
        ValueError: the set is not uint8 (N, 3, H, W), sigma is negative, a std not above 0, or one of them
            not finite; on the call, if the images are not floats of three channels.

    Source: Krizhevsky et al. 2012, section 4.1. The paper does not say in what unit λ is.
    """
    text = f"pca_colour({sigma}, {tuple(std)})"
    if not _is_uint8_batch(images) or images.shape[1] != 3 or not len(images):
        given = _kind(images)
        raise ValueError(f"{text} wants a set of uint8 images (N, 3, H, W), not {given}")
    if not 0 <= sigma < math.inf or len(std) != 3 or not all(0 < value < math.inf for value in std):
        raise ValueError(f"{text}: wants sigma ≥ 0 and three stds above 0, all finite")
    values, vectors = torch.linalg.eigh(_colour_covariance(images))
    components = (
        (vectors * values).T / torch.tensor(std, dtype=torch.float64)
    ).float()  # (3 components, RGB)

    @functools.cache  # so that no batch waits for a copy to its device
    def components_on(device: torch.device) -> torch.Tensor:
        return components.to(device)

    def apply(batch: torch.Tensor) -> torch.Tensor:
        if not batch.is_floating_point():
            raise ValueError(f"{text} wants float images, not {batch.dtype}: scale or normalize them first")
        if batch.ndim != 4 or batch.shape[1] != 3:  # one channel would silently become three
            raise ValueError(f"{text} wants images of three channels, not {tuple(batch.shape)}")
        alpha = torch.randn(len(batch), 3, device=batch.device) * sigma
        return batch + (alpha @ components_on(batch.device))[:, :, None, None]

    return Transform(text, apply)


def _colour_covariance(images: torch.Tensor) -> torch.Tensor:
    """The (3, 3) float64 covariance of the pixels' RGB values in 0…1."""
    count, total, products = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for piece in images.split(64):
        pixels = piece.cpu().transpose(0, 1).flatten(1).double() / 255  # (3, pixels)
        count, total, products = count + pixels.shape[1], total + pixels.sum(1), products + pixels @ pixels.T
    mean = total / count
    return products / count - mean[:, None] * mean


def _room(images: torch.Tensor, size: int, text: str) -> tuple[int, int]:
    """How many pixels a square window can move down and to the right in the images."""
    if (
        not isinstance(images, torch.Tensor) or images.ndim != 4
    ):  # of one image, each channel would be another
        given = tuple(getattr(images, "shape", ())) or type(images).__name__
        raise ValueError(
            f"{text} wants a batch of images (N, C, H, W), not {given}: images[None] makes one of one"
        )
    height, width = images.shape[-2] - size, images.shape[-1] - size
    if size < 1 or min(height, width) < 0:
        raise ValueError(f"{text} wants images of that size at least, not {tuple(images.shape)}")
    return height, width


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


def _is_uint8_batch(images: Any) -> bool:
    """Whether these are uint8 images (N, C, H, W)."""
    return isinstance(images, torch.Tensor) and images.dtype == torch.uint8 and images.ndim == 4


def _kind(images: Any) -> str:
    """Type and shape of what was given, such as `torch.float32 (1, 28, 28)` or `ndarray`."""
    if isinstance(images, torch.Tensor):
        return f"{images.dtype} {tuple(images.shape)}"
    return type(images).__name__


def _to_float(images: torch.Tensor, text: str) -> torch.Tensor:
    """A float32 copy of uint8 images."""
    if images.dtype != torch.uint8:
        raise ValueError(f"{text} wants uint8 images, not {images.dtype}: apply it once, and first")
    return images.float()
