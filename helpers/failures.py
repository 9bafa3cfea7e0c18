"""What to say when a training step fails: which layer, the likely cause, and what would work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

SLOWER = "lower the learning rate"


def not_finite(model: nn.Module, *, gradients: bool = False) -> list[str]:
    """Names of the parameters, in the model's order, whose values (or gradients) are not all finite."""
    named = ((name, p.grad if gradients else p) for name, p in model.named_parameters())
    return [name for name, tensor in named if tensor is not None and not _all_finite(tensor.detach())]


def _all_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is infinite or NaN: by the extremes, a tenth of the time of looking at each value."""
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


@torch.no_grad()
def first_overflow(model: nn.Module, images: torch.Tensor) -> str | None:
    """Name of the first layer whose output is not finite on a batch, or None if there is none.

    Args:
        model: goes through one more forward pass, in the mode it is in.
        images: (N, C, H, W) float, as the model expects them.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return look

    leaves = [(name, layer) for name, layer in model.named_modules() if name and not any(layer.children())]
    handles = [layer.register_forward_hook(watch(name)) for name, layer in leaves]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def explain_non_finite(step: int, state: Any) -> str:
    """One line on the likely cause of a loss that is not finite, judged by what is finite and what is not.

    Args:
        step: the first step whose loss is not finite, counted from 1.
        state: the run's `State` at that step or soon after.
    """
    broken = not_finite(state.model)
    # Where the check comes late, on an accelerator, updates have broken the weights whatever the cause.
    if not torch.isfinite(state.images).all():
        cause = "the batch holds non-finite pixels: check the transform"
    elif state.step == step and (state.logits.abs() < 1e6).all():
        cause = "the logits are finite: the loss divides by 0 or takes the log of 0; use one made for logits"
    elif broken:
        cause = f"the weights of {broken[0]} are not finite any more: {SLOWER}"
    else:
        layer = first_overflow(state.model, state.images)
        cause = f"the {'logits' if layer is None else f'outputs of {layer}'} overflow: {SLOWER}"
    return f"the loss is not finite at step {step:,}: {cause}"


def explain_gradient(step: int, state: Any) -> str:
    """One line on a gradient that is not finite although the loss is.

    Args:
        step: the first step with such a gradient, counted from 1.
        state: the run's `State` at that step or soon after.
    """
    broken = not_finite(state.model, gradients=True)
    # Backwards from the loss, the last parameter is the first to see it.
    whose = f"the gradient of {broken[-1]}" if broken else "a gradient"
    if state.step == step and (state.logits.abs() < 1e6).all():
        cause = (
            "something has no finite slope there, as a square root or logarithm at 0: add a little inside it"
        )
    else:
        cause = SLOWER
    return f"{whose} is not finite at step {step:,}: {cause}"


def batch_that_fits(attempt: Callable[[int], None], batch_size: int) -> int:
    """The largest of a half, a quarter … of the batch whose attempt has memory enough; 0 if none has.

    Args:
        attempt: does a training step's work, without the update, on so many images.
        batch_size: images of the step for which there was not enough memory.
    """
    size = batch_size // 2
    while size:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            size //= 2
        else:
            return size
    return 0
