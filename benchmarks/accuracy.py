"""Whether a trick changes what the network learns, and how long the article's accuracy takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import article_way
import recipes
import torch
from parts import LENET
from task import Task

from helpers import data, runtime, training
from helpers.notebooks import load

SEEDS = (0, 1, 2)
RATE = 0.1  # with the article's rate it would take the article's 50,000 steps
VARIANTS: dict[str, dict[str, Any]] = {
    "all tricks": {},
    "image by image through a DataLoader": {"loader": True},
    "contiguous, not channels-last": {"layout": torch.contiguous_format},
    "plain optimizer, not fused": {"fused": False},
}


def batches(train: data.ImageSet, seed: int, loader: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels of one pass: the same images in the same order, whichever way they come."""
    device, task = train.images.device, Task(recipes.recipe(LENET), {})
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    if not loader:
        for chosen in order.to(device).split(task.recipe.batch):
            yield task.transform()(train.images[chosen]), train.labels[chosen]
        return
    pixels, labels = train.images.cpu().numpy(), train.labels.cpu().numpy()
    pictures = article_way.Pictures(pixels, labels, article_way.per_picture(task.recipe))
    source = torch.utils.data.DataLoader(pictures, batch_size=task.recipe.batch, sampler=order.tolist())
    for images, truth in source:
        yield images.to(device), truth.to(device)


def train_once(
    splits: data.Splits,
    seed: int,
    passes: int,
    *,
    loader: bool = False,
    layout: torch.memory_format = torch.channels_last,
    fused: bool = True,
    bf16: bool = False,
) -> float:
    """Test accuracy (0 to 1) of LeNet-5 after so many passes."""
    runtime.seed_everything(seed)
    model = load("01_lenet5").ArticleLeNet5().to(runtime.device(), memory_format=layout)
    train = splits.train.to(runtime.device())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, fused=fused)
    for number in range(passes):
        for images, labels in batches(train, 1_000 * seed + number, loader):
            inputs = images.contiguous(memory_format=layout)
            with torch.autocast(inputs.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
                logits = model(inputs)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
    test = splits.test.to(runtime.device())
    return training.evaluate(model, test, transform=data.scale(0, 1)).top1


def unchanged(splits: data.Splits, passes: int) -> dict[str, Any]:
    """Test accuracies by variant, one for each seed, and on what."""
    variants = VARIANTS | ({"bf16": {"bf16": True}} if runtime.has_bf16() else {})
    found = {
        label: [train_once(splits, seed, passes, **how) for seed in SEEDS] for label, how in variants.items()
    }
    return {
        "data": splits.name,
        "images": len(splits.train),
        "test_images": len(splits.test),
        "passes": passes,
        "top1": found,
    }


def time_to_target(network: str, splits: data.Splits, limit: float) -> dict[str, Any]:
    """Seconds of training with `fit` until the test accuracy is the article's, looked at after each pass.

    Args:
        network: one whose recipe has a target.
        splits: MNIST.
        limit: seconds of training after which to give up.
    """
    task = Task(recipes.recipe(network), {})
    model, loss_fn, transform = task.model(), task.loss(), task.transform()
    optimizer, train, test = task.optimizer(model), splits.train.to(runtime.device()), splits.test
    passes, seconds, images, top1 = 0, 0.0, 0, 0.0
    while top1 < task.recipe.target and seconds < limit:
        history = training.fit(
            model,
            train,
            optimizer=optimizer,
            batch_size=task.recipe.batch,
            transform=transform,
            epochs=1,
            loss_fn=loss_fn,
            seed=passes,
            progress=False,
        )
        passes, seconds, images = passes + 1, seconds + history.seconds, images + history.images
        top1 = training.evaluate(model, test, transform=transform, loss_fn=loss_fn).top1
    return {
        "target": task.recipe.target,
        "reached": top1 >= task.recipe.target,
        "top1": top1,
        "passes": passes,
        "images": images,
        "seconds": round(seconds, 2),
    }
