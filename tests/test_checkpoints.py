import hashlib
import os
import pickle
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import pytest
import torch

from helpers import checkpoints

SIGNATURE = {"model": "Linear", "seed": "0"}
CONTENTS = {
    "weights": {"w": torch.arange(6.0).reshape(2, 3), "flag": torch.tensor(True)},
    "step": 7,
    "val": [{"loss": 0.25, "name": "a"}],
    "scheduler": None,
}


class Disk(OSError):
    """What a full disk raises."""


@pytest.fixture
def path(tmp_path):
    """A checkpoint file with CONTENTS in it, alone in its folder."""
    file = tmp_path / "kept" / "run.pt"
    checkpoints.save(file, SIGNATURE, CONTENTS)
    return file


def test_load_returns_what_save_was_given(path):
    loaded = checkpoints.load(path, SIGNATURE)
    assert torch.equal(loaded["weights"]["w"], CONTENTS["weights"]["w"])
    assert loaded["weights"]["flag"].dtype == torch.bool
    assert {key: loaded[key] for key in ("step", "val", "scheduler")} == {
        "step": 7,
        "val": [{"loss": 0.25, "name": "a"}],
        "scheduler": None,
    }


def test_load_returns_none_where_there_is_no_file(tmp_path):
    assert checkpoints.load(tmp_path / "run.pt", SIGNATURE) is None


def test_save_leaves_one_file(path):
    checkpoints.save(path, SIGNATURE, {"step": 8})
    assert checkpoints.load(path, SIGNATURE)["step"] == 8
    assert list(path.parent.iterdir()) == [path]


def test_save_accepts_a_text_as_path(tmp_path):
    checkpoints.save(str(tmp_path / "run.pt"), SIGNATURE, {"step": 8})
    assert checkpoints.load(str(tmp_path / "run.pt"), SIGNATURE)["step"] == 8


def half_written(contents, file):
    file.write(b"half of a checkpoint")
    raise Disk("no space left")


def refuse(*_):
    raise Disk("no")


