"""Five kills of `make soak`, and whether it would notice a difference."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import soak

PROJECT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes")


def test_five_killed_runs_end_bit_for_bit_like_uninterrupted_ones(tmp_path):
    out, names = tmp_path / "soak.json", ("LeNet-5 (paper)", "LeNet-5 (Keras)")
    command = [sys.executable, PROJECT / "benchmarks" / "soak.py", *names, "--kills", "5", "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = json.loads(out.read_text())["networks"]
    assert [count["network"] for count in counts] == list(names)
    assert sum(count["kills"] for count in counts) == 5
    early = sum(count["before_first_save"] for count in counts)
    assert early < 3, "most kills come when there is something to lose"
    for count in counts:
        assert count["bits_compared"] > 1_000_000 * count["runs"] > 0
        assert count["bits_different"] == count["bits_different_when_repeated"] == 0
        assert count["checkpoints_lost"] == count["unfinished_left"] == 0


def test_bits_different_counts_bits_and_any_other_difference_as_one():
    first = {"weights": torch.tensor([1.0, -2.0]), "val": [{"loss": 0.5}], "step": 3}
    same = {"weights": torch.tensor([1.0, -2.0]), "val": [{"loss": 0.5}], "step": 3}
    assert soak.bits_different(first, same) == 0
    same["weights"][1] = 2.0  # the sign
    same["val"][0]["loss"] = 0.25
    assert soak.bits_different(first, same) == 2
    assert soak.bits_different(first, {**first, "more": 1}) == 1
    assert soak.bits_different(torch.zeros(2), torch.zeros(3)) > 0
    assert soak.bits_different(torch.tensor(0.0), torch.tensor(-0.0)) == 1
    assert soak.bits_in(first) == 64


def test_steps_in_tells_a_damaged_checkpoint_from_none(tmp_path):
    path = tmp_path / "run.pt"
    assert soak.steps_in(path) == 0
    torch.save({"step": 7}, path)
    assert soak.steps_in(path) == 7
    path.write_bytes(path.read_bytes()[:100])
    assert soak.steps_in(path) == -1


def test_store_leaves_what_else_the_page_shows(tmp_path):
    result, page = tmp_path / "soak.json", tmp_path / "reliability.json"
    result.write_text('{"machine": {"torch": "2"}, "networks": []}')
    page.write_text('{"networks": [1], "inputs": [2]}')
    soak.store(result, page)
    assert json.loads(page.read_text()) == {"machine": {"torch": "2"}, "networks": [], "inputs": [2]}


def test_soak_knows_the_networks_of_every_mnist_notebook():
    classes = {recipe.network().__class__.__name__ for recipe in soak.recipes().values()}
    assert classes == {"MLP", "ArticleLeNet5", "PaperLeNet5", "KerasLeNet5", "GuideNet", "ConvNet"}
