"""The images of the races: embedded digits and drawn shapes as .npy files, which every process can read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from recipes import Recipe

FOLDER = Path(__file__).resolve().parent.parent / "_build" / "bench"


def files(recipe: Recipe) -> tuple[Path, Path]:
    """Where a recipe's images (N, C, H, W) uint8 and its labels (N,) int64 lie."""
    channels, height, _ = recipe.stored
    stem = f"{'digits' if channels == 1 else 'shapes'}-{height}px-{recipe.count}"
    return FOLDER / f"{stem}.npy", FOLDER / f"{stem}-labels.npy"


def make(recipe: Recipe) -> None:
    """Write a recipe's images if they are not there yet.

    Digits are the embedded ones over and over, up to `count`: for speed it is all the same that they repeat.
    Pictures are drawn from seed 0.
    """
    from helpers import data, drawings  # here, because the TensorFlow process goes without torch

    images_file, labels_file = files(recipe)
    if images_file.exists() and labels_file.exists():
        return
    if recipe.stored[0] == 1:
        digits = data.digits().train
        images, labels = digits.images, digits.labels
    else:
        images, labels = drawings.draw(recipe.count, seed=0, size=recipe.stored[-1])
    again = np.arange(recipe.count) % len(labels)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, values in ((labels_file, labels), (images_file, images)):
        unfinished = file.with_suffix(".unfinished")
        with unfinished.open("wb") as target:
            np.save(target, values.numpy()[again])
        os.replace(unfinished, file)


def read(recipe: Recipe, mapped: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A recipe's images and labels, the images in memory or mapped from their file."""
    images_file, labels_file = files(recipe)
    pixels, labels = (np.lib.format.open_memmap(file, mode="c") for file in (images_file, labels_file))
    return pixels if mapped else np.array(pixels), np.array(labels)
