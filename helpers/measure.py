"""What a training step costs in memory, and how a measured number is written."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn


def mean_and_deviation(values: Iterable[float], digits: int = 2, unit: str = "") -> str:
    """The mean of measured values as text, such as `97.39 ± 0.06 %`.

    Args:
        values: one a run, in the unit's measure. Behind ± stands their standard deviation (with n − 1 in the
            denominator); of one value there is none, and it stands alone.
        digits: decimals of both numbers.
        unit: text behind them, with the space that belongs before it.

    Raises:
        ValueError: there is no value.
    """
    values = [float(value) for value in values]
    if not values:
        raise ValueError("no value was given: a mean needs one run or more")
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}".replace("-", "−") + deviation + unit


def signed(value: float, digits: int = 2) -> str:
    """A difference as text, with a plus or a minus sign; without one if all its digits are 0."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def training_memory(model: nn.Module, images: torch.Tensor, *, states: int = 0) -> int:
    """Bytes that one training step must hold at once, the same on every device.

    Counted are the parameters, their gradients, the optimizer's state, the batch, and every tensor that the
    backward pass needs from the forward pass. Left out are the library's own work areas.

    Args:
        model: maps (N, C, H, W) float images to (N, K) logits; its mode and gradients are left as they were.
        images: (N, C, H, W) float, one batch on the model's device.
        states: tensors that the optimizer keeps per parameter: 0 for SGD, 1 with momentum, 2 for Adam.

    Raises:
        ValueError: `states` is negative.
    """
    if states < 0:
        raise ValueError(f"states={states}: use 0 for SGD, 1 with momentum, 2 for Adam")
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = model.training
    parameters = list(model.parameters())
    try:
        model.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(images)
            labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
            loss = F.cross_entropy(logits, labels)  # alive until counted, so that no memory is used twice
        weights = sum(p.untyped_storage().nbytes() for p in parameters)
        own = {p.untyped_storage().data_ptr() for p in parameters} | {images.untyped_storage().data_ptr()}
        activations = sum(size for pointer, size in kept.items() if pointer not in own)
        del loss
    finally:
        model.train(was_training)
    return weights * (2 + states) + images.untyped_storage().nbytes() + activations
