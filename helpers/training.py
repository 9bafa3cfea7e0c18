"""Train and evaluate a classifier on an `ImageSet`: one loop for every notebook.

Images stay uint8 on the training device; shuffling, gathering and scaling happen there on whole batches,
and no step waits for an accelerator. A run can be cut at any point and resumed bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from helpers import checks, runtime
from helpers.data import ImageSet
from helpers.failures import SLOWER, batch_that_fits, explain_gradient, explain_non_finite, not_finite
from helpers.progress import ProgressLine
from helpers.resume import Saves

COUNTED_TOGETHER = 32  # steps whose hits are counted in one go
GATHERED_TOGETHER = 2**21  # bytes of images that are gathered in one go, or one batch if that is more

Transform = Callable[[torch.Tensor], torch.Tensor]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class State:
    """What a hook sees after a step.

    `step` counts from 1, `epoch` from 0. `images` is the transformed batch (N, C, H, W), `labels` (N,),
    `logits` (N, K) as the model returned them before this step's update, `loss` a scalar tensor.
    """

    step: int
    epoch: int
    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor
    loss: torch.Tensor


Hook = tuple[int, Callable[[State], None]]


@dataclass
class History:
    """What a training run measured.

    `loss` and `accuracy` (0 to 1) hold one value a step, on that step's batch; `val` one entry an epoch with
    `step`, `epoch`, `loss` and `top1`. `images` counts the training images seen. `seconds` is the time spent
    in steps and hooks; validation and checkpoints are left out.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val: list[dict[str, float]] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return len(self.loss)

    @property
    def images_per_second(self) -> float:
        """Training images processed a second."""
        return self.images / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Evaluation:
    """The measures of one pass over a set, each averaged over its images.

    `loss` is the mean loss; `top1` and `top5` are accuracies from 0 to 1; `confusion` (K, K) int64 counts
    [true class, predicted class]; `predicted` (N,) int64 and `probabilities` (N, K) float32 lie on the CPU.
    """

    loss: float
    top1: float
    top5: float
    confusion: torch.Tensor
    predicted: torch.Tensor
    probabilities: torch.Tensor

    @property
    def count(self) -> int:
        """Number of images evaluated."""
        return len(self.predicted)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter.

    Raises:
        ValueError: the model has no parameters.
    """
    for parameter in model.parameters():
        return parameter.device
    raise ValueError("the model has no parameters: there is nothing to train or evaluate")


def fit(
    model: nn.Module,
    train: ImageSet,
    *,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    transform: Transform,
    steps: int | None = None,
    epochs: int | None = None,
    loss_fn: LossFunction = F.cross_entropy,
    seed: int = 0,
    shuffle: bool = True,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    val: ImageSet | None = None,
    val_transform: Transform | None = None,
    val_batch_size: int = 1000,
    hooks: Sequence[Hook] = (),
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 1000,
    bf16: bool = False,
    progress: bool = True,
    label: str = "training",
) -> History:
    """Train a model, in place, and return what was measured.

    Each epoch visits every image once in an order drawn from `seed` and the epoch's number; the last batch
    of an epoch is smaller if the batch size does not divide the set. Dropout draws from torch's global
    generator: call `runtime.seed_everything` first. The model is left in training mode, its convolution
    weights in channels-last order (same values, faster).

    A run without `checkpoint` saves itself once a minute in `checkpoints/`, under a name made of all that
    determines it. The same call after a crash, from the same starting weights and random state, continues
    there and says so; the file goes when the run ends. A hook that notes what it sees must have `state_dict`
    and `load_state_dict`, so that its notes are saved too: with any other hook the run does not save itself.

    Args:
        model: maps (N, C, H, W) float images to (N, K) logits; stays on its device.
        train: the training images.
        optimizer: over the model's parameters.
        batch_size: images a step.
        transform: turns a uint8 batch (N, C, H, W) into the model's float input.
        steps: number of optimizer steps; give this or `epochs`.
        epochs: number of passes over the set.
        loss_fn: maps logits (N, K) and labels (N,) to the mean loss over the batch.
        seed: of the shuffling.
        shuffle: False keeps the set's own order.
        scheduler: stepped once after each optimizer step.
        val: evaluated after each epoch and after the last step.
        val_transform: what `val` goes through where `transform` draws at random; by default `transform`.
        val_batch_size: images a pass of that evaluation.
        hooks: pairs (n, function); the function gets the `State` every n steps. The `state_dict` of one that
            has it is saved with the run: tensors, numbers, texts, and lists, tuples and dicts of these. The
            tensors come back on the model's device.
        checkpoint: file to continue from if it exists, and to save to. It is refused if network, data,
            validation data, schedule or anything else in it differs, the functions' code too; hooks that
            can't be saved are not compared.
        checkpoint_every: steps between saves; the end of the run is always saved.
        bf16: compute convolutions and matrix products in bfloat16 where that is faster, as measured on this
            machine (`runtime.has_bf16`); elsewhere in float32. Weights, loss, update and validation stay
            float32.
        progress: show one progress line.
        label: what the progress line calls this run.

    Raises:
        ValueError: before the first step, if sizes are impossible, parts do not belong together (optimizer
            and model, scheduler and optimizer, outputs and classes), a layer does not take what it gets, or
            a checkpoint can't be written or belongs to another run (the difference is named).
        FloatingPointError: the loss or a gradient is not finite; says the step, the layer and the likely
            cause. On a CPU that step's update is not made. The last checkpoint stays as it is.
        torch.OutOfMemoryError: the accelerator's memory is full; says which batch size would fit.
    """
    checks.network(model)
    checks.image_set("train", train)
    batch_size = checks.whole_number("batch_size", batch_size)
    total = _total_steps(len(train), batch_size, steps, epochs)
    checkpoint_every = checks.whole_number("checkpoint_every", checkpoint_every)
    val_batch_size = checks.whole_number("val_batch_size", val_batch_size)
    hooks = checks.hook_pairs(hooks)
    val_transform = transform if val_transform is None else val_transform
    device_of(model)
    checks.belongs_together(model, optimizer, scheduler, loss_fn, total)
    if val is not None:
        checks.image_set("val", val)
        checks.same_classes(train, val)
        checks.validation_pass(model, val, val_transform, loss_fn)
    checkpoint = None if checkpoint is None else checks.checkpoint_path(checkpoint)
    runtime.keep_freed_memory()
    run = _Run(model, train.to(device_of(model)), optimizer, batch_size, transform, loss_fn, scheduler, total)
    run.bf16 = bf16 and runtime.has_bf16(run.device)
    run.order_by(seed, shuffle)
    run.validate_on(val, val_transform, val_batch_size)
    saves = Saves(run, checkpoint, hooks)
    step = saves.resume()
    if saves.automatic and step:
        print(f"{label}: goes on at step {step:,} of {total:,}, where it was interrupted")
    with ProgressLine(label, total, enabled=progress) as line:
        run.clock = time.perf_counter()
        while step < total:
            state = run.train_step(step)
            step = line.step = state.step
            for every, hook in hooks:
                if step % every == 0:
                    hook(state)
            save = checkpoint is not None and (step % checkpoint_every == 0 or step == total)
            if save or step == total or not run.sound or (run.device.type != "cpu" and step % 100 == 0):
                run.check_finite(state)
            if save or step == total:
                run.check_weights(step)
            if line.due():
                loss = state.loss.item()
                line.update(step, run.images, f"loss {loss:.4f}", loss)
            if val is not None and (step % run.per_epoch == 0 or step == total):
                with run.untimed():
                    run.validate(state)
            if save:
                with run.untimed():
                    saves.save(checkpoint, step)
            elif step < total and saves.is_due():
                with run.untimed():
                    run.check_finite(state)
                    run.check_weights(step)
                    saves.save_by_itself(step)
        with run.untimed():
            history = run.history()
            saves.forget()
        line.finish(f"{history.seconds:,.0f} s, {history.images_per_second:,.0f} images/s")
    return history


def _total_steps(count: int, batch_size: int, steps: int | None, epochs: int | None) -> int:
    """Number of steps, from exactly one of steps and epochs."""
    if (steps is None) == (epochs is None):
        raise ValueError("say how long to train: give steps or epochs, one of the two")
    if steps is not None:
        return checks.whole_number("steps", steps)
    return checks.whole_number("epochs", epochs) * -(-count // batch_size)


class _Run:
    """The moving parts of one call of `fit`."""

    def __init__(self, model, train, optimizer, batch_size, transform, loss_fn, scheduler, total):
        self.model = model.to(memory_format=torch.channels_last).train()
        self.train, self.optimizer, self.scheduler = train, optimizer, scheduler
        self.batch_size, self.transform, self.loss_fn, self.total = batch_size, transform, loss_fn, total
        self.device = device_of(model)
        self.per_epoch = -(-len(train) // batch_size)
        self.losses = torch.zeros(total, device=self.device)
        self.accuracies = torch.zeros(total, device=self.device)
        self.uncounted: list[tuple[torch.Tensor, torch.Tensor]] = []  # logits and labels of the last steps
        self.gradients = torch.zeros(total, device=self.device)  # finite where all of a step's gradients are
        self.broken, self.one = torch.zeros(()), torch.ones(())  # of that check on a CPU
        self.bf16 = False
        self.val: list[dict[str, float]] = []
        self.images, self.seconds, self.checked = 0, 0.0, 0
        self.clock = time.perf_counter()

    def order_by(self, seed: int, shuffle: bool) -> None:
        """Fix how each epoch is ordered; the order is a function of seed and epoch alone."""
        self.seed, self.shuffle, self.order = seed, shuffle, None
        self.gathered: list[tuple[torch.Tensor, torch.Tensor]] = []  # batches of the next steps

    def validate_on(self, val: ImageSet | None, transform: Transform, batch_size: int) -> None:
        """Fix what each validation runs on."""
        self.val_set, self.val_transform, self.val_batch_size = val, transform, batch_size

    def chosen(self, step: int, count: int) -> torch.Tensor:
        """Which images come from a step on, at most so many and all of its epoch."""
        epoch, position = divmod(step, self.per_epoch)
        if self.order is None or position == 0:
            generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch)
            total = len(self.train)
            self.order = (
                torch.randperm(total, generator=generator, device=self.device)
                if self.shuffle
                else torch.arange(total, device=self.device)
            )
        return self.order[position * self.batch_size :][:count]

    def gather(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The uint8 images of these numbers and their labels, on the device."""
        # index_select: an index in brackets, checked and broadcast, takes nine times as long.
        return self.train.images.index_select(0, chosen), self.train.labels.index_select(0, chosen)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The uint8 images and the labels of one step, on the device; those of the next steps are kept."""
        if not self.gathered:
            batches = max(1, GATHERED_TOGETHER // (self.batch_size * self.train.images[0].nbytes))
            parts = self.gather(self.chosen(step, batches * self.batch_size))
            self.gathered = list(zip(*(part.split(self.batch_size) for part in parts), strict=True))[::-1]
        return self.gathered.pop()

    def updated(self) -> list[nn.Parameter]:
        """The parameters that the optimizer updates."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def train_step(self, step: int) -> State:
        """One forward pass, backward pass and update, or an error that says which batch size would fit."""
        try:
            return self._train_step(step, *self.batch(step))
        except torch.OutOfMemoryError:
            self.gathered.clear()  # what else the step held is free only once its error is gone
        count = min(self.batch_size, len(self.train) - step % self.per_epoch * self.batch_size)
        fits = batch_that_fits(lambda size: self._backward(*self.gather(self.chosen(step, size))), count)
        advice = f"batch_size={fits} would fit" if fits else "not even one image fits"
        raise torch.OutOfMemoryError(f"out of memory at step {step + 1:,} with {count:,} images: {advice}")

    def _backward(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Transformed images, logits and loss of a batch, after the backward pass."""
        images = checks.transformed(self.transform, pixels)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = checks.outputs(self.model, images, self.train)
        if self.bf16:
            logits = logits.float()
        loss = checks.loss(self.loss_fn, logits, labels)
        for parameter in self.updated():  # as zero_grad does, without its 40 microseconds for profilers
            parameter.grad = None
        loss.backward()
        return images, logits.detach(), loss.detach()

    def _train_step(self, step: int, pixels: torch.Tensor, labels: torch.Tensor) -> State:
        images, logits, loss = self._backward(pixels, labels)
        self.losses[step] = loss
        self.sound = self.is_sound(step, loss)
        if self.sound:
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()
        self.images += len(labels)
        if self.uncounted and len(self.uncounted[0][1]) != len(labels):
            self.count_hits(step)
        self.uncounted.append((logits, labels))
        if len(self.uncounted) == COUNTED_TOGETHER:
            self.count_hits(step + 1)
        return State(step + 1, step // self.per_epoch, self.model, images, labels, logits, loss)

    def is_sound(self, step: int, loss: torch.Tensor) -> bool:
        """Whether loss and gradients are finite; on an accelerator noted for later, and True."""
        gradients = [parameter.grad for parameter in self.updated() if parameter.grad is not None]
        if self.device.type != "cpu":
            self.gradients[step] = nn.utils.get_total_norm(gradients)
            return True
        # One call for all of them, which multiplies them by 1 too: half the time of sums or norms.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.broken, self.one)
        if self.broken.item():
            self.gradients[step] = torch.nan
            return False
        return math.isfinite(loss.item())

    def count_hits(self, step: int) -> None:
        """Fill in the accuracies of the last steps up to this one, many at once: each call has its price."""
        if self.uncounted:
            logits, labels = (torch.stack(parts) for parts in zip(*self.uncounted, strict=True))
            self.accuracies[step - len(logits) : step] = (logits.argmax(2) == labels).float().mean(1)
            self.uncounted.clear()

    def check_finite(self, state: State) -> None:
        """Raise FloatingPointError at the first step whose loss or gradient is not finite."""
        new = slice(self.checked, state.step)
        bad = (~torch.isfinite(self.losses[new] + self.gradients[new])).nonzero()
        if len(bad):
            first = self.checked + int(bad[0])
            explain = explain_gradient if torch.isfinite(self.losses[first]) else explain_non_finite
            raise FloatingPointError(explain(first + 1, state))
        self.checked = state.step

    def check_weights(self, step: int) -> None:
        """Raise FloatingPointError if the last update has broken the weights."""
        broken = not_finite(self.model)
        if broken:
            raise FloatingPointError(
                f"the weights of {broken[0]} are not finite after step {step:,}: {SLOWER}"
            )

    def validate(self, state: State) -> None:
        """Append the validation loss and accuracy."""
        how = {
            "transform": self.val_transform,
            "batch_size": self.val_batch_size,
            "loss_fn": self.loss_fn,
        }
        result = evaluate(self.model, self.val_set, **how)
        self.val.append({"step": state.step, "epoch": state.epoch, "loss": result.loss, "top1": result.top1})

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Keep what happens inside out of the measured seconds."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        self.seconds += time.perf_counter() - self.clock
        yield
        self.clock = time.perf_counter()

    def history(self) -> History:
        """What was measured, as plain lists."""
        self.count_hits(self.total)
        return History(self.losses.tolist(), self.accuracies.tolist(), self.val, self.images, self.seconds)

    def measured(self, step: int) -> dict[str, Any]:
        """What was measured in the first steps, for a checkpoint."""
        self.count_hits(step)
        return {
            "losses": self.losses[:step].clone(),
            "accuracies": self.accuracies[:step].clone(),
            "val": self.val,
            "images": self.images,
            "seconds": self.seconds,
        }

    def go_on_from(self, saved: dict[str, Any]) -> None:
        """Take up what was measured up to the `step` of a checkpoint."""
        step = self.checked = saved["step"]
        self.losses[:step], self.accuracies[:step] = saved["losses"], saved["accuracies"]
        self.val, self.images, self.seconds = saved["val"], saved["images"], saved["seconds"]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: ImageSet,
    *,
    transform: Transform,
    batch_size: int = 1000,
    loss_fn: LossFunction = F.cross_entropy,
) -> Evaluation:
    """Measure a model on a set, in evaluation mode and without gradients.

    The mode of each of the model's layers is restored afterwards, and nothing is moved but the batches.

    Args:
        model: maps (N, C, H, W) float images to (N, K) logits.
        data: the images; may lie on another device than the model.
        transform: turns a uint8 batch (N, C, H, W) into the model's float input.
        batch_size: images a pass; does not change the result.
        loss_fn: maps logits (N, K) and labels (N,) to the mean loss over the batch.

    Raises:
        ValueError: the batch size is below 1, a layer does not take what it gets, or there are fewer outputs
            than classes.
    """
    checks.network(model)
    checks.image_set("data", data)
    batch_size = checks.whole_number("batch_size", batch_size)
    device, loss_sum, logits = device_of(model), 0.0, []
    with checks.in_eval_mode(model):
        for batch in torch.arange(len(data), device=data.images.device).split(batch_size):
            # copies: transform and loss function may write into what they get
            pixels, labels = (part.index_select(0, batch).to(device) for part in (data.images, data.labels))
            images = checks.transformed(transform, pixels)
            logits.append(checks.outputs(model, images, data).float())
            loss_sum += checks.loss(loss_fn, logits[-1], labels).item() * len(labels)
    return _summary(torch.cat(logits).cpu(), data.labels.cpu(), loss_sum / len(data))


def _summary(logits: torch.Tensor, labels: torch.Tensor, loss: float) -> Evaluation:
    """The measures that follow from the logits (N, K) and labels (N,) of a whole set."""
    count, classes = logits.shape
    ranked = logits.topk(min(5, classes), dim=1).indices  # (N, 5), best first
    hits = ranked == labels[:, None]
    predicted = logits.argmax(1)
    pairs = torch.bincount(labels * classes + predicted, minlength=classes * classes)
    return Evaluation(
        loss=loss,
        top1=(predicted == labels).sum().item() / count,
        top5=hits.any(1).sum().item() / count,
        confusion=pairs.reshape(classes, classes),
        predicted=predicted,
        probabilities=logits.softmax(1),
    )