@pytest.mark.parametrize(
    ("owner", "name", "replacement"),
    [(torch, "save", half_written), (os, "fsync", refuse), (os, "replace", refuse)],
)
def test_save_that_fails_leaves_the_old_checkpoint_and_nothing_else(
    path, monkeypatch, owner, name, replacement
):
    before = path.read_bytes()
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises(Disk):
        checkpoints.save(path, SIGNATURE, {"step": 8})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_save_puts_the_file_in_place_only_when_it_is_whole_and_on_the_disk(path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(descriptor):
        events.append("flushed")
        fsync(descriptor)

    def watched_replace(source, target):
        events.append("replaced")
        assert Path(source).parent == Path(target).parent, "a rename across disks is no single step"
        assert torch.load(source, weights_only=True)["step"] == 8
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    checkpoints.save(path, SIGNATURE, {"step": 8})
    assert events == ["flushed", "replaced"]


class Malicious:
    """Runs code of its own when it is unpickled: it makes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("write", [partial(pickle.dump, protocol=2), torch.save], ids=["pickle", "torch"])
@pytest.mark.parametrize("inside", [lambda bad: bad, lambda bad: {"signature": SIGNATURE, "step": bad}])
def test_load_refuses_a_file_with_code_in_it_and_never_runs_it(tmp_path, write, inside):
    path, made = tmp_path / "run.pt", tmp_path / "made by the file"
    with open(path, "wb") as file:
        write(inside(Malicious(made)), file)
    with pytest.raises(ValueError, match=r"^the checkpoint cannot be read \(\w+\): delete .*run\.pt"):
        checkpoints.load(path, SIGNATURE)
    assert not made.exists()
    with open(path, "rb") as file:  # the trap works: torch.load without weights_only springs it
        torch.load(file, weights_only=False) if write is torch.save else pickle.load(file)
    assert made.exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_load_refuses_a_truncated_file(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"^the checkpoint cannot be read .* to start anew$"):
        checkpoints.load(path, SIGNATURE)


@pytest.mark.parametrize("contents", [{"step": 7}, [1, 2], {"signature": 3}, "signature"])
def test_load_refuses_a_file_that_is_no_checkpoint_of_the_course(tmp_path, contents):
    torch.save(contents, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"^the checkpoint cannot be read .* to start anew$"):
        checkpoints.load(tmp_path / "run.pt", SIGNATURE)


@pytest.mark.parametrize(
    ("signature", "difference"),
    [
        ({"model": "Linear", "seed": "1"}, "(seed: saved 0, now 1)"),
        ({"model": "Conv2d", "seed": "1"}, "(model: saved Linear, now Conv2d; seed: saved 0, now 1)"),
        ({"model": "Linear"}, "(seed: saved 0, now None)"),
        ({**SIGNATURE, "steps": "9"}, "(steps: saved None, now 9)"),
    ],
)
def test_load_refuses_another_run_and_names_each_difference(path, signature, difference):
    with pytest.raises(ValueError, match="another run") as caught:
        checkpoints.load(path, signature)
    assert str(caught.value) == (
        f"the checkpoint belongs to another run {difference}: delete {path} to start anew"
    )


@pytest.mark.parametrize(
    ("saved", "now", "shown"),
    [
        ("x" * 500 + "lr=0.1" + "y" * 500, "x" * 500 + "lr=0.2" + "y" * 500, ("lr=0.1", "lr=0.2")),
        ("Sequential(\n  (0): ReLU()\n)", "Sequential(\n  (0): Tanh()\n)", ("(0): ReLU()", "(0): Tanh()")),
        ("x" * 300, "x" * 300 + " and momentum", ("saved …xxx", "and momentum")),
    ],
)
def test_load_shows_the_place_where_long_texts_differ_in_one_short_line(tmp_path, saved, now, shown):
    checkpoints.save(tmp_path / "run.pt", {"model": saved}, {})
    with pytest.raises(ValueError, match="another run") as caught:
        checkpoints.load(tmp_path / "run.pt", {"model": now})
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) - len(str(tmp_path)) < 300
    assert all(part in message for part in shown)


def test_digest_tells_sets_apart_by_their_bytes_whatever_their_strides():
    images = torch.randint(
        0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(5)
    digest = checkpoints.digest(images, labels)
    assert digest == f"{zlib.crc32(images.numpy().tobytes() + labels.numpy().tobytes()):08x}"
    assert checkpoints.digest(images.contiguous(memory_format=torch.channels_last), labels) == digest
    changed = images.clone()
    changed[4, 2, 3, 3] ^= 1
    assert checkpoints.digest(changed, labels) != digest
    assert checkpoints.digest(images, labels.flip(0)) != digest


def test_set_generator_states_brings_back_the_same_draws():
    torch.manual_seed(0)
    torch.rand(3)
    states = checkpoints.generator_states()
    first = torch.rand(100)
    checkpoints.set_generator_states(states)
    assert torch.equal(torch.rand(100), first)


def test_save_does_not_disturb_the_random_draws(path):
    torch.manual_seed(0)
    expected = torch.rand(5)
    torch.manual_seed(0)
    checkpoints.save(path, SIGNATURE, CONTENTS)
    checkpoints.load(path, SIGNATURE)
    assert torch.equal(torch.rand(5), expected)


def test_save_writes_what_the_tensors_hold_at_that_moment(tmp_path):
    weights = torch.zeros(3)
    checkpoints.save(tmp_path / "run.pt", SIGNATURE, {"weights": weights})
    before = hashlib.sha256((tmp_path / "run.pt").read_bytes()).digest()
    weights.add_(1)
    assert checkpoints.load(tmp_path / "run.pt", SIGNATURE)["weights"].tolist() == [0, 0, 0]
    assert hashlib.sha256((tmp_path / "run.pt").read_bytes()).digest() == before


KILLED_WHILE_SAVING = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from helpers import checkpoints
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save(sys.argv[2], {"model": "Linear", "seed": "0"}, {"step": 8})
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_load_clears_up_after_a_process_that_was_killed_while_it_saved(path):
    project = str(Path(__file__).parent.parent)
    ended = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, project, str(path)])
    assert ended.returncode == -9
    assert [file.suffix for file in path.parent.iterdir() if file != path] == [".unfinished"]
    assert checkpoints.load(path, SIGNATURE)["step"] == 7, "the checkpoint before it is whole"
    assert list(path.parent.iterdir()) == [path]


def test_load_leaves_the_unfinished_file_of_a_live_process_for_an_hour(path, monkeypatch):
    live = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    other = path.with_name("other.pt.1.unfinished")
    strange = path.with_name(f"{path.name}.notes.unfinished")
    for file in (live, other, strange):
        file.write_bytes(b"half")
    checkpoints.load(path, SIGNATURE)
    assert live.exists()
    os.utime(live, (0, time.time() - 3700))
    checkpoints.load(path, SIGNATURE)
    assert not live.exists()
    assert other.exists(), "it belongs to another checkpoint"
    assert strange.exists(), "it is no file of ours"


def test_load_clears_up_where_there_is_no_checkpoint_yet(tmp_path):
    dead = tmp_path / "run.pt.999999999.unfinished"
    dead.write_bytes(b"half")
    assert checkpoints.load(tmp_path / "run.pt", SIGNATURE) is None
    assert not dead.exists()


def test_load_refuses_a_file_with_one_altered_bit_wherever_it_is(tmp_path):
    path = tmp_path / "run.pt"
    checkpoints.save(path, SIGNATURE, {"weights": torch.rand(200)})
    whole = path.read_bytes()
    weights = torch.load(path, weights_only=True)["weights"].numpy().tobytes()
    start = whole.index(weights)
    for place in range(start, start + len(weights), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"^the checkpoint cannot be read \(BadZipFile\)"):
            checkpoints.load(path, SIGNATURE)


@pytest.mark.parametrize("name", ["with spaces", "Übungen und 数字", "a%20b#c", "[ab]*"])
def test_checkpoints_go_into_folders_of_any_name(tmp_path, name):
    path = tmp_path / name / f"{name}.pt"
    checkpoints.save(path, SIGNATURE, {"step": 8})
    path.with_name(f"{path.name}.999999999.unfinished").write_bytes(b"half")
    assert checkpoints.load(path, SIGNATURE)["step"] == 8
    assert list(path.parent.iterdir()) == [path]


def test_digest_takes_every_type_of_number_and_numbers_without_dimension():
    values = [
        torch.tensor(3, dtype=kind) for kind in (torch.bfloat16, torch.int64, torch.bool, torch.float64)
    ]
    digests = {checkpoints.digest(value) for value in values}
    assert len(digests) == len(values)
    assert checkpoints.digest(torch.empty(0)) == "00000000"
