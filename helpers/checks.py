"""What is looked at before a network is trained or measured: do the parts that were given belong together?

Each error is one line that says what to do. No weight, no mode and no random state is changed.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import nn

from helpers import checkpoints
from helpers.data import ImageSet


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """The value as an int.

    Raises:
        ValueError: it is no whole number, or below the least one.
    """
    try:
        number = index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: use a whole number from {least} on") from None
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: use {least} or more")
    return number


def image_set(name: str, value: Any) -> None:
    """Refuse what is no `ImageSet`, as the three parts together, or a bare tensor.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, ImageSet):
        advice = "take one of its parts, .train, .val or .test" if hasattr(value, "train") else "make it one"
        kind = type(value).__name__
        raise ValueError(f"{name} must be an ImageSet, as mnist().train is, not {kind}: {advice}")


def network(model: Any) -> None:
    """Refuse what is no network, such as a class that was not called.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(model, type):
        raise ValueError(f"the model is the class {model.__name__}: call it, {model.__name__}()")
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model must be a torch.nn.Module, not {type(model).__name__}")


def belongs_together(model: nn.Module, optimizer: Any, scheduler: Any, loss_fn: Callable, steps: int) -> None:
    """Refuse an optimizer of other parameters, a scheduler of another optimizer, and either of a wrong kind.

    Raises:
        ValueError: one of these; the message says what to do.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"the optimizer must be one of torch.optim, built from this model's parameters, "
            f"not {type(optimizer).__name__}"
        )
    updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {
        id(p) for module in (model, loss_fn) if isinstance(module, nn.Module) for p in module.parameters()
    }
    foreign = sum(id(parameter) not in known for parameter in updated)
    if foreign:
        raise ValueError(
            f"the optimizer updates {foreign} of {len(updated)} parameters that are not this model's: "
            f"build it anew from model.parameters(), after the model"
        )
    if not any(parameter.requires_grad for parameter in updated):
        raise ValueError("all parameters of the optimizer are frozen: set requires_grad on those to train")
    _steps_alone("optimizer", optimizer)
    if scheduler is None:
        return
    if not callable(getattr(scheduler, "step", None)) or isinstance(scheduler, type):
        raise ValueError(f"the scheduler must be one of torch.optim.lr_scheduler, not {scheduler!r}")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError("the scheduler belongs to another optimizer: build it anew from the one given here")
    _steps_alone("scheduler", scheduler)
    last, end = getattr(scheduler, "last_epoch", 0), getattr(scheduler, "total_steps", None)
    if isinstance(end, int) and last + steps > end:
        raise ValueError(
            f"the scheduler {type(scheduler).__name__} ends after {end - last:,} steps, the training "
            f"after {steps:,}: build it with total_steps={steps + last}"
        )


def _steps_alone(name: str, thing: Any) -> None:
    """Refuse an optimizer or scheduler whose `step` wants something that `fit` has not."""
    _, *parameters = inspect.signature(type(thing).step).parameters.values()
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [p.name for p in parameters if p.default is p.empty and p.kind not in stars]
    if wanted:
        advice = {"optimizer": "SGD or Adam", "scheduler": "StepLR or CosineAnnealingLR"}[name]
        raise ValueError(
            f"the {name} {type(thing).__name__} wants its {wanted[0]} at each step, which fit has not: "
            f"use another one, such as {advice}"
        )


def hook_pairs(hooks: Any) -> list[tuple[int, Callable]]:
    """The hooks as pairs of a whole number and a function.

    Raises:
        ValueError: they are something else.
    """
    pairs = list(hooks) if isinstance(hooks, Sequence) else [hooks]
    if any(not isinstance(pair, Sequence) or len(pair) != 2 or not callable(pair[1]) for pair in pairs):
        raise ValueError("hooks must be pairs of a number of steps and a function, as in hooks=[(100, note)]")
    return [(whole_number("the steps between two calls of a hook", every), hook) for every, hook in pairs]


def checkpoint_path(path: Path | str) -> Path:
    """The path of a checkpoint that can be written, its folder made if need be.

    Raises:
        ValueError: it names no file, or its folder can't be made or written.
    """
    if not str(path) or Path(path) == Path():
        raise ValueError(
            f"checkpoint={str(path)!r} names no file: write one, such as 'run.pt', or leave it out"
        )
    try:
        file = Path(path).expanduser()
        if file.is_dir():
            raise ValueError(f"checkpoint={str(path)!r} is a folder: name a file in it, such as run.pt")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"checkpoint={str(path)!r} can't be written ({why}): name another folder") from None
    return file


