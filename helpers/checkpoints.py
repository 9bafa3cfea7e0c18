"""Checkpoint files: written whole or not at all, read as data only, refused by any other run."""

from __future__ import annotations

import contextlib
import glob
import os
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch

ABANDONED_SECONDS = 3600  # after which an unfinished file is nobody's any more


def digest(*tensors: torch.Tensor) -> str:
    """A short checksum (CRC-32, hexadecimal) of the tensors' bytes, to tell one data set from another."""
    value = 0
    for tensor in tensors:
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # numpy has no bfloat16
        value = zlib.crc32(raw.numpy(), value)
    return f"{value:08x}"


def generator_states() -> list[torch.Tensor]:
    """The states of torch's global generators: the CPU's, then the current accelerator's if there is one."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    elif torch.backends.mps.is_available():
        states.append(torch.mps.get_rng_state())
    return states


def set_generator_states(states: list[torch.Tensor]) -> None:
    """Restore what `generator_states` returned on a machine with the same kind of accelerator."""
    torch.set_rng_state(states[0].cpu())
    if len(states) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[1].cpu())
    elif len(states) > 1 and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states[1].cpu())


def save(path: Path | str, signature: dict[str, str], contents: dict[str, Any]) -> None:
    """Write a checkpoint: to a temporary file, flushed to disk, then renamed over the old one.

    Whatever happens in between, `path` holds either the old checkpoint or the new one, whole.

    Args:
        path: the file; its folder is made if need be.
        signature: describes the run; `load` compares it.
        contents: tensors, numbers, strings, and lists and dicts of these.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            _write({"signature": signature, **contents}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write(contents: dict[str, Any], file: BinaryIO) -> None:
    """Write with torch, which puts an error of its own in the place of what the disk said."""
    try:
        torch.save(contents, file)
    except RuntimeError as error:
        disk = error.__context__
        if isinstance(disk, OSError):
            folder = Path(file.name).parent
            said = f"{disk.strerror}: no room for a checkpoint in {folder}, the one before is whole"
            raise OSError(disk.errno, said) from None
        raise


def load(path: Path | str, signature: dict[str, str]) -> dict[str, Any] | None:
    """Read a checkpoint, or return None if there is none.

    Only tensors and plain values are read: a file with code in it is refused, never run. What a killed
    process has left unfinished beside the file is removed.

    Args:
        path: the file.
        signature: describes the run that wants to continue.

    Raises:
        ValueError: the file is damaged, or belongs to another run; the message names each difference.
    """
    path = Path(path)
    _remove_unfinished(path)
    if not path.exists():
        return None
    advice = f"delete {path} to start anew"
    try:
        with zipfile.ZipFile(path) as whole:  # torch itself reads past altered bytes
            altered = whole.testzip()
        if altered:
            raise zipfile.BadZipFile(altered)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        theirs = dict(saved["signature"])
    except Exception as error:
        raise ValueError(f"the checkpoint cannot be read ({type(error).__name__}): {advice}") from error
    different = [
        f"{key}: {_difference(str(theirs.get(key)), str(signature.get(key)))}"
        for key in dict.fromkeys([*theirs, *signature])
        if theirs.get(key) != signature.get(key)
    ]
    if different:
        raise ValueError(f"the checkpoint belongs to another run ({'; '.join(different)}): {advice}")
    return saved


def _remove_unfinished(path: Path) -> None:
    """Delete the temporary files of this checkpoint whose writers are gone."""
    for file in path.parent.glob(f"{glob.escape(path.name)}.*.unfinished"):
        with contextlib.suppress(
            OSError, ValueError
        ):  # another process was quicker, or it is no file of ours
            if _gone(int(file.suffixes[-2][1:])) or time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                file.unlink()


def _gone(process: int) -> bool:
    """Whether no process on this machine has this number; False where that can't be asked safely."""
    if os.name != "posix":
        return False  # there os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it is another user's
    return False


def _difference(saved: str, now: str, limit: int = 80) -> str:
    """Two texts on one line, each cut to a readable length around the place where they part."""
    saved, now = " ".join(saved.split()), " ".join(now.split())
    unequal = (i for i, (a, b) in enumerate(zip(saved, now, strict=False)) if a != b)
    start = max(next(unequal, min(len(saved), len(now))) - limit // 2, 0)
    cuts = [
        "…" * (start > 0) + text[start : start + limit] + "…" * (len(text) > start + limit)
        for text in (saved, now)
    ]
    return f"saved {cuts[0]}, now {cuts[1]}"
