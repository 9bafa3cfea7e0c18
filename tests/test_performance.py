"""The page on speed shows what book/performance.json holds, and its drawings say the same in shapes."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import charts
import performance
import recipes
import speed_numbers as numbers

PROJECT = Path(__file__).resolve().parent.parent
STORED = numbers.read(str(PROJECT), "cpu")


def runs(*speeds):
    return {"runs": list(speeds), "median": sorted(speeds)[len(speeds) // 2], "peak_bytes": 2**30}


SMALL = {
    "machine": {"device": "a processor", "threads": 2, "bf16": False},
    "compare": {
        "Net": {
            "batch": 10,
            "macs": 1_000_000,
            "ways": {
                "article": runs(100, 50, 100),
                "keras": {"missing": "not installed"},
                "fit": runs(400, 300, 200),
                "bare step": runs(400, 400, 400),
                "matrix product": runs(4e9),
            },
        }
    },
    "growth": {
        "batch": {
            "1": {"macs": 5, "ways": {"fit": runs(10)}},
            "100": {"macs": 5, "ways": {"fit": runs(1000)}},
        },
        "width": {"2": {"macs": 2_000_000, "ways": {"fit": runs(50)}}},
    },
    "tricks": {
        "Net": {
            "ladder": {"ways": {"start": runs(10, 10), "one": runs(20, 40), "two": runs(10, 20)}},
            "extras": {
                "ways": {
                    "all tricks": runs(10),
                    "the article's way": runs(2),
                    "bf16": runs(5),
                    "two loader processes": runs(3),
                    "torch.compile": {"missing": "no compiler"},
                }
            },
        }
    },
    "accuracy": {"digits": {"top1": {"all tricks": [0.9, 0.92], "plain": [0.91, 0.93]}}},
}


# ---- the numbers ---------------------------------------------------------------------------------------


def test_speed_rows_show_median_and_extremes():
    assert numbers.speed_rows(SMALL) == [
        (
            "Net",
            "100.0 (50.0\N{WORD JOINER}–\N{WORD JOINER}100.0)",
            "–",
            "–",
            "300 (200\N{WORD JOINER}–\N{WORD JOINER}400)",
            "400 (400\N{WORD JOINER}–\N{WORD JOINER}400)",
        )
    ]


def test_ratio_rows_pair_the_rounds():
    # 400/100, 300/50, 200/100 and 400/400, 300/400, 200/400
    assert numbers.ratio_rows(SMALL) == [("Net", "4.00×", "–", "–", "0.75×")]


def test_cost_rows_count_six_operations_a_mac():
    # 300 images/s × 6 × 1e6 = 1.8 GFLOP/s of the product's 4
    assert numbers.cost_rows(SMALL) == [("Net", "float32", "10", "30.0", "2", "45 %")]


def test_memory_rows_show_what_each_way_held():
    assert numbers.memory_rows(SMALL) == [("Net", "1.07", "–", "–", "1.07", "1.07")]


def test_growth_points_are_sorted_sizes():
    assert numbers.growth_points(SMALL, "batch") == {"fit": [(1.0, 10), (100.0, 1000)]}
    assert numbers.growth_points(SMALL, "width") == {"fit": [(2.0, 50)]}
    header, rows = numbers.growth_rows(SMALL, "width")
    assert header[-1] == "GFLOP/s of fit"
    assert rows == [("2", "50.0 (50.0\N{WORD JOINER}–\N{WORD JOINER}50.0)", "1")]


def test_trick_rows_multiply_up():
    rows = numbers.trick_rows(SMALL, "Net")
    assert [row[2:] for row in rows] == [("1.00×", "1.00×"), ("3.00×", "3.00×"), ("0.50×", "1.50×")]


def test_extra_rows_compare_with_what_they_were_added_to():
    rows = {row[0]: row[1:] for row in numbers.extra_rows(SMALL, "Net")}
    assert rows["torch.compile, on top of all tricks"] == ("no compiler", "–")
    assert rows["bf16, on top of all tricks"][1] == "0.50×"
    assert rows["two loader processes, on top of the article's way"][1] == "1.50×"


def test_accuracy_rows_give_mean_deviation_and_difference():
    assert numbers.accuracy_rows(SMALL) == [
        ("digits, all tricks", "91.00 ± 1.41 %", "–"),
        ("digits, plain", "92.00 ± 1.41 %", "+1.00"),
    ]


def test_time_rows_say_when_the_target_was_missed():
    stored = {"time": {"A": {"target": 0.98, "top1": 0.971, "reached": False, "passes": 3, "seconds": 61.4}}}
    assert numbers.time_rows(stored) == [("A", "98.00 %", "97.10 %, not reached", "3", "61 s")]
    assert numbers.time_rows({}) == []


def test_roles_give_the_numbers_of_the_tables():
    assert numbers.value_at(SMALL, "machine threads") == "2"
    assert numbers.value_at(SMALL, "machine bf16") == "no"
    assert numbers.gain_of(SMALL, "Net | fit | article") == "4.00×"
    assert numbers.trick_of(SMALL, "Net | one") == "3.00×"
    assert numbers.trick_of(SMALL, "Net | all") == "1.50×"
    assert numbers.trick_of(SMALL, "Net | bf16") == "0.50×"
    with pytest.raises(KeyError):
        numbers.value_at(SMALL, "machine price")


@pytest.mark.parametrize("content", [None, "no json", '{"cuda": {}}', "[]"])
def test_read_says_what_to_run_when_the_results_are_missing(tmp_path, content):
    (tmp_path / "book").mkdir()
    if content is not None:
        (tmp_path / "book" / "performance.json").write_text(content)
    with pytest.raises(ValueError, match=r"^book/performance\.json can't be used .*: run make bench"):
        numbers.read(str(tmp_path), "cpu")


def test_if_measured_shows_another_device_or_says_that_there_is_none(tmp_path):
    (tmp_path / "book").mkdir()
    page, gpu = (
        tmp_path / "book" / "performance.json",
        SMALL | {"machine": {"kind": "cuda", "device": "a GPU", "date": "today"}},
    )
    page.write_text(json.dumps({"cpu": SMALL}))
    (said,) = performance.if_measured(str(tmp_path), "cuda")
    assert "Not measured yet" in said.astext()
    page.write_text(json.dumps({"cpu": SMALL, "cuda": gpu}))
    machine, _, *tables = performance.if_measured(str(tmp_path), "cuda")
    assert machine.astext() == "a GPU; today."
    assert "300 (200" in tables[0].astext()


# ---- the drawings --------------------------------------------------------------------------------------


def parsed(drawing):
    root = ET.fromstring(drawing)
    assert root.get("role") == "img"
    assert root.find("title").text
    assert root.find("desc").text
    return root


def bars(root, class_):
    return [float(one.get("width")) for one in root.iter("rect") if one.get("class") == class_][1:]


def test_shares_draw_bars_in_proportion():
    groups = {"A": {"x": (0.5, ""), "y": (1.0, "")}, "B": {"x": (0.25, ""), "y": (None, "")}}
    root = parsed(charts.shares("s", groups))
    (half, quarter), (whole,) = bars(root, "series-one"), bars(root, "series-two")
    assert half == pytest.approx(whole / 2, abs=0.1)
    assert quarter == pytest.approx(whole / 4, abs=0.1)
    (limit,) = [line for line in root.iter("line") if line.get("class") == "chart-limit"]
    assert float(limit.get("x1")) == pytest.approx(whole, abs=0.1)
    assert "B, y: not measured." in root.find("desc").text


def test_steps_draw_what_each_trick_added():
    root = parsed(charts.steps("s", "Net", [("start", 100), ("one", 300), ("two", 200)]))
    widths = [(one.get("class"), float(one.get("width"))) for one in root.iter("rect")]
    unit = widths[0][1] / 100
    assert widths[1:3] == [
        ("series-one", pytest.approx(100 * unit, abs=0.1)),
        ("series-two", pytest.approx(200 * unit, abs=0.1)),
    ]
    assert widths[3:] == [("series-one", pytest.approx(200 * unit, abs=0.1))]


def test_lines_go_by_logarithms_and_stay_inside():
    root = parsed(charts.lines("l", {"a": [(1, 10), (10, 100), (100, 1000)]}, "x", "y"))
    (line,) = root.iter("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.2)
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2, abs=0.2)
    assert points[0][1] > points[2][1]
    width, height = map(float, root.get("viewBox").split()[2:])
    assert all(0 < x < width and 0 < y < height for x, y in points)
    assert root.find("desc").text == "a: 10 at 1, 100 at 10, 1,000 at 100."


@pytest.mark.parametrize(
    ("powers", "expected"), [((0.1, 1.1), [2, 5, 10]), ((-0.1, 3.1), [1, 10, 100, 1000])]
)
def test_ticks_are_round_numbers_in_the_range(powers, expected):
    assert list(charts.ticks(powers)) == pytest.approx(expected)


# ---- what is stored ------------------------------------------------------------------------------------


def test_stored_results_are_complete():
    assert set(STORED["compare"]) == set(recipes.RECIPES)
    for found in STORED["compare"].values():
        for way in ("article", "lightning", "fit", "bare step", "matrix product"):
            assert len(found["ways"][way]["runs"]) == STORED["machine"]["repeats"]
    assert sum("runs" in found["ways"]["keras"] for found in STORED["compare"].values()) >= 5


@pytest.mark.skipif("tricks" not in STORED, reason="tricks and growth are not in book/performance.json yet")
def test_stored_tricks_and_growth_are_complete():
    assert set(STORED["growth"]) == {"batch", "data", "width"}
    assert set(STORED["tricks"]) == {"LeNet-5 (article)", recipes.SMALL_VGG_NAME}


@pytest.mark.skipif("accuracy" not in STORED, reason="accuracies are not in book/performance.json yet")
def test_tricks_leave_the_stored_accuracy_within_a_standard_deviation():
    for found in STORED["accuracy"].values():
        means = {label: sum(values) / len(values) for label, values in found["top1"].items()}
        mean = means["all tricks"]
        values = found["top1"]["all tricks"]
        deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        image = 1 / found["test_images"]
        assert all(abs(other - mean) <= max(deviation, image) for other in means.values()), means


def test_page_types_no_number_of_these_results():
    text = (PROJECT / "book" / "performance.md").read_text("utf-8")
    prose = re.sub(r"\{(speed|gain|trick)\}`[^`]*`|```.*?```", "", text, flags=re.DOTALL)
    for name in ("LeNet-5", "VGG16", "uint8", "float32", "bf16", "64 pixels"):
        prose = prose.replace(name, "")
    assert not re.findall(r"\d", prose)


def test_stored_results_name_no_path_of_the_machine_that_ran_them():
    text = (PROJECT / "book" / "performance.json").read_text("utf-8")
    assert not re.search(r"/tmp/|/root|/home|/work", text)
    assert json.loads(text)["cpu"]["machine"]["kind"] == "cpu"
