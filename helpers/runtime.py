"""Where and how much to run: the device, the seeds and the course's three dials.

`COURSE_BUDGET` says how much (`quick`, `cpu`, `full`), `COURSE_DATA` on what (`embedded`, `real`, `auto`)
and `COURSE_DATA_ROOT` where the data lies. They are read here and nowhere else.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import os
import platform
import random
import re
import time
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display

Value = TypeVar("Value")
Band = tuple[float, float]

BUDGETS = ("quick", "cpu", "full")
DATA_SOURCES = ("embedded", "real", "auto")
PROJECT_ROOT = Path(__file__).resolve().parent.parent


def _dial(variable: str, default: str, accepted: tuple[str, ...]) -> str:
    """The value of one environment variable, or a ValueError that names what it accepts."""
    value = os.environ.get(variable) or default
    if value not in accepted:
        raise ValueError(f"{variable}={value!r} is unknown: set it to one of {', '.join(accepted)}")
    return value


def device() -> torch.device:
    """The device that everything runs on: CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def device_reason() -> str:
    """The device in words, with the reason for the choice."""
    kind = device().type
    if kind == "cuda":
        return f"{torch.cuda.get_device_name()} (CUDA is available)"
    if kind == "mps":
        return "Apple GPU (no CUDA, MPS is available)"
    return f"CPU, {torch.get_num_threads()} threads (no CUDA or MPS device found)"


def has_bf16(on: torch.device | None = None) -> bool:
    """Whether bfloat16 makes a convolution's training step faster on a device, measured there once.

    A processor may have the instructions and be slower with them, so none is asked for its name or flags.
    Apple's MPS counts as slower, unmeasured.

    Args:
        on: the device; by default the one that everything runs on.
    """
    kind = (on or device()).type
    return kind != "mps" and _bf16_speed(kind) > 1.1  # what else a step does must pay for the conversions


@functools.cache
def _bf16_speed(kind: str) -> float:
    """How many times faster a convolution's forward and backward pass is in bfloat16: some 20 ms on a CPU."""
    images = 1024 if kind == "cuda" else 16
    x = torch.ones(images, 32, 14, 14, device=kind).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 32, 5, 5, device=kind).contiguous(memory_format=torch.channels_last)
    x.requires_grad_(), weight.requires_grad_()

    def seconds(bf16: bool) -> float:
        started = time.perf_counter()
        with torch.autocast(kind, torch.bfloat16, enabled=bf16):
            loss = F.conv2d(x, weight, padding=2).sum()
        torch.autograd.grad(loss, (x, weight))
        if kind == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    with torch.enable_grad():
        pairs = [(seconds(False), seconds(True)) for _ in range(4)][1:]  # in turns; the first one warms up
    return min(pair[0] for pair in pairs) / min(pair[1] for pair in pairs)


def budget_name() -> str:
    """The budget in force: `COURSE_BUDGET`, or `full` on an accelerator and `cpu` without one.

    Raises:
        ValueError: `COURSE_BUDGET` is none of `BUDGETS`.
    """
    return _dial("COURSE_BUDGET", "cpu" if device().type == "cpu" else "full", BUDGETS)


def data_source() -> str:
    """Which data to use: `COURSE_DATA`, or `auto` (real data, else the embedded set).

    Raises:
        ValueError: `COURSE_DATA` is none of `DATA_SOURCES`.
    """
    return _dial("COURSE_DATA", "auto", DATA_SOURCES)


def data_root() -> Path:
    """The folder that holds `MNIST/` and `imagenette2-*`: `COURSE_DATA_ROOT`, or `data/` in the project.

    Raises:
        ValueError: it starts with `~`, and there is no such home folder.
    """
    root = Path(os.environ.get("COURSE_DATA_ROOT") or PROJECT_ROOT / "data")
    try:
        return root.expanduser()
    except RuntimeError:
        raise ValueError(
            f"COURSE_DATA_ROOT={str(root)!r}: there is no such home folder, give the whole path"
        ) from None


