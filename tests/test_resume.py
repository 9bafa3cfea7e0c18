"""Runs that save themselves: what goes on after a crash, with the notes of its hooks, and what does not."""

import os
import time

import pytest
import torch
from test_training import image_set, network, raise_at, same, train

from helpers import checkpoints, resume, runtime
from helpers.data import scale


@pytest.fixture
def autosaves(tmp_path, monkeypatch):
    """The folder of automatic checkpoints; a run saves itself there after each step."""
    monkeypatch.setattr(resume, "AUTOSAVE_SECONDS", 0)
    monkeypatch.setattr(runtime, "PROJECT_ROOT", tmp_path)
    return tmp_path / "checkpoints"


def fails_once(step):
    """A transform that is interrupted at one step of its first run."""
    calls = []

    def transform(images):
        calls.append(images)
        if len(calls) == step:
            raise KeyboardInterrupt
        return images.float() / 255

    return transform


def cell(transform, **options):
    """What a notebook's cell does: from a seed to a trained network."""
    model = network(seed=5)
    torch.manual_seed(6)
    history = train(model, transform=transform, **options)
    return history, model


def test_fit_called_again_after_a_crash_goes_on_and_says_so(autosaves, capsys):
    transform = fails_once(9)
    with pytest.raises(KeyboardInterrupt):
        cell(transform, val=image_set(7))
    assert len(list(autosaves.iterdir())) == 1
    capsys.readouterr()
    steps_before = len(transform.__closure__[0].cell_contents)
    history, model = cell(transform, val=image_set(7))
    assert capsys.readouterr().out == "training: goes on at step 6 of 13, where it was interrupted\n"
    assert list(autosaves.iterdir()) == [], "a finished run leaves no file"
    calls = len(transform.__closure__[0].cell_contents) - steps_before
    assert calls == 1 + 7 + 2, "a look at the validation set, seven steps and two validations were left"
    expected, whole = cell(fails_once(10**6), val=image_set(7))
    assert (history.loss, history.accuracy, history.val) == (expected.loss, expected.accuracy, expected.val)
    assert same(model.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"steps": 14},
        {"data": image_set(seed=1)},
        {"model": network(seed=7)},
        {"hooks": [(1, lambda state: None)]},
    ],
)
def test_fit_takes_up_no_other_run_than_its_own(autosaves, capsys, change):
    transform = fails_once(8)
    with pytest.raises(KeyboardInterrupt):
        cell(transform)
    options = {"model": network(seed=5), "transform": transform} | change
    torch.manual_seed(6)
    history = train(**options)
    assert history.steps == change.get("steps", 13)
    assert "goes on" not in capsys.readouterr().out
    assert len(list(autosaves.iterdir())) == 1, "the other run's file is still there"


def test_fit_saves_itself_once_a_minute_at_most(autosaves, monkeypatch):
    saves, save = [], checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *args: saves.append(args) or save(*args))
    cell(scale())
    assert len(saves) == 12, "after each step but the last"
    monkeypatch.undo()
    monkeypatch.setattr(runtime, "PROJECT_ROOT", autosaves.parent)
    cell(scale())
    assert not list(autosaves.iterdir())
    assert resume.AUTOSAVE_SECONDS == 60


def test_fit_goes_on_without_its_own_file_when_the_disk_refuses_it(autosaves, capsys):
    autosaves.write_text("in the way")
    history, _ = cell(scale())
    assert history.steps == 13
    assert capsys.readouterr().out.count("No checkpoint could be saved") == 1


# ---------------------------------------------------------------- hooks


class Log:
    """A hook that keeps of each step what `notes` says; it can be saved."""

    def __init__(self, notes=lambda state: (state.step, state.logits.softmax(1)[0], {"loss": state.loss})):
        self.notes, self.entries = notes, []

    def __call__(self, state):
        self.entries.append(self.notes(state))

    def state_dict(self):
        return {"entries": self.entries}

    def load_state_dict(self, state):
        self.entries = state["entries"]


class OtherLog(Log):
    pass


def plain(state):
    """A hook that can't be saved."""


def cut(at, hooks):
    """Run a cell that is cut after one step, up to which it has saved itself; returns its transform."""
    transform = fails_once(at + 1)
    with pytest.raises(KeyboardInterrupt):
        cell(transform, hooks=hooks)
    return transform


@pytest.mark.parametrize("at", [1, 2, 7, 8])
def test_fit_called_again_goes_on_with_what_its_hooks_had_noted(autosaves, capsys, at):
    whole, log, other = Log(), Log(), Log()
    cell(fails_once(10**6), hooks=[(2, whole), (3, Log())])
    transform = cut(at, [(2, Log()), (3, Log())])
    capsys.readouterr()
    cell(transform, hooks=[(2, log), (3, other)])
    assert capsys.readouterr().out == f"training: goes on at step {at} of 13, where it was interrupted\n"
    assert [step for step, *_ in log.entries] == [2, 4, 6, 8, 10, 12]
    assert [step for step, *_ in other.entries] == [3, 6, 9, 12]
    assert same(log.entries, whole.entries)
    assert list(autosaves.iterdir()) == []


