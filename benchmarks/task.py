"""One way of training one network, and what a way gives back: `prepare(task)` returns a function.

The function trains so many more steps and returns a `Timing`. What happens before the first step and after
the last one (building the model, compiling, a trainer's own set-up) is not timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import images as stored_images
from recipes import Recipe

from helpers import runtime, training, transforms
from helpers.data import ImageSet
from helpers.notebooks import load


class Timing(NamedTuple):
    """What one run of so many steps took: seconds, and images (or operations) that went through."""

    seconds: float
    images: int


Run = Callable[[int], Timing]


@dataclass
class Task:
    """One way of training one network: the recipe, and settings of the way."""

    recipe: Recipe
    settings: dict[str, Any]
    parameters: int = 0  # of the network, once it is built

    def model(self) -> nn.Module:
        """The notebook's network, freshly drawn from seed 0, on the device."""
        runtime.seed_everything(0)
        network = getattr(load(self.recipe.notebook), self.recipe.model)(**self.recipe.arguments)
        self.parameters = training.count_parameters(network)
        return network.to(runtime.device())

    def optimizer(self, model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
        """The recipe's optimizer over a model's parameters."""
        settings = {key: value for key, value in self.recipe.optimizer.items() if key != "kind"}
        kind = getattr(torch.optim, self.recipe.optimizer["kind"])
        return kind(model.parameters(), **settings, **changes)

    def loss(self) -> training.LossFunction:
        """The recipe's loss function."""
        known = getattr(nn.functional, self.recipe.loss, None)
        return known or getattr(load(self.recipe.notebook), self.recipe.loss)

    def transform(self) -> transforms.Transform:
        """What brings a uint8 batch (N, C, H, W) to the network's input, augmentation included."""
        kind, *arguments = self.recipe.scaling
        steps = [getattr(transforms, kind)(*arguments)]
        if self.recipe.augmented:
            steps = [transforms.random_crop(self.recipe.size), transforms.random_flip(), *steps]
        if self.recipe.border:
            steps.append(transforms.pad(self.recipe.border, arguments[0]))
        return transforms.compose(*steps)

    def images(self, mapped: bool = False) -> ImageSet:
        """The recipe's images as the course holds them."""
        pixels, labels = stored_images.read(self.recipe, mapped)
        classes = tuple("0123456789")
        return ImageSet(torch.from_numpy(pixels), torch.from_numpy(labels), classes, "benchmark")


def synchronize() -> None:
    """Wait for an accelerator."""
    if runtime.device().type != "cpu":
        torch.accelerator.synchronize()


def endless(loader: Iterable) -> Iterator:
    """The batches of a loader, pass after pass; a smaller one at a pass's end is left out."""
    while True:
        yield from loader