def budget(*, full: Value, cpu: Value, quick: Value) -> Value:
    """Pick the value for the budget in force, as in `budget(full=50_000, cpu=5_000, quick=400)`.

    Raises:
        ValueError: `COURSE_BUDGET` is none of `BUDGETS`.
    """
    return {"full": full, "cpu": cpu, "quick": quick}[budget_name()]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, those of every accelerator included.

    Args:
        seed: a whole number from 0 to 2³²−1, the range NumPy accepts.

    Raises:
        ValueError: the seed lies outside that range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is out of range: use a whole number from 0 to {2**32 - 1}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep memory that is freed, so that the next training step need not ask for it anew.

    On a CPU each step frees its feature maps. By default glibc hands such large blocks back to the system,
    and the next step pays for every page of them again. The setting holds for the whole process.

    Returns:
        True if the C library took the settings; False where it is not glibc (macOS, Windows, musl).

    Source: mallopt(3) of the Linux manual pages; the gain is in LOG.md.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold, limit = -1, -3, 2**31 - 1  # malloc.h's names M_…; bytes
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(mmap_threshold, 2**30) and mallopt(trim_threshold, limit))


def processor() -> str:
    """The processor's name as the operating system gives it, without trademark signs."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1] for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return " ".join(name.replace("(R)", "").replace("(TM)", "").split())


def precision() -> str:
    """What `fit(bf16=True)` computes in on this machine, in a few words."""
    return "bfloat16 is faster here" if has_bf16() else "float32 (bfloat16 is not faster here)"


def hardware() -> str:
    """The machine in a few words: the GPU's name, or the processor's with its core count."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor()}, {os.cpu_count()} cores, no GPU"


def describe() -> str:
    """One line on what runs here: budget, device with the reason, precision, data source, versions."""
    return (
        f"{budget_name()} budget · {device_reason()} · {precision()} · data: {data_source()} · "
        f"torch {torch.__version__} · Python {platform.python_version()}"
    )


def expect(name: str, value: float, *, quick: Band, cpu: Band, full: Band, embedded: bool = False) -> None:
    """Assert that a measured value lies in the band for the budget in force, and print a fixed line.

    The line holds no number, so a cell with it can be compared strictly whatever was measured.

    Args:
        name: what was measured.
        value: the measured value.
        quick: accepted (lowest, highest) on the quick budget, both ends included.
        cpu: the same for the `cpu` budget.
        full: the same for the `full` budget.
        embedded: True if the embedded stand-in data was used; the quick band then holds on every budget.

    Raises:
        AssertionError: the value is outside the band, or not a number.
        ValueError: a band's lower end is above its upper end.
    """
    low, high = quick if embedded else budget(full=full, cpu=cpu, quick=quick)
    if low > high:
        raise ValueError(f"the band for {name} is empty: {low} > {high}")
    if math.isnan(value) or not low <= value <= high:
        raise AssertionError(
            f"{name} is {value:.6g}, outside {low:g} … {high:g} for the {budget_name()} budget"
            + (" on embedded data" if embedded else "")
        )
    print(f"ok: {name}")


def record(key: str, value: Any, text: str | None = None) -> None:
    """Keep a result under a name, so that pages paste it instead of having it typed.

    Shows nothing. The notebook's own page reads it with ``{glue:text}`key` ``, other pages with
    ``{here}`notebook:key` ``, and `make run` puts it into its table.

    Args:
        key: the name, unique in the notebook: lower-case letters, digits and hyphens, such as
            `lenet5-test-accuracy`.
        value: the raw value; must be representable as JSON.
        text: how the value reads in a sentence, unit included; by default `str(value)`.

    Raises:
        ValueError: the key has other characters, or the value is no JSON: a tensor, an array, nan.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key):
        raise ValueError(f"record key {key!r}: use lower-case letters, digits and hyphens")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"record {key}: {value!r} is not representable as JSON, use float() or a list"
        ) from None
    mime_prefix = "application/papermill.record/"
    shown = str(value) if text is None else text
    display(
        {f"{mime_prefix}text/plain": repr(shown)},  # quoted: myst-nb reads it back as a Python literal
        metadata={"scrapbook": {"name": key, "mime_prefix": mime_prefix}, "course": {"value": value}},
        raw=True,
    )
