import math
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from helpers import runtime, stamps

ROOT = Path(__file__).resolve().parent.parent
BANDS = {"quick": (0.0, 1.0), "cpu": (2.0, 3.0), "full": (4.0, 5.0)}


@pytest.fixture
def accelerator(monkeypatch):
    """Pretend that there is, or is no, CUDA device and Apple GPU."""

    def pretend(*, cuda=False, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("found", "expected", "reason"),
    [
        ({}, "cpu", "no CUDA or MPS device found"),
        ({"mps": True}, "mps", "no CUDA, MPS is available"),
        ({"cuda": True, "mps": True}, "cuda", "Some GPU (CUDA is available)"),
    ],
)
def test_device_prefers_cuda_then_mps_and_says_why(accelerator, found, expected, reason):
    accelerator(**found)
    assert runtime.device() == torch.device(expected)
    assert reason in runtime.device_reason()


@pytest.mark.parametrize(
    ("speed", "faster"), [(0.1, False), (0.5, False), (1.05, False), (1.2, True), (8, True)]
)
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_has_bf16_says_what_was_measured(accelerator, monkeypatch, kind, speed, faster):
    asked = []
    monkeypatch.setattr(runtime, "_bf16_speed", lambda kind: asked.append(kind) or speed)
    accelerator(cuda=kind == "cuda")
    assert runtime.has_bf16() is faster
    assert asked == [kind]
    assert runtime.has_bf16(torch.device("mps")) is False
    assert ("bfloat16 is faster here" in runtime.describe()) is faster
    assert ("float32 (bfloat16 is not faster here)" in runtime.describe()) is not faster


def test_has_bf16_measures_once_and_draws_nothing(accelerator):
    accelerator()
    runtime._bf16_speed.cache_clear()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.no_grad():
        runtime.has_bf16()
    runtime.has_bf16(torch.device("cpu"))
    assert runtime._bf16_speed.cache_info().misses == 1
    assert runtime._bf16_speed("cpu") > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("found", "expected"), [({}, "cpu"), ({"mps": True}, "full"), ({"cuda": True}, "full")]
)
@pytest.mark.parametrize("unset", [None, ""])
def test_budget_name_defaults_to_full_only_with_an_accelerator(
    monkeypatch, accelerator, found, expected, unset
):
    accelerator(**found)
    if unset is not None:
        monkeypatch.setenv("COURSE_BUDGET", unset)
    assert runtime.budget_name() == expected


@pytest.mark.parametrize("name", ["quick", "cpu", "full"])
def test_budget_picks_the_value_of_the_dial(monkeypatch, name):
    monkeypatch.setenv("COURSE_BUDGET", name)
    assert runtime.budget(full="full", cpu="cpu", quick="quick") == runtime.budget_name() == name


def test_budget_name_rejects_an_unknown_value_in_one_line_that_names_the_accepted(monkeypatch):
    monkeypatch.setenv("COURSE_BUDGET", "huge")
    with pytest.raises(ValueError, match=r"^COURSE_BUDGET='huge' .*quick, cpu, full$"):
        runtime.budget(full=1, cpu=2, quick=3)


@pytest.mark.parametrize("source", ["embedded", "real", "auto"])
def test_data_source_follows_the_dial(monkeypatch, source):
    monkeypatch.setenv("COURSE_DATA", source)
    assert runtime.data_source() == source


def test_data_source_defaults_to_auto():
    assert runtime.data_source() == "auto"


def test_data_source_rejects_an_unknown_value_in_one_line_that_names_the_accepted(monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "Real")
    with pytest.raises(ValueError, match=r"^COURSE_DATA='Real' .*embedded, real, auto$"):
        runtime.data_source()


def test_data_root_defaults_to_data_in_the_project(monkeypatch):
    monkeypatch.delenv("COURSE_DATA_ROOT", raising=False)
    assert runtime.data_root() == ROOT / "data"


def test_data_root_expands_the_home_folder(monkeypatch):
    monkeypatch.setenv("COURSE_DATA_ROOT", "~/sets")
    assert runtime.data_root() == Path.home() / "sets"


def test_seed_everything_repeats_the_draws_of_python_numpy_and_torch():
    def draws(seed):
        runtime.seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    first, other, again = draws(3), draws(4), draws(3)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_everything_rejects_what_numpy_cannot_take(seed):
    with pytest.raises(ValueError, match=f"seed={seed} is out of range"):
        runtime.seed_everything(seed)


