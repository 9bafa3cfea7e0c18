"""Ten classes of coloured shapes and textures, drawn from a seed: they stand in for photographs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

CLASSES = ("disc", "ring", "square", "triangle", "cross", "star", "stripes", "checks", "dots", "waves")
SHAPES = 6  # the first six classes differ in outline, the others in texture
PIECE = 32  # images drawn at a time: what they need fits into a processor's cache


def draw(count: int, seed: int, size: int = 224) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw images, the ten classes in turn, so that any ten in a row hold each class once.

    Each image has a background that runs from one colour to another, noise, and one figure of another colour,
    at a place, size and angle of its own: an outline filled evenly, or a round patch with a texture.

    Args:
        count: number of images N.
        seed: same seed, same images.
        size: height and width in pixels.

    Returns:
        Images (N, 3, size, size) uint8 and labels (N,) int64, indices into `CLASSES`.

    Raises:
        ValueError: count or size is too small.
    """
    if count < 1 or size < 16:
        raise ValueError(f"draw({count}, size={size}): wants an image at least, and 16 pixels a side")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for start in range(0, count, PIECE):
        piece = labels[start : start + PIECE]
        images[start : start + PIECE] = _draw_piece(piece, size, generator)
    return images, labels


def _draw_piece(labels: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Images (N, 3, size, size) uint8, one of each label."""

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(len(labels), *shape, generator=generator) * (high - low) + low

    radius, angle = uniform(0.15, 0.3), uniform(0, 2 * math.pi)
    centre = uniform(0, 1, 2) * (1 - 2.4 * radius[:, None]) + 1.2 * radius[:, None]
    x, y = _turned_grid(size, centre, radius, angle)  # the figure spans about -1 to 1
    edge = (2 / size) / radius[:, None, None]  # two pixels, so that edges are smooth
    cover = torch.empty(len(labels), size, size)
    frequency = uniform(2.2, 3.6)
    for i, label in enumerate(labels.tolist()):
        cover[i] = _cover(CLASSES[label], x[i], y[i], edge[i], float(frequency[i]))
    back, far, front = _colours(len(labels), generator)
    ramp = torch.linspace(0, 1, size)[None, :, None].expand(len(labels), size, size)
    ground = back + (far - back) * ramp[:, None]
    picture = ground + (front - ground) * cover[:, None]
    coarse = torch.randn(len(labels), 3, size // 8, size // 8, generator=generator)
    noise = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return ((picture + 0.08 * noise).clamp(0, 1) * 255).round().byte()


def _turned_grid(
    size: int, centre: torch.Tensor, radius: torch.Tensor, angle: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pixel's place (N, size, size) in the figure's own axes, one radius being 1."""
    line = (torch.arange(size) + 0.5) / size
    across = (line[None, None, :] - centre[:, 0, None, None]) / radius[:, None, None]
    down = (line[None, :, None] - centre[:, 1, None, None]) / radius[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * across + sin * down, cos * down - sin * across


def _colours(count: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Three colours (N, 3, 1, 1) in 0…1 for each image: two of the ground, one of the figure, well apart."""
    back = torch.rand(count, 3, 1, 1, generator=generator)
    far = (back + 0.5 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)).clamp(0, 1)
    # At least 0.35 up or down in each channel, whichever side has the room.
    step = 0.35 + 0.3 * torch.rand(count, 3, 1, 1, generator=generator)
    front = torch.where(back < 0.5, back + step, back - step)
    return [back, far, front]


def _cover(name: str, x: torch.Tensor, y: torch.Tensor, edge: torch.Tensor, frequency: float) -> torch.Tensor:
    """How much of each pixel the figure covers, 0 to 1."""

    def inside(distance: torch.Tensor) -> torch.Tensor:  # negative distances lie inside
        return (0.5 - distance / edge).clamp(0, 1)

    away = torch.hypot(x, y)
    disc = inside(away - 1)
    if name == "disc":
        return inside(away - 0.85)
    if name == "ring":
        return inside((away - 0.75).abs() - 0.2)
    if name == "square":
        return inside(torch.maximum(x.abs(), y.abs()) - 0.75)
    if name == "triangle":
        sides = [math.cos(turn) * x + math.sin(turn) * y for turn in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
        return inside(torch.stack(sides).amax(0) - 0.5)
    if name == "cross":
        arms = torch.minimum(x.abs(), y.abs()) - 0.25
        return inside(torch.maximum(arms, torch.maximum(x.abs(), y.abs()) - 0.9))
    if name == "star":
        return inside(away - 0.65 - 0.3 * torch.cos(5 * torch.atan2(y, x)))
    wave = 2 * math.pi * frequency / 2
    if name == "stripes":
        return disc * (torch.sin(wave * x) > 0)
    if name == "checks":
        return disc * (torch.sin(wave * x) * torch.sin(wave * y) > 0)
    if name == "dots":
        return disc * (torch.cos(wave * x) + torch.cos(wave * y) > 0.8)
    return disc * (torch.sin(wave * 1.6 * away) > 0)
