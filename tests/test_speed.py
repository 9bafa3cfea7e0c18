"""The benchmark: its ways train alike, they take turns, and what it measures is what it writes."""

import functools
import itertools
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import accuracy
import article_way
import images
import parts
import race
import recipes
import speed
import task as tasks
import ways
import worker

from helpers import data

PROJECT = Path(__file__).resolve().parent.parent
LENET = "LeNet-5 (article)"
FEW = {"count": 200}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Images go into the test's own folder."""
    monkeypatch.setattr(images, "FOLDER", tmp_path)
    return tmp_path


def task(name=LENET, settings=None, **changes):
    recipe = recipes.recipe(name, **(FEW | changes))
    images.make(recipe)
    return tasks.Task(recipe, settings or {})


class InProcess:
    """A worker without a process."""

    def __init__(self, told):
        self.told, self.peak_bytes = told, 1

    def ready(self):
        if self.told["way"] in race.IN_RIVALS:
            raise race.Missing("not here")
        told = self.told | {"changes": FEW | self.told["changes"]}
        images.make(recipes.recipe(told["network"], **told["changes"]))
        self.own, self.parameters = worker.prepare(told)

    def run(self, steps):
        return self.own(steps)

    def warm_up(self, seconds):
        return 2

    def stop(self):
        pass


# ---- the command ---------------------------------------------------------------------------------------


def run(monkeypatch, *arguments):
    monkeypatch.setattr(race, "race", functools.partial(race.race, start=InProcess))
    monkeypatch.setattr(speed, "rival_version", lambda package: "not asked")
    return speed.main(list(arguments))


def test_speed_writes_every_run_and_their_medians(monkeypatch, tmp_path, capsys):
    out = tmp_path / "speed.json"
    how = ("--networks", "MLP", "--parts", "compare", "--repeats", "3", "--out", str(out))
    assert run(monkeypatch, *how) == 0
    written = json.loads(out.read_text())
    assert written["machine"]["repeats"] == 3
    assert written["machine"]["torch"] == torch.__version__
    found = written["compare"]["MLP"]
    assert (found["batch"], found["parameters"], found["macs"]) == (200, 199_210, 198_800)
    for way in ("article", "fit", "bare step", "matrix product"):
        assert len(found["ways"][way]["runs"]) == 3
        assert found["ways"][way]["median"] == sorted(found["ways"][way]["runs"])[1] > 0
    assert found["ways"]["keras"] == found["ways"]["lightning"] == {"missing": "not here"}
    shown = capsys.readouterr().out
    assert f"{found['ways']['fit']['median']:,.0f}" in shown
    assert "keras: not here" in shown


def test_shown_keeps_three_digits_of_a_slow_network():
    slow = {"median": 0.7432, "runs": [0.7, 0.7432, 12.34]}
    assert speed.shown("fit", slow) == "0.743 images/s (0.7–12.3)"
    assert speed.shown("matrix product", {"median": 134e9, "runs": [134e9]}) == "134 GFLOP/s (134–134)"


def test_speed_resumes_after_the_last_result(monkeypatch, tmp_path):
    out = tmp_path / "speed.json"
    how = ("--rivals", "", "--parts", "compare", "--repeats", "1", "--out", str(out))
    run(monkeypatch, "--networks", "MLP", *how)
    first = json.loads(out.read_text())["compare"]["MLP"]
    run(monkeypatch, "--networks", f"MLP,{LENET}", *how, "--resume")
    both = json.loads(out.read_text())["compare"]
    assert both["MLP"] == first
    assert set(both) == {"MLP", LENET}
    assert "article" not in both[LENET]["ways"]