FAULTS = """
import resource, sys
import torch
from helpers import runtime

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(10_000_000) + 1  # two blocks of 40 MB: beyond 32 MB glibc always maps anew
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = runtime.keep_freed_memory() if sys.argv[1] == "keep" else None
faults()
print(kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_keep_freed_memory_spares_the_system_from_mapping_it_again():
    def run(how):
        words = [sys.executable, "-c", FAULTS, how]
        return subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()

    assert int(run("leave")[1]) > 1000
    kept, faults = run("keep")
    assert kept == "True"
    assert int(faults) < 100


def test_keep_freed_memory_does_nothing_where_the_allocator_is_another(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert runtime.keep_freed_memory.__wrapped__() is False


def test_describe_is_one_line_with_budget_device_data_and_versions(monkeypatch):
    monkeypatch.setenv("COURSE_BUDGET", "quick")
    monkeypatch.setenv("COURSE_DATA", "embedded")
    line = runtime.describe()
    assert "\n" not in line
    for part in ("quick budget", "data: embedded", torch.__version__, runtime.device_reason()):
        assert part in line


def test_hardware_names_the_gpu_if_there_is_one(accelerator):
    accelerator(cuda=True)
    assert runtime.hardware() == "Some GPU"
    accelerator()
    assert runtime.hardware().endswith("no GPU")


@pytest.mark.parametrize("name", BANDS)
@pytest.mark.parametrize("end", [0, 1])
def test_expect_accepts_both_ends_of_the_band_of_the_budget_and_nothing_beyond(
    monkeypatch, capsys, name, end
):
    monkeypatch.setenv("COURSE_BUDGET", name)
    limit = BANDS[name][end]
    runtime.expect("accuracy", limit, **BANDS)
    assert capsys.readouterr().out == "ok: accuracy\n"
    with pytest.raises(AssertionError, match=rf"^accuracy is .* outside .* {name} budget$"):
        runtime.expect("accuracy", math.nextafter(limit, -1 if end == 0 else 9), **BANDS)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_expect_rejects_what_is_no_number(monkeypatch, value):
    monkeypatch.setenv("COURSE_BUDGET", "quick")
    with pytest.raises(AssertionError, match="loss is"):
        runtime.expect("loss", value, **BANDS)


@pytest.mark.parametrize("name", BANDS)
def test_expect_uses_the_quick_band_on_embedded_data_whatever_the_budget(monkeypatch, name):
    monkeypatch.setenv("COURSE_BUDGET", name)
    runtime.expect("accuracy", 0.5, **BANDS, embedded=True)
    with pytest.raises(AssertionError, match=r"outside 0 … 1 .* on embedded data"):
        runtime.expect("accuracy", 4.5, **BANDS, embedded=True)


def test_expect_rejects_a_band_that_nothing_fits(monkeypatch):
    monkeypatch.setenv("COURSE_BUDGET", "cpu")
    with pytest.raises(ValueError, match="band for accuracy is empty"):
        runtime.expect("accuracy", 0.5, quick=(0, 1), cpu=(1, 0), full=(0, 1))


@pytest.fixture
def displayed(monkeypatch):
    """The notebook outputs that calls of `record` make."""
    outputs = []

    def display(data, *, metadata, raw):
        assert raw
        outputs.append(nbformat.v4.new_output("display_data", data=data, metadata=metadata))

    monkeypatch.setattr(runtime, "display", display)
    return outputs


@pytest.mark.parametrize("text", ["61,706", "97.40", "1e-3", "0.95 % ± 0.03", 'it\'s "so" \\ here'])
def test_record_keeps_its_text_to_the_letter_and_its_value_as_json(displayed, text):
    runtime.record("lenet5-test-accuracy", 0.974, text)
    cell = nbformat.v4.new_code_cell(outputs=displayed)
    notebook = nbformat.reads(
        nbformat.writes(nbformat.v4.new_notebook(cells=[cell])), as_version=4
    )  # as a file keeps it
    assert stamps.records(notebook) == {"lenet5-test-accuracy": text}
    assert notebook.cells[0].outputs[0].metadata.course.value == 0.974


def test_record_shows_nothing_on_the_page(displayed):
    runtime.record("steps", 400)
    (mime,) = displayed[0].data
    assert mime == "application/papermill.record/text/plain"
    assert stamps.records(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=displayed)])) == {
        "steps": "400"
    }


@pytest.mark.parametrize("key", ["", "Accuracy", "a:b", "a b", "a_b", "-a", "a--b"])
def test_record_rejects_a_key_that_pages_cannot_paste(displayed, key):
    with pytest.raises(ValueError, match="lower-case letters, digits and hyphens"):
        runtime.record(key, 1)
    assert displayed == []


@pytest.mark.parametrize("value", [math.nan, [math.inf], torch.tensor(1.0), np.float32(1), np.zeros(2)])
def test_record_rejects_a_value_that_is_no_json(displayed, value):
    with pytest.raises(ValueError, match=r"record accuracy: .* JSON"):
        runtime.record("accuracy", value)
    assert displayed == []


def test_data_root_says_when_there_is_no_home_folder(monkeypatch):
    monkeypatch.setenv("COURSE_DATA_ROOT", "~nobody-of-this-name/data")
    complaint = r"^COURSE_DATA_ROOT='~nobody-of-this-name/data': there is no such home folder, give the whole"
    with pytest.raises(ValueError, match=complaint):
        runtime.data_root()


@pytest.mark.skipif(os.name != "posix", reason="HOME is not what Windows goes by")
def test_the_course_starts_and_trains_without_a_home_folder(tmp_path):
    code = "from helpers import data, plots, runtime; print(runtime.data_root(), len(data.digits().train))"
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "COURSE_DATA_ROOT")}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=runtime.PROJECT_ROOT,
        env={**environment, "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (ended.stdout, ended.returncode) == (f"{runtime.PROJECT_ROOT / 'data'} 1297\n", 0), ended.stderr
