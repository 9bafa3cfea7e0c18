"""The page on reliability shows what book/reliability.json holds, and the file holds what was asked for."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))
import reliability

PROJECT = Path(__file__).resolve().parent.parent
STORED = reliability.read(str(PROJECT))
SMALL = {
    "machine": {"torch": "2.14.1"},
    "networks": [
        dict(network="A", kills=3, runs=2, bits_compared=1_000, bits_different=0, checkpoints_lost=0),
        dict(network="B", kills=4, runs=1, bits_compared=2_000, bits_different=5, checkpoints_lost=1),
    ],
    "inputs": [
        {"group": "file", "name": "half", "happened": "refused", "message": "it is cut", "lost": 0},
        {"group": "file", "name": "grey", "happened": "read", "message": "", "lost": 2},
        {"group": "file", "name": "none", "happened": "refused", "message": "it is empty", "lost": 0},
    ],
}


def test_totals_add_up_the_networks():
    found = reliability.totals(SMALL)
    assert found == {
        "torch": "2.14.1",
        "kills": 7,
        "runs": 3,
        "bits_compared": 3_000,
        "bits_different": 5,
        "checkpoints_lost": 1,
        "inputs": 3,
    }


def test_fault_rows_say_how_often_what_happened_and_what_was_lost():
    rows = reliability.fault_rows(SMALL)
    resumed = "1 runs resumed to their end; 5 of 2,000 bits differ from the uninterrupted run"
    assert rows[1] == ("B: killed while training or saving", "4", resumed, "1 checkpoints")
    assert rows[2:] == [("bad file", "3", "2 refused, 1 read", "2 files")]


def test_input_rows_show_every_message():
    assert reliability.input_rows(SMALL)[:2] == [
        ("file", "half", "refused", "it is cut"),
        ("file", "grey", "read", "–"),
    ]


@pytest.mark.parametrize("content", [None, "no json", '{"machine": {}}'])
def test_read_says_what_to_run_when_the_results_are_missing(tmp_path, content):
    (tmp_path / "book").mkdir()
    if content is not None:
        (tmp_path / "book" / "reliability.json").write_text(content)
    with pytest.raises(ValueError, match=r"^book/reliability\.json can't be used .*: run make soak"):
        reliability.read(str(tmp_path))


def test_stored_results_are_a_hundred_kills_without_a_bit_or_checkpoint_lost():
    found = reliability.totals(STORED)
    assert found["kills"] >= 100
    assert found["while_saving"] >= 10
    assert found["before_first_save"] <= found["kills"] / 4
    assert found["runs"] >= 20
    assert len(STORED["networks"]) == 6
    for count in ("bits_different", "bits_different_when_repeated", "checkpoints_lost", "unfinished_left"):
        assert found[count] == 0, count
    assert sum(row["lost"] for row in STORED["inputs"]) == 0
    assert len({(row["group"], row["name"]) for row in STORED["inputs"]}) >= 40


def test_page_types_no_number_of_these_results():
    text = (PROJECT / "book" / "reliability.md").read_text("utf-8")
    prose = re.sub(r"\{soak\}`\w+`|```.*?```", "", text, flags=re.DOTALL)
    assert not re.findall(r"\d", prose)
    used = set(re.findall(r"\{soak\}`(\w+)`", text))
    assert used <= reliability.totals(STORED).keys()


def test_stored_results_name_no_path_of_the_machine_that_ran_them():
    text = json.dumps(STORED)
    assert not re.search(r"/tmp/|/root|/home|/work", text)
