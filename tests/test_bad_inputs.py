"""Each bad input of `bad_inputs.py` comes out as book/reliability.json says, which the book shows."""

import json
import sys
from dataclasses import replace

import bad_inputs
import pytest
from bad_inputs import CASES, outcome

STORED = json.loads(bad_inputs.RESULTS.read_text("utf-8"))
INPUTS = {(row["group"], row["name"]): row for row in STORED["inputs"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}: {case.name}")
def test_bad_input_comes_out_as_the_book_says_and_costs_nothing(case, tmp_path):
    found, stored = outcome(case, tmp_path), INPUTS[case.group, case.name]
    if sys.platform != "linux":  # the system's part of a message reads otherwise there
        found, stored = replace(found, message="-"), stored | {"message": "-"}
    assert vars(found) == stored, "if that is meant: python tests/bad_inputs.py"
    assert found.lost == 0
    assert found.message or found.happened == "read"
    assert "\n" not in found.message


def test_the_book_shows_the_bad_inputs_of_today_and_at_least_forty():
    assert sys.platform == "win32" or list(INPUTS) == [(case.group, case.name) for case in CASES]
    assert len(INPUTS) == len(STORED["inputs"]) >= 40
