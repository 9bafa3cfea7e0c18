"""The role that works out the time of a pass."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import pass_time


@pytest.fixture
def notebook(tmp_path):
    def write(text):
        prefix = "application/papermill.record/"
        glued = {"scrapbook": {"name": "speed", "mime_prefix": prefix}}
        output = new_output("display_data", {f"{prefix}text/plain": repr(text)}, metadata=glued)
        path = tmp_path / "01_net.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell("1", outputs=[output])]), path)
        return path

    return write


@pytest.mark.parametrize(
    ("speed", "images", "time"),
    [("9,018", 55_000, "6.1 s"), ("100 images/s", 50, "0.5 s"), ("100", 12_400, "2 min 04 s")],
)
def test_pass_time_is_images_by_speed(notebook, speed, images, time):
    assert pass_time.pass_time(notebook(speed), "speed", images) == time


@pytest.mark.parametrize("text", ["fast", "0", ""])
def test_pass_time_names_a_record_that_is_no_speed(notebook, text):
    with pytest.raises(ValueError, match=r"01_net\.ipynb: speed is .*, not a number of images a second"):
        pass_time.pass_time(notebook(text), "speed", 100)


def test_pass_time_names_a_record_that_is_missing(notebook):
    with pytest.raises(ValueError, match="other is None"):
        pass_time.pass_time(notebook("1"), "other", 100)
