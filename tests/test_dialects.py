"""The snippets on the page "Three dialects": PyTorch's are run, the others must be valid Python."""

import ast
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

PAGE = Path(__file__).resolve().parent.parent / "book" / "three_dialects.md"
KEYS = ("tf1", "keras", "pytorch")


def snippets(key: str) -> list[str]:
    """The code of one dialect's tabs, in the order of the page."""
    return re.findall(rf":sync: {key}\n\n```python\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def mnist_root(tmp_path, monkeypatch):
    """A folder with 250 random digits in MNIST's own file format; snippets save their files beside it."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    torch.manual_seed(0)
    for part in ("train", "t10k"):
        pixels = torch.randint(0, 256, (250 * 28 * 28,), dtype=torch.uint8).numpy().tobytes()
        header = b"".join(n.to_bytes(4, "big") for n in (2051, 250, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = torch.randint(0, 10, (250,), dtype=torch.uint8).numpy().tobytes()
        header = b"".join(n.to_bytes(4, "big") for n in (2049, 250))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("key", KEYS)
def test_each_dialect_has_all_ten_things_as_valid_python(key):
    assert len(snippets(key)) == 10
    for code in snippets(key):
        ast.parse(code)


def test_pytorch_snippets_run_from_the_first_to_the_last(mnist_root, capsys):
    names = {"torch": torch, "torchvision": torchvision, "nn": nn, "root": mnist_root}
    for code in snippets("pytorch"):
        exec(compile(code, str(PAGE), "exec"), names)
    assert names["step"] == 3  # 250 images in batches of 100
    assert 0 <= names["accuracy"] <= 1
    assert torch.allclose(names["probabilities"].sum(1), torch.ones(5))
    saved = torch.load(mnist_root / "digits.pt", weights_only=True)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in names["model"].state_dict().items())