def test_fit_called_again_with_the_same_hook_notes_nothing_twice(autosaves):
    log = Log()
    transform = cut(7, [(2, log)])
    cell(transform, hooks=[(2, log)])
    assert [step for step, *_ in log.entries] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("hooks", [[(1, plain)], [(1, plain), (2, Log())], [(2, Log()), (1, plain)]])
def test_fit_does_not_save_itself_with_a_hook_whose_notes_would_be_lost(autosaves, hooks):
    with pytest.raises(KeyboardInterrupt):
        cell(fails_once(8), hooks=hooks)
    assert not autosaves.exists()


@pytest.mark.parametrize("hooks", [[], [(3, Log())], [(2, OtherLog())], [(2, Log()), (2, Log())]])
def test_fit_takes_up_no_run_with_other_hooks(autosaves, capsys, hooks):
    transform = cut(7, [(2, Log())])
    cell(transform, hooks=hooks)
    assert "goes on" not in capsys.readouterr().out


def test_fit_saves_what_hooks_have_noted_in_a_checkpoint_of_the_caller_too(tmp_path):
    path, whole, log = tmp_path / "run.pt", Log(), Log()
    train(network(), hooks=[(2, whole)])
    with pytest.raises(KeyboardInterrupt):
        train(network(), hooks=[(2, Log()), raise_at(8)], checkpoint=path, checkpoint_every=5)
    train(network(seed=9), hooks=[(2, log), (1, plain)], checkpoint=path)
    assert same(log.entries, whole.entries)
    with pytest.raises(ValueError, match=r"hooks: saved every 2 Log \w+, now every 2 OtherLog \w+\)"):
        train(network(), hooks=[(2, OtherLog())], checkpoint=path)
    with pytest.raises(ValueError, match=r"hooks: saved every 2 Log \w+, now None\)"):
        train(network(), checkpoint=path)


def test_fit_says_which_hook_holds_what_is_no_data(autosaves, capsys, tmp_path):
    said = "the state of the hook Log holds State: only tensors, numbers, texts, and lists, tuples and dicts"
    history, _ = cell(scale(), hooks=[(1, Log(lambda state: {"seen": [state]}))])
    assert history.steps == 13
    assert capsys.readouterr().out.count(f"No checkpoint could be saved ({said} of these can be saved)") == 1
    with pytest.raises(TypeError, match=said):
        train(hooks=[(1, Log(lambda state: state))], checkpoint=tmp_path / "run.pt", checkpoint_every=5)
    assert not (tmp_path / "run.pt").exists()


def test_fit_saves_the_part_of_a_tensor_that_a_hook_keeps_not_all_of_it(tmp_path):
    big = torch.zeros(100_000)
    train(hooks=[(1, Log(lambda state: big[:1]))], checkpoint=tmp_path / "run.pt")
    assert (tmp_path / "run.pt").stat().st_size < 100_000


def test_what_hooks_have_noted_comes_back_on_the_device_of_the_run():
    notes = {"a": [torch.zeros(2), (torch.ones(()), 1, True, None, "text")], 5: 0.5}
    there = resume._data(notes, lambda tensor: tensor.to("meta"))
    assert there["a"][0].device.type == there["a"][1][0].device.type == "meta"
    assert (there["a"][1][1:], there[5]) == ((1, True, None, "text"), 0.5)


def test_an_interrupted_run_is_kept_for_two_weeks(autosaves):
    autosaves.mkdir()
    other = autosaves / "notes.txt"
    for name, days in (("old.pt", 15), ("fresh.pt", 13), ("half.pt.7.unfinished", 15), ("notes.txt", 15)):
        (autosaves / name).write_bytes(b"x")
        os.utime(autosaves / name, (0, time.time() - days * 86_400))
    with pytest.raises(KeyboardInterrupt):
        cell(fails_once(3))
    kept = {path.name for path in autosaves.iterdir()}
    assert {"fresh.pt", "notes.txt"} < kept
    assert not {"old.pt", "half.pt.7.unfinished"} & kept
    assert len(kept) == 3
    assert other.exists()


def test_a_compiled_network_goes_on_after_an_interruption(tmp_path):
    """What torch.compile returns holds objects that differ from one start to the next."""
    path = tmp_path / "run.pt"

    def compiled():
        model = torch.compile(network(), backend="eager")
        torch.manual_seed(0)
        return model

    with pytest.raises(KeyboardInterrupt):
        train(compiled(), checkpoint=path, checkpoint_every=4, hooks=[raise_at(6)])
    steps = []
    model = compiled()
    train(model, checkpoint=path, checkpoint_every=4, hooks=[(1, lambda state: steps.append(state.step))])
    assert steps[0] == 5
    whole = compiled()
    train(whole)
    assert same(model.state_dict(), whole.state_dict())
