"""The articles' way: a data set of PIL pictures, a DataLoader, and a loop that asks for each step's loss."""

from __future__ import annotations

import time
from collections.abc import Callable

import images as stored_images
import numpy as np
import torch
from recipes import Recipe
from task import Run, Task, Timing, endless, synchronize

from helpers import runtime


class Pictures(torch.utils.data.Dataset):
    """Images as torchvision's data sets give them: one PIL picture at a time, through a transform."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """One picture, transformed, and its label."""
        from PIL import Image

        pixels = self.images[index]  # (C, H, W)
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2))
        return self.transform(picture), int(self.labels[index])


def per_picture(recipe: Recipe) -> Callable:
    """Torchvision's transforms for one PIL picture, to the same numbers as `Task.transform`."""
    from torchvision import transforms as vision  # here, because it takes seconds

    kind, first, second = recipe.scaling
    steps = [vision.RandomCrop(recipe.size), vision.RandomHorizontalFlip()] if recipe.augmented else []
    if recipe.border:
        steps.append(vision.Pad(recipe.border))
    steps.append(vision.ToTensor())
    if kind == "normalize":
        steps.append(vision.Normalize(first, second))
    elif (first, second) != (0, 1):  # scale(low, high), written as a mean and a deviation
        steps.append(vision.Normalize(-first / (second - first), 1 / (second - first)))
    return vision.Compose(steps)


def article(task: Task) -> Run:
    """A data set of PIL pictures, a DataLoader, and a loop that asks for the loss at each step.

    Settings: `workers`, the loader's processes (the articles have none).
    """
    device, loss_fn, model = runtime.device(), task.loss(), task.model().train()
    optimizer = task.optimizer(model)
    pictures = Pictures(*stored_images.read(task.recipe), per_picture(task.recipe))
    workers = task.settings.get("workers", 0)
    loader = torch.utils.data.DataLoader(
        pictures,
        batch_size=task.recipe.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    batches, losses, accuracies = endless(loader), [], []

    def run(steps: int) -> Timing:
        start = time.perf_counter()
        for _, (images, labels) in zip(range(steps), batches, strict=False):
            images, labels = images.to(device), labels.to(device)
            logits = model(images)
            loss = loss_fn(logits, labels)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            accuracies.append((logits.argmax(1) == labels).sum().item() / len(labels))
        synchronize()
        return Timing(time.perf_counter() - start, steps * task.recipe.batch)

    run.losses = losses
    return run
