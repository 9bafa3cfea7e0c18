"""The ways of training with torch alone, one trick after another, up to the course's own and the limit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import images as stored_images
import numpy as np
import torch
from article_way import article
from task import Run, Task, Timing, endless, synchronize

from helpers import runtime, training


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
        "optimizer": task.optimizer(model, fused=task.recipe.fused),
        "batch_size": task.recipe.batch,
        "transform": task.transform(),
        "loss_fn": task.loss(),
        "bf16": task.recipe.bf16,
        "progress": False,
    }

    def run(steps: int) -> Timing:
        history = training.fit(model, images, steps=steps, **how)
        return Timing(history.seconds, history.images)

    return run


def bare_step(task: Task) -> Run:
    """Forward, backward and update on one fixed batch: no data, no record. Precision as in `fit`."""
    runtime.keep_freed_memory()
    bf16 = task.recipe.bf16 and runtime.has_bf16()
    loss_fn, batch = task.loss(), task.recipe.batch
    model = task.model().train().to(memory_format=torch.channels_last)
    optimizer, data = task.optimizer(model, fused=task.recipe.fused), task.images(mapped=True)
    inputs = task.transform()(data.images[:batch]).to(runtime.device())
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = data.labels[:batch].to(runtime.device())

    def run(steps: int) -> Timing:
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
                logits = model(inputs)
            loss_fn(logits.float(), labels).backward()
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
