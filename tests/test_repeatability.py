"""A quick notebook run twice by the runner behind `make run`: what it measured is the same, bit for bit."""

import json
import re

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell

from helpers import notebooks, runtime, stamps

PROJECT = runtime.PROJECT_ROOT
NAME = "00_pytorch_basics"  # the fastest one
MEASURED = re.compile(r"seconds|per-second|time|speed|memory")  # these depend on what else the machine does

KEEP_HISTORIES = """import helpers.training

histories, fit = [], helpers.training.fit


def kept(*args, **options):
    histories.append(fit(*args, **options))
    return histories[-1]


helpers.training.fit = kept"""
RECORD_HISTORIES = """import dataclasses

from helpers.runtime import record

record("all-histories", [dataclasses.asdict(h) | {"seconds": None} for h in histories])"""


def recorded(path):
    """The raw values that a notebook recorded: name to JSON, in which a float keeps every bit."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    results = [output.metadata for output in outputs if "scrapbook" in output.get("metadata", {})]
    return {result.scrapbook.name: json.dumps(result.course.value) for result in results}


@pytest.fixture
def twice(course, monkeypatch):
    """Two copies of the notebook that also record the history of each training; the paths of their runs."""
    monkeypatch.setenv("COURSE_BUDGET", "quick")
    monkeypatch.setenv("COURSE_DATA", "embedded")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a GPU adds in another order each time
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # the copies lie elsewhere than `helpers`
    monkeypatch.setattr(notebooks, "_build_book", lambda source: True)
    cells = stamps.read(NAME, PROJECT / "notebooks").cells
    for copy in ("01_once", "02_again"):
        course(copy, new_code_cell(KEEP_HISTORIES), *cells, new_code_cell(RECORD_HISTORIES))
    return [
        notebooks.RUN_FOLDER / "source" / "notebooks" / f"{copy}.ipynb" for copy in ("01_once", "02_again")
    ]


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="Apple's GPU adds in another order each time")
def test_a_quick_notebook_run_twice_measures_the_same_bit_for_bit(twice):
    assert notebooks.main(["run"]) == 0
    once, again = map(recorded, twice)
    histories = json.loads(once["all-histories"])
    assert sum(len(history["loss"]) for history in histories) > 100
    compared = [name for name in once if not MEASURED.search(name)]
    assert len(compared) > 10
    assert once.keys() == again.keys()
    assert {name: once[name] for name in compared} == {name: again[name] for name in compared}