def test_speed_refuses_to_resume_other_settings(monkeypatch, tmp_path, capsys):
    out = tmp_path / "speed.json"
    how = ("--networks", "MLP", "--rivals", "", "--parts", "compare", "--out", str(out))
    run(monkeypatch, *how, "--repeats", "1")
    assert run(monkeypatch, *how, "--repeats", "2", "--resume") == 2
    assert "leave out --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--networks", "LeNet-9"], "LeNet-5 (paper)"),
        (["--parts", "all"], "compare, growth"),
        (["--rivals", "jax"], "keras, lightning, article"),
        (["--repeats", "0"], "1 repeat"),
        (["--seconds", "nan"], "above 0"),
    ],
)
def test_speed_says_what_to_choose_from(monkeypatch, capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_rival_version_finds_the_package_however_its_name_is_spelled(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    site = tmp_path / "site"
    for name in ("some_rival_cpu", "other_rival"):
        info = site / f"{name}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    monkeypatch.setattr(speed, "RIVALS", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(site))
    assert speed.rival_version("some_rival") == speed.rival_version("other_rival") == "1.5"
    assert speed.rival_version("no_rival") == "not installed"


def test_store_keeps_the_results_of_other_devices(tmp_path):
    page = tmp_path / "performance.json"
    page.write_text('{"cuda": {"machine": 1}, "cpu": {"machine": 2}}')
    results = speed.Results(tmp_path / "speed.json", {"kind": "cpu"}, resume=False)
    results.add(("tricks", "a", "b"), [1])
    speed.store(results, page)
    expected = {"cuda": {"machine": 1}, "cpu": {"machine": {"kind": "cpu"}, "tricks": {"a": {"b": [1]}}}}
    assert json.loads(page.read_text()) == expected


def test_store_puts_the_networks_in_the_courses_order(tmp_path):
    results = speed.Results(tmp_path / "speed.json", {"kind": "cpu"}, resume=False)
    for network in ("VGG16", "MLP", "AlexNet"):
        results.add(("compare", network), {"ways": {}})
    speed.store(results, tmp_path / "performance.json")
    stored = json.loads((tmp_path / "performance.json").read_text())
    assert list(stored["cpu"]["compare"]) == ["MLP", "AlexNet", "VGG16"]


# ---- the race ------------------------------------------------------------------------------------------


class Scripted:
    """A worker that says when it is called, and takes as many seconds as it is told."""

    calls: list = []  # noqa: RUF012
    parameters = 10

    def __init__(self, told):
        self.name, self.seconds, self.peak_bytes = told["name"], iter(told["seconds"]), 7
        self.fails = told.get("fails")

    def ready(self):
        if self.fails == "ready":
            raise race.Missing("no TensorFlow")

    def warm_up(self, seconds):
        return 5

    def run(self, steps):
        self.calls.append(self.name)
        if self.fails == "run":
            raise race.Missing("it ended")
        return next(self.seconds), 100

    def stop(self):
        self.calls.append(f"stop {self.name}")


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(Scripted, "calls", [])
    return Scripted.calls


def test_race_takes_turns_and_keeps_every_run(calls):
    tasks = {"a": {"name": "a", "seconds": [1, 4, 2]}, "b": {"name": "b", "seconds": [1, 1, 1]}}
    found = race.race(tasks, repeats=3, seconds=1, start=Scripted)
    assert calls == ["a", "b", "a", "b", "a", "b", "stop a", "stop b"]
    assert found["a"] == {"median": 50, "runs": [100, 25, 50], "steps": 5, "peak_bytes": 7}
    assert race.ratio(found["a"], found["b"]) == statistics.median([1, 0.25, 0.5])


@pytest.mark.parametrize("moment", ["ready", "run"])
def test_race_goes_on_without_a_way_that_fails(calls, moment):
    tasks = {
        "a": {"name": "a", "seconds": [1, 1], "fails": moment},
        "b": {"name": "b", "seconds": [1, 1]},
    }
    found = race.race(tasks, repeats=2, seconds=1, start=Scripted)
    assert set(found["a"]) == {"missing"}
    assert found["b"]["runs"] == [100, 100]
    assert race.ratio(found["a"], found["b"]) is None
    assert sorted(call for call in calls if "stop" in call) == ["stop a", "stop b"]


def test_race_refuses_networks_of_different_size(calls, monkeypatch):
    monkeypatch.setattr(Scripted, "parameters", property(lambda self: len(self.name)))
    tasks = {"a": {"name": "a", "seconds": []}, "b": {"name": "bb", "seconds": []}}
    with pytest.raises(ValueError, match="differ in size"):
        race.race(tasks, repeats=1, seconds=1, start=Scripted)
    assert calls == ["stop a", "stop bb"]


@pytest.mark.parametrize("speed_of", [0.001, 0.02, 5.0])  # seconds a step
def test_warm_up_finds_the_steps_of_a_run(speed_of):
    mine = race.Worker.__new__(race.Worker)
    mine.run = lambda steps: (steps * speed_of, steps)
    assert mine.warm_up(2.0) == max(5, round(2.0 / speed_of))


def test_worker_trains_in_a_process_of_its_own(folder, monkeypatch):
    monkeypatch.setattr(race, "LOG", folder / "workers.log")
    monkeypatch.setattr(race, "PROJECT", PROJECT)
    told = parts.task("matrix product", "MLP", {"size": 8, "dtype": "float32"})
    mine = race.Worker(told)
    try:
        mine.ready()
        seconds, operations = mine.run(3)
        assert operations == 3 * 2 * 8**3
        assert seconds > 0
        assert mine.peak_bytes > 10_000_000  # torch alone is larger
    finally:
        mine.stop()
    assert mine.process.returncode == 0


def test_worker_says_why_it_cannot(folder, monkeypatch):
    monkeypatch.setattr(race, "LOG", folder / "workers.log")
    mine = race.Worker(parts.task("fit", "LeNet-9"))
    with pytest.raises(race.Missing, match=r"KeyError: 'LeNet-9'"):
        mine.ready()
    mine.stop()


def test_missing_environment_is_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(race, "RIVALS", tmp_path / "none")
    with pytest.raises(race.Missing, match="make bench"):
        race.interpreter("keras")
    assert race.interpreter("fit") == sys.executable


# ---- the ways ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipe_fits_its_network(name):
    recipe = recipes.recipe(name)
    narrow = (
        {"arguments": {"hidden": 64}} if recipe.size > 28 else {}
    )  # a hundred million weights take seconds
    sizes = speed.size_of(name, **narrow)
    assert sizes["batch"] == recipe.batch
    assert sizes["parameters"] > 10_000
    assert recipe.count >= 2 * recipe.batch


@pytest.mark.parametrize("name", [name for name, own in recipes.RECIPES.items() if own.size == 28])
def test_article_transform_gives_the_numbers_of_fit(name):
    mine = task(name)
    pictures = article_way.Pictures(*images.read(mine.recipe), article_way.per_picture(mine.recipe))
    one_by_one = torch.stack([pictures[i][0] for i in range(5)])
    together = mine.transform()(mine.images().images[:5])
    assert together.shape[1:] == mine.recipe.input_shape
    assert torch.allclose(one_by_one, together, atol=1e-5)


def test_pictures_are_cut_and_mirrored_alike_in_both():
    mine = task("VGG16", count=4, stored=(3, 40, 40), size=32)
    picture, _ = article_way.Pictures(*images.read(mine.recipe), article_way.per_picture(mine.recipe))[0]
    batch = mine.transform()(mine.images().images)
    assert picture.shape == batch.shape[1:] == (3, 32, 32)
    assert abs(picture.mean() - batch[0].mean()) < 0.5
    assert abs(picture.std() / batch[0].std() - 1) < 0.3


def test_tricks_leave_the_training_as_it_is():
    plain = ways.loop(task())
    plain(4)
    tricky = ways.loop(task(settings=parts.ALL))
    tricky(4)
    assert all(isinstance(loss, float) for loss in plain.losses)
    assert np.allclose(plain.losses, torch.stack(tricky.losses).tolist(), atol=1e-4)
    assert len(set(plain.losses)) == 4


@pytest.mark.parametrize("way", ["article", "loop", "fit", "bare step", "streamed"])
def test_every_way_trains_so_many_images(way):
    timing = ways.WAYS[way](task(batch=20))(12)  # more than a pass
    assert timing.images == 240
    assert timing.seconds > 0


def test_article_learns():
    mine = ways.article(task("MLP", batch=20))
    mine(40)
    assert statistics.mean(mine.losses[-5:]) < 0.5 * mine.losses[0]


def test_streamed_images_are_those_in_memory():
    mine = task()
    pixels, labels = images.read(mine.recipe)
    source = ways.Streamed(mine)
    assert len(source) == 200
    for index in (0, 7, 199):
        image, label = source[index]
        assert np.array_equal(image.numpy(), pixels[index])
        assert label == labels[index]


def test_images_repeat_the_digits_up_to_the_count():
    count = len(data.digits().train) + 3
    mine = task(count=count)
    pixels, labels = images.read(mine.recipe)
    assert len(pixels) == len(labels) == count
    assert np.array_equal(pixels[-3:], data.digits().train.images[:3].numpy())


def test_ladder_adds_one_trick_at_a_time():
    rungs = list(parts.ladder(LENET).values())
    assert rungs[0]["way"] == "article"
    switched = [set(rung["settings"]) for rung in rungs[1:]]
    assert switched[0] == set()
    assert [len(after - before) for before, after in itertools.pairwise(switched)] == [1] * 5
    assert switched[-1] == set(parts.ALL)


def test_every_race_names_networks_that_exist():
    races = [
        *parts.compare(list(recipes.RECIPES), list(parts.RIVALS), False),
        *parts.growth(),
        *parts.tricks(False),
    ]
    assert len({one.place for one in races}) == len(races)
    for one in races:
        assert all(recipe.count >= recipe.batch for recipe in one.recipes())
        assert {told["way"] for told in one.tasks.values()} <= {*ways.WAYS, *race.IN_RIVALS}


# ---- accuracy ------------------------------------------------------------------------------------------


def test_batches_are_the_same_whichever_way_they_come():
    some = data.digits().train.subset(range(250))
    pairs = zip(accuracy.batches(some, 3, False), accuracy.batches(some, 3, True), strict=True)
    sizes = []
    for (images_a, labels_a), (images_b, labels_b) in pairs:
        assert torch.allclose(images_a, images_b, atol=1e-6)
        assert torch.equal(labels_a, labels_b)
        sizes.append(len(labels_a))
    assert sizes == [100, 100, 50]


def test_unchanged_tells_each_variant_and_seed(monkeypatch):
    monkeypatch.setattr(accuracy, "SEEDS", (0, 1))
    monkeypatch.setattr(accuracy.runtime, "has_bf16", lambda: True)
    asked = []
    monkeypatch.setattr(accuracy, "train_once", lambda *a, **how: asked.append((a[1:], how)) or 0.5)
    found = accuracy.unchanged(data.digits(), 4)
    assert set(found["top1"]) == {*accuracy.VARIANTS, "bf16"}
    assert all(values == [0.5, 0.5] for values in found["top1"].values())
    assert ((1, 4), {"fused": False}) in asked


def test_train_once_learns_the_digits():
    splits = data.digits()
    few = data.Splits(splits.train, splits.val, splits.test.subset(range(100)), "few", True)
    assert accuracy.train_once(few, 0, 6) > 0.7


def test_time_to_target_stops_at_the_target_or_the_limit(monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "MLP", recipes.recipe("MLP", target=0.5))
    found = accuracy.time_to_target("MLP", data.digits(), 60)
    assert found["reached"]
    assert found["top1"] >= 0.5
    assert found["images"] == found["passes"] * 1297
    monkeypatch.setitem(recipes.RECIPES, "MLP", recipes.recipe("MLP", target=1.1))
    gave_up = accuracy.time_to_target("MLP", data.digits(), 1e-9)
    assert (gave_up["reached"], gave_up["passes"]) == (False, 1)


def test_keras_way_writes_every_network_but_the_paper_s():
    source = (PROJECT / "benchmarks" / "keras_way.py").read_text("utf-8")
    written = set(re.findall(r'^    "(\w+)": _\w+,$', source, flags=re.MULTILINE))
    assert written == {own.model for own in recipes.RECIPES.values()} - {"PaperLeNet5"}
