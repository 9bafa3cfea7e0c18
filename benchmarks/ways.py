"""The ways of training that are raced, each behind one interface: `prepare(task)` returns a function.

The function trains so many more steps and returns a `Timing`. What happens before the first step and after
the last one (building the model, compiling, the trainer's own set-up) is not timed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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


# ---- the article's way ---------------------------------------------------------------------------------


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


def endless(loader: Iterable) -> Iterator:
    """The batches of a loader, pass after pass; a smaller one at a pass's end is left out."""
    while True:
        yield from loader


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


# ---- a loop with one trick after another ---------------------------------------------------------------


def loop(task: Task) -> Run:
    """Images as uint8 in memory; settings switch the tricks on.

    Settings: `whole_batches` (one gather and one transform a batch, not one an image), `no_wait` (losses stay
    on the device), `fused` (the optimizer in one kernel), `channels_last`, `keep_memory` (the allocator keeps
    what is freed), `compile`, `bf16` (autocast).
    """
    on = task.settings.get
    if on("keep_memory"):
        runtime.keep_freed_memory()
    device, loss_fn, transform, data = runtime.device(), task.loss(), task.transform(), task.images()
    images, labels, batch = data.images.to(device), data.labels.to(device), task.recipe.batch
    layout = torch.channels_last if on("channels_last") else torch.contiguous_format
    model = task.model().train().to(memory_format=layout)
    optimizer = task.optimizer(model, **({"fused": True} if on("fused") else {}))
    network = torch.compile(model) if on("compile") else model
    losses, accuracies = [], []

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            for chosen in torch.randperm(len(labels), device=device).split(batch):
                if len(chosen) < batch:
                    continue
                if on("whole_batches"):
                    yield transform(images[chosen]), labels[chosen]
                else:
                    yield torch.cat([transform(images[i : i + 1]) for i in chosen.tolist()]), labels[chosen]

    source = batches()
    keep = torch.Tensor.detach if on("no_wait") else torch.Tensor.item

    def run(steps: int) -> Timing:
        synchronize()
        start = time.perf_counter()
        for _, (inputs, truth) in zip(range(steps), source, strict=False):
            inputs = inputs.contiguous(memory_format=layout)
            with torch.autocast(device.type, torch.bfloat16) if on("bf16") else contextlib.nullcontext():
                logits = network(inputs)
            loss = loss_fn(logits.float(), truth)
            losses.append(keep(loss))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            accuracies.append(keep((logits.argmax(1) == truth).float().mean()))
        synchronize()
        return Timing(time.perf_counter() - start, steps * batch)

    run.losses = losses
    return run


# ---- the course's way, and the limit -------------------------------------------------------------------


def fit(task: Task) -> Run:
    """`helpers.training.fit`; setting `mapped` maps the images from their file."""
    model, images = task.model(), task.images(task.settings.get("mapped", False))
    if not task.settings.get("mapped"):
        images = images.to(runtime.device())
    how = {
        "optimizer": task.optimizer(model),
        "batch_size": task.recipe.batch,
        "transform": task.transform(),
        "loss_fn": task.loss(),
        "progress": False,
    }

    def run(steps: int) -> Timing:
        history = training.fit(model, images, steps=steps, **how)
        return Timing(history.seconds, history.images)

    return run


def bare_step(task: Task) -> Run:
    """Forward, backward and update on one fixed batch: no data, no record."""
    runtime.keep_freed_memory()
    loss_fn, batch = task.loss(), task.recipe.batch
    model = task.model().train().to(memory_format=torch.channels_last)
    optimizer, data = task.optimizer(model), task.images(mapped=True)
    inputs = task.transform()(data.images[:batch]).to(runtime.device())
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = data.labels[:batch].to(runtime.device())

    def run(steps: int) -> Timing:
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            loss_fn(model(inputs), labels).backward()
            optimizer.step()
        synchronize()
        return Timing(time.perf_counter() - start, steps * batch)

    return run


def matrix_product(task: Task) -> Run:
    """Products of two square matrices: what the device can reach. `images` counts operations here.

    Settings: `size` in rows, `dtype`.
    """
    size, dtype = task.settings["size"], getattr(torch, task.settings["dtype"])
    left, right = (torch.randn(size, size, device=runtime.device()).to(dtype) for _ in range(2))
    result = left @ right

    def run(steps: int) -> Timing:
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            torch.mm(left, right, out=result)
        synchronize()
        return Timing(time.perf_counter() - start, steps * 2 * size**3)

    return run


# ---- images that are read while training ---------------------------------------------------------------


class Streamed(torch.utils.data.Dataset):
    """Images read from their file one at a time, when they are asked for."""

    def __init__(self, task: Task) -> None:
        file, _ = stored_images.files(task.recipe)
        mapped, self.labels = stored_images.read(task.recipe, mapped=True)
        self.file, self.offset, self.shape = file.open("rb", buffering=0), mapped.offset, mapped.shape[1:]
        self.bytes = int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """One uint8 image (C, H, W) and its label."""
        self.file.seek(self.offset + index * self.bytes)
        pixels = np.frombuffer(bytearray(self.file.read(self.bytes)), np.uint8)
        return torch.from_numpy(pixels).reshape(self.shape), int(self.labels[index])


def streamed(task: Task) -> Run:
    """A DataLoader that reads each image from disk; scaling by the batch, and the same step as `loop`."""
    runtime.keep_freed_memory()
    device, loss_fn, transform = runtime.device(), task.loss(), task.transform()
    model = task.model().train().to(memory_format=torch.channels_last)
    optimizer = task.optimizer(model)
    loader = torch.utils.data.DataLoader(
        Streamed(task), batch_size=task.recipe.batch, shuffle=True, drop_last=True
    )
    batches = endless(loader)

    def run(steps: int) -> Timing:
        synchronize()
        start = time.perf_counter()
        for _, (images, labels) in zip(range(steps), batches, strict=False):
            inputs = transform(images.to(device)).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            loss_fn(model(inputs), labels.to(device)).backward()
            optimizer.step()
        synchronize()
        return Timing(time.perf_counter() - start, steps * task.recipe.batch)

    return run


WAYS: dict[str, Callable[[Task], Run]] = {
    "article": article,
    "loop": loop,
    "fit": fit,
    "bare step": bare_step,
    "matrix product": matrix_product,
    "streamed": streamed,
}
