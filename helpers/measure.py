"""What a training step costs in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


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
