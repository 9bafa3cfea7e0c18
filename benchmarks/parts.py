"""The parts of the benchmark as races: who runs against whom, and on what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import recipes
from race import Task

WAYS = ("article", "keras", "lightning", "fit", "bare step")
RIVALS = ("keras", "lightning", "article")
LENET = "LeNet-5 (article)"
BATCHES = (1, 10, 100, 1_000, 10_000)
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
DIVISORS = (8, 4, 2, 1)  # of VGG16's filters
ALL = {"whole_batches": True, "no_wait": True, "fused": True, "channels_last": True, "keep_memory": True}
TRICKS = {  # in the order in which they are added
    "whole_batches": "one gather and one scale a batch",
    "no_wait": "no waiting for the loss",
    "fused": "fused optimizer",
    "channels_last": "channels-last",
    "keep_memory": "freed memory is kept",
}


@dataclass(frozen=True)
class Race:
    """One race: its place in the results, the tasks by label, the networks whose images it needs."""

    place: tuple[str, ...]
    tasks: dict[str, Task]

    def recipes(self) -> Iterator[recipes.Recipe]:
        """The recipes of its tasks."""
        for task in self.tasks.values():
            yield recipes.recipe(task["network"], **task.get("changes", {}))


def task(way: str, network: str, settings: dict[str, Any] | None = None, **changes: Any) -> Task:
    """What a worker is told."""
    return {"way": way, "network": network, "settings": settings or {}, "changes": changes}


def matrix_product(accelerator: bool, bf16: bool) -> Task:
    """The measure of what the device can do: bf16 on an accelerator, on a processor as the network has it."""
    dtype = "bfloat16" if accelerator or bf16 else "float32"
    return task("matrix product", "MLP", {"size": 8192 if accelerator else 1024, "dtype": dtype})


def compare(
    networks: list[str], rivals: list[str], accelerator: bool, has_bf16: bool = False
) -> Iterator[Race]:
    """Every network in every way; Keras is left out on an accelerator, where its package here has no part."""
    rivals = [rival for rival in rivals if not (accelerator and rival == "keras")]
    for network in networks:
        ways = [way for way in WAYS if way not in RIVALS or way in rivals]
        tasks = {way: task(way, network) for way in ways}
        product = matrix_product(accelerator, has_bf16 and recipes.recipe(network).bf16)
        yield Race(("compare", network), tasks | {"matrix product": product})


def growth() -> Iterator[Race]:
    """Speed by batch size, by number of images and where they lie, and by the network's width."""
    for batch in BATCHES:
        tasks = {way: task(way, LENET, batch=batch) for way in ("article", "fit")}
        yield Race(("growth", "batch", str(batch)), tasks)
    for count in COUNTS:
        tasks = {
            "in memory": task("fit", LENET, count=count),
            "memory-mapped": task("fit", LENET, {"mapped": True}, count=count),
            "streamed": task("streamed", LENET, count=count),
        }
        yield Race(("growth", "data", str(count)), tasks)
    for divisor in DIVISORS:
        changes = {"arguments": {"width_divisor": divisor}}
        tasks = {way: task(way, recipes.SMALL_VGG_NAME, **changes) for way in ("fit", "bare step")}
        yield Race(("growth", "width", str(divisor)), tasks)


def ladder(network: str) -> dict[str, Task]:
    """The article's way, then one trick after another on top of those before."""
    tasks = {
        "the article's way": task("article", network),
        "uint8 images in memory": task("loop", network),
    }
    on: dict[str, bool] = {}
    for trick, label in TRICKS.items():
        on = on | {trick: True}
        tasks[label] = task("loop", network, on)
    return tasks


def extras(network: str, bf16: bool) -> dict[str, Task]:
    """All tricks, and what else one might try: added to them, or to the article's way."""
    return {
        "all tricks": task("loop", network, ALL),
        "torch.compile": task("loop", network, ALL | {"compile": True}),
        **({"bf16": task("loop", network, ALL | {"bf16": True})} if bf16 else {}),
        "the article's way": task("article", network),
        "two loader processes": task("article", network, {"workers": 2}),
    }


def tricks(has_bf16: bool) -> Iterator[Race]:
    """What each trick gives, and what else was tried, for a small and a large network.

    Where bf16 is emulated only the small network tries it: the large one would take minutes.
    """
    for network in (LENET, recipes.SMALL_VGG_NAME):
        yield Race(("tricks", network, "ladder"), ladder(network))
        yield Race(("tricks", network, "extras"), extras(network, has_bf16 or network == LENET))