def same_classes(train: ImageSet, val: ImageSet) -> None:
    """Refuse a validation set of other classes than the training set's.

    Raises:
        ValueError: the names or their order differ.
    """
    if train.classes != val.classes:
        pairs = zip(train.classes, val.classes, strict=False)
        one, other = next(((a, b) for a, b in pairs if a != b), (len(train.classes), len(val.classes)))
        raise ValueError(
            f"{val.name!r} has other classes than {train.name!r} ({other!r} where that has {one!r}): "
            "labels would mean different things"
        )


def validation_pass(model: nn.Module, data: ImageSet, transform: Callable, loss_fn: Callable) -> None:
    """Send two images of the validation set through everything, so that no error waits for an epoch's end.

    Raises:
        ValueError: what goes in or comes out can't be used; the message names the layer or the function.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile: it would compile once more for two images
    device = next(model.parameters()).device
    pixels, labels = (part[:2].to(device, copy=True) for part in (data.images, data.labels))
    with _same_random_state(), in_eval_mode(model), torch.no_grad():
        loss(loss_fn, outputs(model, transformed(transform, pixels), data), labels)


def transformed(transform: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The images that a transform makes of a uint8 batch, in channels-last order.

    Raises:
        ValueError: it is no function, or returns something else.
    """
    if not callable(transform):
        raise ValueError(f"the transform must be a function, as scale(0, 1) is, not {transform!r}")
    images = transform(pixels)
    if not isinstance(images, torch.Tensor):
        raise ValueError(f"the transform must return a tensor, not {type(images).__name__}")
    if len(images) != len(pixels):
        raise ValueError(
            f"the transform makes {len(images)} images of {len(pixels)}: it must keep their number"
        )
    return images


def outputs(model: nn.Module, images: torch.Tensor, data: ImageSet) -> torch.Tensor:
    """The logits (N, K) of a batch, K being the number of classes or more.

    Raises:
        ValueError: a layer does not take what it gets, or the network returns something else.
    """
    try:
        logits = model(images)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(refusal(model, images, error)) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(images):
        given = _shape(logits) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"the network must return logits (N, K), one row an image, not {given}")
    classes = len(data.classes)
    if logits.shape[1] < classes:
        raise ValueError(
            f"the network has {logits.shape[1]} outputs, {data.name!r} has {classes} classes: "
            f"its last layer needs {classes}"
        )
    return logits


def loss(loss_fn: Callable, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, a scalar.

    Raises:
        ValueError: the loss function does not take logits and labels, or returns more than one number; or no
            gradient leads from it to the weights, where one is asked for.
    """
    try:
        value = loss_fn(logits, labels)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        given = f"logits {_shape(logits)} and labels {_shape(labels)}"
        raise ValueError(f"the loss function can't take {given}: {_first(error)}") from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        given = _shape(value) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"the loss function must return one number, the mean over the batch, not {given}")
    if torch.is_grad_enabled() and not value.requires_grad:
        raise ValueError("no gradient leads from the loss to the weights: look for detach, .data or no_grad")
    return value


def refusal(model: nn.Module, images: torch.Tensor, error: Exception) -> str:
    """One line on a forward pass that failed: which layer, and what it was given."""
    entered: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, inputs: tuple) -> None:
            given = [_shape(value) for value in inputs if isinstance(value, torch.Tensor)]
            entered.append(f"layer {name}, {layer}, does not take {', '.join(given) or 'that'}")

        return look

    leaves = [(name, layer) for name, layer in model.named_modules() if not any(layer.children())]
    done: list[Any] = []
    handles = [layer.register_forward_pre_hook(note(name or "of the network")) for name, layer in leaves]
    handles += [layer.register_forward_hook(lambda *_: done.append(entered.pop())) for _, layer in leaves]
    try:
        with torch.no_grad():
            model(images)
    except RuntimeError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    where = entered[-1] if entered else f"the network does not take {_shape(images)}"
    why = (
        _first(error)
        if images.is_floating_point()
        else "begin the transform with scale(0, 1) or normalize(…)"
    )
    return f"{where}: {why}"


@contextmanager
def _same_random_state() -> Iterator[None]:
    """What is drawn inside is drawn again afterwards."""
    states = checkpoints.generator_states()
    try:
        yield
    finally:
        checkpoints.set_generator_states(states)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with the mode of each layer restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def _shape(tensor: torch.Tensor) -> str:
    """Kind and shape of a tensor in a few words, such as `float32 (2, 1, 28, 28)`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _first(error: Exception) -> str:
    """The first line of what torch says."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
