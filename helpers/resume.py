"""Saved runs of `fit`: what a checkpoint holds, whose it is, and how the same call goes on there later."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from helpers import checkpoints, runtime
from helpers.fingerprint import fingerprint

AUTOSAVE_SECONDS = 60
KEPT_DAYS = 14  # after which an interrupted run that nobody has taken up is deleted


class Saves:
    """The saved state of one run: in the caller's checkpoint, or by itself in `checkpoints/`.

    A hook with `state_dict` and `load_state_dict` is saved with the run. What any other hook has seen would
    be lost, so with one of these a run does not save itself.

    Args:
        run: the moving parts of one call of `fit`, before its first step.
        checkpoint: the caller's file; None for a run that saves itself.
        hooks: pairs (n, function), as `fit` takes them.
    """

    def __init__(self, run: Any, checkpoint: Path | str | None, hooks: Sequence[tuple[int, Callable]]):
        self.run, self.checkpoint = run, checkpoint
        self.hooks = [(every, hook) for every, hook in hooks if _keeps(hook)]
        self.automatic = checkpoint is None and len(self.hooks) == len(hooks)
        self.saved_at, self.has_own_file = time.perf_counter(), False
        if self.automatic or checkpoint is not None:
            self.settings = _settings(run) | _hook_settings(self.hooks)
        if self.automatic:
            self.start = _start(run)

    @functools.cached_property
    def signature(self) -> dict[str, str]:
        """The settings at the start, and checksums of the images, which take a while to compute."""
        run = self.run
        sets = {"data": (run.train, ""), "validation": (run.val_set, f" {_called(run.val_transform)}")}
        return self.settings | {
            part: f"{images.name} {checkpoints.digest(images.images, images.labels)}{how}"
            if images
            else "None"
            for part, (images, how) in sets.items()
        }

    @functools.cached_property
    def own_file(self) -> Path:
        """The file of this run, and of no other."""
        whole = hashlib.sha256(repr((self.start, self.signature)).encode()).hexdigest()
        return _folder() / f"{whole[:24]}.pt"

    def resume(self) -> int:
        """Continue from what is saved, if anything is; returns the steps already done.

        Raises:
            ValueError: the checkpoint is damaged, or belongs to another run.
        """
        run, path = self.run, self.checkpoint
        if self.automatic and any(_folder().glob("*.pt")):
            path = self.own_file
        saved = None if path is None else checkpoints.load(path, self.signature)
        if saved is None:
            return 0
        run.model.load_state_dict(saved["model"])
        run.optimizer.load_state_dict(saved["optimizer"])
        if run.scheduler is not None:
            run.scheduler.load_state_dict(saved["scheduler"])
        run.go_on_from(saved)
        for (_, hook), state in zip(self.hooks, saved.get("hooks", []), strict=True):
            hook.load_state_dict(_data(state, lambda tensor: tensor.to(run.device)))
        self.has_own_file = self.automatic
        checkpoints.set_generator_states(saved["generators"])
        return saved["step"]

    def save(self, path: Path | str, step: int) -> None:
        """Write everything that `resume` needs.

        Raises:
            OSError: the disk is full, or the folder can't be written.
            TypeError: a hook's state is no data.
        """
        run = self.run
        contents = {
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "scheduler": None if run.scheduler is None else run.scheduler.state_dict(),
            "step": step,
            **run.measured(step),
            "generators": checkpoints.generator_states(),
        }
        if self.hooks:
            contents["hooks"] = [_state_of(hook) for _, hook in self.hooks]
        checkpoints.save(path, self.signature, contents)

    def is_due(self) -> bool:
        """Whether the run saves itself and its last save was a minute ago."""
        return self.automatic and time.perf_counter() - self.saved_at >= AUTOSAVE_SECONDS

    def save_by_itself(self, step: int) -> None:
        """Save to the run's own file; a disk or a hook that refuses costs one line, not the run."""
        try:
            remove_old(_folder())
            self.save(self.own_file, step)
        except (OSError, TypeError) as error:
            why = getattr(error, "strerror", None) or error
            print(f"No checkpoint could be saved ({why}): if this run is cut, it starts anew.")
            self.saved_at = float("inf")
        else:
            self.has_own_file, self.saved_at = True, time.perf_counter()

    def forget(self) -> None:
        """Delete the run's own file, if there is one."""
        if self.has_own_file:
            self.own_file.unlink(missing_ok=True)


def remove_old(folder: Path, days: int = KEPT_DAYS) -> list[Path]:
    """Delete the files of a folder of automatic checkpoints that were last written so many days ago.

    Returns:
        What was deleted.
    """
    limit = time.time() - days * 86_400
    old = [file for file in folder.glob("*.pt*") if file.stat().st_mtime < limit]
    for file in old:
        file.unlink(missing_ok=True)
    return old


def _folder() -> Path:
    """The folder of the checkpoints that runs save by themselves."""
    return runtime.PROJECT_ROOT / "checkpoints"


def _settings(run: Any) -> dict[str, str]:
    """What must be the same for a checkpoint to be continued, in words, but for images and hooks."""
    groups = [{k: v for k, v in g.items() if k != "params"} for g in run.optimizer.param_groups]
    shapes = {name: tuple(p.shape) for name, p in run.model.named_parameters()}
    return {
        "model": f"{run.model!r} {shapes} code {fingerprint(run.model)}",
        "transform": _called(run.transform),
        "batch size": str(run.batch_size),
        "steps": str(run.total),
        "optimizer": f"{type(run.optimizer).__name__} {groups}",
        "scheduler": f"{type(run.scheduler).__name__} {run.scheduler and run.scheduler.state_dict()}",
        "loss function": _called(run.loss_fn),
        "seed": str(run.seed),
        "shuffle": str(run.shuffle),
        "precision": "bfloat16" if run.bf16 else "float32",
    }


def _hook_settings(hooks: list[tuple[int, Any]]) -> dict[str, str]:
    """The hooks that are saved with the run, by their class: their attributes change from step to step."""
    named = [f"every {every} {type(h).__qualname__} {fingerprint(type(h))}" for every, h in hooks]
    return {"hooks": ", ".join(named)} if named else {}


def _start(run: Any) -> str:
    """A checksum of what a run starts from: weights, the optimizer's state, the random state."""
    state = run.optimizer.state_dict()["state"]
    kept = [value for own in state.values() for value in own.values() if isinstance(value, torch.Tensor)]
    weights = [value.detach() for value in run.model.state_dict().values()]
    return checkpoints.digest(*weights, *kept, *checkpoints.generator_states())


def _called(function: Callable) -> str:
    """A function by its name, since its repr may hold an address, anything else by its repr; and its code."""
    named = function.func if isinstance(function, functools.partial) else function
    return f"{getattr(named, '__qualname__', repr(named))} {fingerprint(function)}"


def _keeps(hook: Callable) -> bool:
    """Whether a hook can be saved with the run."""
    return hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict")


def _state_of(hook: Any) -> Any:
    """A copy of a hook's state, or a TypeError that names what in it is no data."""
    try:
        return _data(hook.state_dict(), lambda tensor: tensor.detach().clone())  # a view would bring its base
    except TypeError as error:
        raise TypeError(
            f"the state of the hook {type(hook).__name__} holds {error}: "
            "only tensors, numbers, texts, and lists, tuples and dicts of these can be saved"
        ) from None


def _data(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Nested data with each of its tensors changed, or a TypeError with the type of what is no data."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {_data(key, change): _data(held, change) for key, held in value.items()}
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(_data(held, change) for held in value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(type(value).__name__)
