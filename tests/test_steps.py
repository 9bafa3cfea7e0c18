"""The step figures. Oracles: a convolution and poolings worked out by hand, and plain Python loops."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import step_numbers
import steps

IMAGE = "1 2 0 1 / 0 3 1 0 / 2 1 0 2 / 1 0 1 3"
EDGE = "1 0 -1 / 1 0 -1 / 1 0 -1"
LARGE = "1 2 0 1 2 / 0 3 1 0 1 / 2 1 0 2 0 / 1 0 1 3 1 / 0 2 1 0 4"
BY_HAND = {  # kernel or window, stride, padding: output
    (EDGE, 1, 0): [[2, 3], [1, -1]],
    (EDGE, 2, 1): [[-5, 4], [-4, -1]],
    (EDGE, 2, "same"): [[2, 1], [2, 1]],
    (2, 2, 0): [[3, 1], [2, 3]],
    (3, 2, "same"): [[3, 2], [2, 3]],
}


def windows(kernel=EDGE, stride=1, padding=0, image=IMAGE) -> step_numbers.Windows:
    """The windows over an image, from the texts that a page gives."""
    kernel = kernel if isinstance(kernel, int) else step_numbers.grid(kernel)
    return step_numbers.slide(step_numbers.grid(image), kernel, stride, padding)


# ---- the numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BY_HAND)
def test_slide_gives_the_numbers_worked_out_by_hand(case):
    assert windows(*case).output.tolist() == BY_HAND[case]


def test_slide_gives_the_overlapping_pooling_worked_out_by_hand():
    assert windows(3, 2, 0, LARGE).output.tolist() == [[3, 2], [2, 4]]


def test_slide_agrees_with_plain_loops_over_rows_and_columns():
    image = [[0, 0, 0, 0, 0, 0], *([0, *map(int, row.split()), 0] for row in IMAGE.split("/")), [0] * 6]
    kernel = [[int(weight) for weight in row.split()] for row in EDGE.split("/")]
    expected = [
        [sum(kernel[a][b] * image[y + a][x + b] for a in range(3) for b in range(3)) for x in range(4)]
        for y in range(4)
    ]
    assert windows(EDGE, 1, 1).output.tolist() == expected


@pytest.mark.parametrize("case", BY_HAND)
def test_windows_lie_where_their_output_comes_from(case):
    slid = windows(*case)
    for row, column in slid.places:
        pixels = slid.under(row, column)
        value = pixels.max() if slid.kernel is None else (pixels * slid.kernel).sum()
        assert value == slid.output[row, column]


def test_reckoning_writes_the_sum_out():
    assert step_numbers.reckoning(windows(), 0, 0) == "1 − 0 + 0 − 1 + 2 − 0 = 2"
    assert step_numbers.reckoning(windows("2 0 / 0 -3"), 0, 0) == "2·1 − 3·3 = −7"
    assert step_numbers.reckoning(windows(2, 2), 0, 0) == "max(1, 2, 0, 3) = 3"


def test_number_knows_no_negative_zero():
    assert [step_numbers.number(value) for value in (-0.0, -2.0, 0.5, float("-inf"))] == [
        "0",
        "−2",
        "0.5",
        "−∞",
    ]


def test_grid_rejects_what_is_no_square():
    for source in ("1 2 / 3", "1 2 3", "a"):
        with pytest.raises(ValueError, match=r"no square|could not convert"):
            step_numbers.grid(source)


# ---- the drawings --------------------------------------------------------------------------------------


def test_step_shows_the_output_so_far_and_marks_the_new_number():
    root = ElementTree.fromstring(steps.step(windows(), 2, "a"))
    numbers = [tag.text for tag in root.iter("text")]
    assert numbers == [*IMAGE.replace("/", "").split(), "2", "3", "1"]
    assert [tag.text for tag in root.iter("text") if "cell-new" in tag.get("class")] == ["1"]


def test_step_puts_the_window_over_the_pixels_it_reads():
    root = ElementTree.fromstring(steps.step(windows(EDGE, 2, 1), 3, "a"))
    (frame,) = [tag for tag in root.iter("rect") if tag.get("class") == "window"]
    place = [(float(frame.get(axis)) - steps.MARGIN) / steps.CELL for axis in ("x", "y")]
    assert place == [2, 2]
    assert float(frame.get("width")) == 3 * steps.CELL


def test_step_marks_padding_on_the_sides_that_have_it():
    root = ElementTree.fromstring(steps.step(windows(EDGE, 2, "same"), 0, "a"))
    cells = [tag.get("class") for tag in root.iter("rect")][:25]
    assert [i for i, cell in enumerate(cells) if cell == "cell-padding"] == [4, 9, 14, 19, *range(20, 25)]


def test_step_says_in_words_what_it_shows():
    root = ElementTree.fromstring(steps.step(windows(), 3, "a"))
    assert root.get("role") == "img"
    assert root.find("title").text == "Step 4"
    words = "The window covers rows 2 to 4 and columns 2 to 4 of 4 by 4 numbers, padding included. "
    words += "Row 2, column 2 of the output becomes 3 − 0 + 1 − 2 + 0 − 3 = −1."
    assert root.find("desc").text == words


# ---- in a build ----------------------------------------------------------------------------------------


def directive(kind="convolution", **options) -> str:
    """The directive's source."""
    lines = [f":{name}: {value}" for name, value in options.items()]
    return "\n".join([f"```{{window-steps}} {kind}", *lines, "", "A caption.", "```"])


def test_build_draws_the_chosen_steps_and_works_the_formula_out(build_page):
    text = directive(input=IMAGE, kernel=EDGE, show="1 4") + "\n\n{positions}`28 5 1 2`"
    page, warnings = build_page(text, "steps", {})
    assert not [line for line in warnings.splitlines() if "toctree" not in line]
    assert re.findall(r"<title id=[^>]*>(.*?)</title>", page) == ["The kernel", "Step 1", "Step 4"]
    assert "⌊(28 − 5 + 2·2) / 1⌋ + 1 = 28" in page


WRONG = [
    (directive("stretching", input=IMAGE), "neither convolution nor pooling"),
    (directive(input=IMAGE), "an option is missing: 'kernel'"),
    (directive(input="1 2 / 3", kernel=EDGE), "no square of numbers"),
    (directive(input="1", kernel=EDGE), "a window of 3 is longer"),
    (directive(input=IMAGE, kernel=EDGE, show="5"), "show=5: there are 4 steps"),
    (directive(input=IMAGE, kernel=EDGE, padding="most"), "invalid literal"),
    ("{positions}`3 5 1 0`", "a window of 5 is longer"),
]


def test_build_warns_of_each_mistake(build_page):
    _, warnings = build_page("\n\n".join(text for text, _ in WRONG), "steps", {})
    for _, message in WRONG:
        assert message in warnings
