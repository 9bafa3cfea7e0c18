"""The runner behind `make run` and `make full`, on notebooks that take no time."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from filelock import FileLock

from helpers import notebooks, stamps
from helpers.notebooks import main

PROJECT = Path(__file__).resolve().parent.parent
SETUP = f"import sys\nsys.path.insert(0, {str(PROJECT)!r})"
RECORD = """from IPython.display import display
prefix = "application/papermill.record/"
display({prefix + "text/plain": repr("97.45 %")}, raw=True,
        metadata={"scrapbook": {"name": "headline-here", "mime_prefix": prefix}})"""
STAMP = {"budget": "cpu", "data": "MNIST", "code_hash": "0", "helpers_hash": "0"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("COURSE_BUDGET", "quick")
    monkeypatch.setenv("COURSE_DATA", "embedded")


@pytest.fixture
def executed(monkeypatch):
    """Names of the notebooks that would have been executed; none of them is."""
    names = []
    monkeypatch.setattr(notebooks, "execute", lambda name, save_to, threads=None: names.append(name))
    return names


@pytest.fixture
def book(monkeypatch):
    """Stands in for the book's builder: says what it was given, and succeeds unless told otherwise."""
    built = []

    def build(source):
        built.append(source)
        return book_builds[0]

    book_builds = [True]
    monkeypatch.setattr(notebooks, "_build_book", build)
    return built, book_builds


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("action", [["run"], ["store"], ["restamp", "--because", "a comment"]])
def test_main_rejects_an_unknown_notebook_in_one_line_that_names_the_accepted(
    course, executed, book, capsys, action
):
    course("01_lenet5", "1")
    course("05_alexnet", "1")
    assert main([*action, "01_lenet5", "06_vgg"]) == 2
    assert capsys.readouterr().err == (
        "error: no notebook is called 06_vgg: choose from 01_lenet5, 05_alexnet\n"
    )
    assert executed == book[0] == []


@pytest.mark.parametrize(
    ("dial", "accepted"), [("COURSE_BUDGET", "quick, cpu, full"), ("COURSE_DATA", "embedded, real, auto")]
)
@pytest.mark.parametrize("action", ["run", "store"])
def test_main_rejects_an_unknown_dial_in_one_line_that_names_the_accepted(
    course, executed, book, capsys, monkeypatch, dial, accepted, action
):
    course("01_lenet5", "1")
    monkeypatch.setenv(dial, "huge")
    assert main([action]) == 2
    assert re.fullmatch(rf"error: {dial}='huge' .*{accepted}\n", capsys.readouterr().err)
    assert executed == book[0] == []


@pytest.mark.parametrize("arguments", [[], ["publish"]])
def test_main_rejects_an_unknown_action_and_names_the_accepted(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert all(word in message for word in ("run", "store", "restamp"))


def test_the_command_itself_exits_with_2_and_one_line(monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "none")
    result = subprocess.run(
        [sys.executable, "-m", "helpers.notebooks", "run"], cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: COURSE_DATA='none' is unknown: set it to one of embedded, real, auto"
    ]


# ---------------------------------------------------------------- execution


def test_execute_runs_a_notebook_where_it_lies_and_stamps_what_came_out(course, tmp_path, capfd):
    course(
        "01_small",
        SETUP,
        "from pathlib import Path\nprint(Path.cwd().name)",
        "from helpers.runtime import record\nrecord('test-accuracy', 0.5, '50.0 %')",
        "from helpers.progress import ProgressLine\n"
        "with ProgressLine('training', 9, seconds_between=0) as line:\n"
        "    for step in range(1, 10):\n"
        "        line.update(step, step, 'loss 1')\n"
        "    line.finish('3 s')",
    )
    target = tmp_path / "elsewhere" / "01_small.ipynb"
    notebook = notebooks.execute("01_small", target)
    kept = nbformat.read(target, as_version=4)
    assert kept == notebook
    assert [cell.execution_count for cell in kept.cells] == [1, 2, 3, 4]
    assert kept.cells[1].outputs[0].text == "notebooks\n"
    assert stamps.records(kept) == {"test-accuracy": "50.0 %"}
    (line,) = kept.cells[3].outputs
    assert line.data == {"text/plain": "training: 3 s"}
    assert stamps.stale(kept) is None
    assert kept.metadata.course.stamp.budget == "quick"
    assert [path.name for path in target.parent.iterdir()] == ["01_small.ipynb"]
    printed = capfd.readouterr()
    assert re.fullmatch(r"01_small: 4 cells in \d+ s\n", printed.out)
    assert printed.err == ""
    original = nbformat.read(tmp_path / "notebooks" / "01_small.ipynb", as_version=4)
    assert all(cell.execution_count is None for cell in original.cells)


def test_main_run_goes_on_after_a_failing_notebook_and_ends_with_its_cell_and_exit_code_1(
    course, book, capsys, tmp_path
):
    first = course("01_fails", "a = 1", "# the culprit\nraise ArithmeticError(f'a is {a}')", "print('never')")
    second = course("02_works", RECORD)
    before = first.read_bytes(), second.read_bytes()
    assert main(["run"]) == 1
    printed = capsys.readouterr()
    assert "# the culprit" in printed.err
    assert "ArithmeticError: a is 1" in printed.err
    assert "\x1b" not in printed.err
    header, rule, *rows = printed.out[printed.out.index("notebook ") :].splitlines()[:4]
    assert re.split(r"\s{2,}", header) == ["notebook", "article", "stored run", "this run", "time"]
    assert set(rule) == {"-", " "}
    assert re.split(r"\s{2,}", rows[0]) == ["01_fails", "–", "–", "FAILED", "–"]
    assert re.fullmatch(r"02_works\s+–\s+–\s+97.45 %\s+\d+ s", rows[1])
    assert str(tmp_path / "_build" / "run" / "_build" / "html" / "index.html") in printed.out
    assert (first.read_bytes(), second.read_bytes()) == before
    assert len(book[0]) == 1
    source = tmp_path / "_build" / "run" / "source"
    copies = [nbformat.read(source / "notebooks" / path.name, as_version=4) for path in (first, second)]
    assert copies[0].cells[0].execution_count is None
    assert stamps.records(copies[1]) == {"headline-here": "97.45 %"}
    assert (source / "_config.yml").exists()


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("import os\nos._exit(9)  # as when memory runs out", "the kernel died"),
    ],
)
def test_main_store_leaves_the_stored_notebook_when_a_cell_fails(course, capsys, cell, said):
    path = course("01_small", "a = 1", cell)
    before = path.read_bytes()
    assert main(["store"]) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert cell in printed.err
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_main_store_replaces_the_outputs_of_a_larger_budget_only_when_forced(course, capsys):
    path = course("01_small", "print(6 * 7)", stamp=STAMP)
    before = path.read_bytes()
    assert main(["store"]) == 1
    assert capsys.readouterr().out.endswith(
        "01_small: kept, its outputs come from the cpu budget (--force replaces them)\n"
    )
    assert path.read_bytes() == before
    assert main(["store", "--force"]) == 0
    kept = nbformat.read(path, as_version=4)
    assert kept.cells[0].outputs[0].text == "42\n"
    assert kept.metadata.course.stamp.budget == "quick"


@pytest.mark.parametrize(
    ("stored", "dials", "kept"),
    [
        (None, ("quick", "embedded"), None),
        (("quick", "embedded digits"), ("quick", "embedded"), None),
        (("cpu", "MNIST"), ("cpu", "real"), None),
        (("cpu", "MNIST"), ("full", "auto"), None),
        (("cpu", "embedded digits"), ("full", "embedded"), None),
        (("full", "MNIST"), ("cpu", "real"), "the full budget"),
        (("cpu", "MNIST"), ("quick", "real"), "the cpu budget"),
        (("cpu", "MNIST"), ("cpu", "embedded"), "other data than the embedded set (MNIST)"),
        (("quick", "MNIST"), ("full", "embedded"), "other data than the embedded set (MNIST)"),
    ],
)
def test_store_keeps_outputs_that_are_better_than_todays_dials_would_give(
    course, executed, monkeypatch, capsys, stored, dials, kept
):
    stamp = None if stored is None else {**STAMP, "budget": stored[0], "data": stored[1]}
    course("01_small", "1", stamp=stamp)
    course("02_small", "1")
    monkeypatch.setenv("COURSE_BUDGET", dials[0])
    monkeypatch.setenv("COURSE_DATA", dials[1])
    assert main(["store"]) == (kept is not None)
    assert executed == (["02_small"] if kept else ["01_small", "02_small"])
    assert kept is None or f"01_small: kept, its outputs come from {kept}" in capsys.readouterr().out
    executed.clear()
    assert main(["store", "01_small", "--force"]) == 0
    assert executed == ["01_small"]


def executes(name, save_to, threads=None):
    """Stands in for `execute`: as if the notebook had no cells."""
    notebook = nbformat.v4.new_notebook(metadata={"course": {"stamp": {**STAMP, "wall_seconds": 61}}})
    nbformat.write(notebook, save_to)
    return notebook


@pytest.mark.parametrize(("builds", "code"), [(True, 0), (False, 1)])
def test_main_run_exits_with_1_if_the_book_cannot_be_built(course, book, monkeypatch, capsys, builds, code):
    course("01_small", "1")
    monkeypatch.setattr(notebooks, "execute", executes)
    book[1][0] = builds
    assert main(["run"]) == code
    out = capsys.readouterr().out
    assert re.search(r"^01_small +– +– +– +1 min 01 s$", out, re.MULTILINE)
    assert ("could not be built" in out) is not builds
    assert ("index.html" in out) is builds


def test_main_run_executes_the_chosen_notebooks_and_clears_what_an_older_run_left(
    course, book, monkeypatch, capsys, tmp_path
):
    for name in ("01_small", "02_small", "03_small"):
        course(name, "1")
    left = tmp_path / "_build" / "run" / "source" / "notebooks" / "99_gone.ipynb"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    names = []
    monkeypatch.setattr(
        notebooks, "execute", lambda name, *rest: (names.append(name), executes(name, *rest))[1]
    )
    assert main(["run", "03_small", "01_small.ipynb"]) == 0
    assert sorted(names) == ["01_small", "03_small"]
    assert not left.exists()
    assert (left.parent / "02_small.ipynb").exists()  # its stored outputs are part of the book
    out = capsys.readouterr().out
    assert "02_small" not in out
    assert out.index("03_small") < out.index("01_small")  # the table keeps the order asked for


@pytest.mark.parametrize(("budget", "at_once", "threads"), [("quick", 2, 2), ("cpu", 1, None)])
def test_main_run_shares_the_cores_between_two_notebooks_on_the_quick_budget_alone(
    course, book, monkeypatch, budget, at_once, threads
):
    for name in ("01_small", "02_small", "03_small", "04_small"):
        course(name, "1")
    monkeypatch.setenv("COURSE_BUDGET", budget)
    monkeypatch.setattr(notebooks.os, "cpu_count", lambda: 4)
    running, seen, given = [], [], []
    pair = threading.Barrier(at_once)

    def execute(name, save_to, threads=None):
        running.append(name)
        pair.wait(timeout=120)  # fails unless as many run together
        seen.append(len(running))
        given.append(threads)
        pair.wait(timeout=120)
        running.remove(name)
        return executes(name, save_to)

    monkeypatch.setattr(notebooks, "execute", execute)
    assert main(["run"]) == 0
    assert max(seen) == at_once
    assert given == [threads] * 4


def test_main_run_stamps_one_notebook_at_a_time_although_two_run_side_by_side(course, book, monkeypatch):
    """Parsing in two threads at once raises SystemError now and then on Python 3.11."""
    for name in ("01_small", "02_small"):
        course(name, "1")
    both, inside, most = threading.Barrier(2), [], []

    def execute(self, **options):
        both.wait(timeout=120)  # both notebooks end at the same moment

    def stamp(notebook, seconds):
        inside.append(1)
        time.sleep(0.2)
        most.append(len(inside))
        inside.pop()
        notebook.metadata["course"] = {"stamp": {**STAMP, "wall_seconds": 1}}

    monkeypatch.setattr(notebooks.NotebookClient, "execute", execute)
    monkeypatch.setattr(notebooks, "stamp", stamp)
    monkeypatch.setattr(notebooks.os, "cpu_count", lambda: 2)
    assert main(["run"]) == 0
    assert most == [1, 1]


def test_execute_limits_the_threads_of_the_kernel(course, tmp_path):
    course("01_small", "import os\nprint(os.environ['OMP_NUM_THREADS'])")
    notebook = notebooks.execute("01_small", tmp_path / "01_small.ipynb", threads=3)
    assert notebook.cells[0].outputs[0].text == "3\n"


def test_command_ends_at_once_and_in_one_line_on_ctrl_c(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "main", interrupted)
    monkeypatch.setattr(notebooks.os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        notebooks.command()
    assert ended.value.code == 130
    assert re.fullmatch(r"stopped: .*\n", capsys.readouterr().err)


def test_table_aligns_its_columns():
    assert notebooks.table([("a", "long title"), ("longer", "b"), ("c", "")]) == (
        "a       long title\n------  ----------\nlonger  b\nc"
    )


# ---------------------------------------------------------------- restamp


@pytest.fixture
def stale_helpers(course):
    """The path of a notebook whose helpers, and nothing else, have changed since it was stored."""
    path = course("01_small", "from helpers import runtime")
    notebook = nbformat.read(path, as_version=4)
    stamps.stamp(notebook, 1)
    notebook.metadata.course.stamp.helpers_hash = "another"
    nbformat.write(notebook, path)
    return path


def test_main_restamp_accepts_changed_helpers_and_keeps_the_reasons(stale_helpers):
    for reason in ("a plot label", "a message"):
        assert main(["restamp", "--because", reason]) == 0
        notebook = nbformat.read(stale_helpers, as_version=4)
        assert stamps.stale(notebook) is None
        notebook.metadata.course.stamp.helpers_hash = "another"
        nbformat.write(notebook, stale_helpers)
    assert [entry.because for entry in notebook.metadata.course.stamp.restamped] == [
        "a plot label",
        "a message",
    ]


@pytest.mark.parametrize("because", [[], ["--because", "  "]])
def test_main_restamp_wants_a_reason(stale_helpers, capsys, because):
    before = stale_helpers.read_bytes()
    assert main(["restamp", *because]) == 2
    assert capsys.readouterr().err == "error: say with --because why no result can differ\n"
    assert stale_helpers.read_bytes() == before


def test_main_restamp_leaves_a_fresh_notebook_alone(stale_helpers):
    main(["restamp", "--because", "a plot label"])
    before = stale_helpers.read_bytes()
    assert main(["restamp", "--because", "another label"]) == 0
    assert stale_helpers.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda nb: nb.cells[0].update(source="1"), "its code cells have changed"),
        (lambda nb: nb.metadata.pop("course"), "it has no stamp"),
    ],
)
def test_main_restamp_refuses_a_notebook_that_must_be_run(stale_helpers, capsys, change, reason):
    notebook = nbformat.read(stale_helpers, as_version=4)
    change(notebook)
    nbformat.write(notebook, stale_helpers)
    before = json.loads(stale_helpers.read_text())
    assert main(["restamp", "--because", "no result differs"]) == 2
    assert re.fullmatch(rf"error: 01_small must be run: {reason}.*\n", capsys.readouterr().err)
    assert json.loads(stale_helpers.read_text()) == before


# ---------------------------------------------------------------- the address of the course


COLAB_CELL = 'import sys\n\nCOURSE, BRANCH = "", "main"  # a comment\nprint(COURSE)'


def colab_cell(source=COLAB_CELL, name="first"):
    return nbformat.v4.new_code_cell(source, metadata={"tags": ["colab"]}, id=name)


@pytest.fixture
def published(course):
    """Two notebooks with a Colab cell, and a way to set the address: `published(url, branch)`."""
    paths = [course(name, colab_cell(), "print(1)") for name in ("01_small", "02_small")]

    def configure(url, branch="main"):
        config = f"repository:\n  url: {json.dumps(url)}\n  branch: {branch}\n"
        (paths[0].parent.parent / "_config.yml").write_text(config, encoding="utf-8")
        return paths

    return configure


def test_main_address_tells_the_colab_cells_and_nothing_else_where_the_course_is(published, capsys):
    paths = published("https://github.com/someone/classic-cnns", "main")
    before = [nbformat.read(path, as_version=4) for path in paths]
    assert main(["address"]) == 0
    said = "its Colab cell fetches the course from https://github.com/someone/classic-cnns\n"
    assert capsys.readouterr().out == f"01_small: {said}02_small: {said}"
    line = 'COURSE, BRANCH = "https://github.com/someone/classic-cnns", "main"  # a comment'
    for path, notebook in zip(paths, before, strict=True):
        notebook.cells[0].source = f"import sys\n\n{line}\nprint(COURSE)"
        assert nbformat.read(path, as_version=4) == notebook

    published("", "next")  # and back
    assert main(["address"]) == 0
    assert 'COURSE, BRANCH = "", "next"  # a comment' in nbformat.read(paths[1], as_version=4).cells[0].source


def test_main_address_leaves_notebooks_alone_that_know_it(published, capsys):
    paths = published("")
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]
    assert main(["address"]) == 0
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths] == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("url", "branch", "problem"),
    [
        ("github.com/a/b", "main", "repository.url in _config.yml is 'github.com/a/b': write https"),
        ('https://github.com/a/b"; exit(', "main", "repository.url in _config.yml is "),
        ("https://github.com", "main", "repository.url in _config.yml is "),
        ("", "--upload-pack", "repository.branch in _config.yml is '--upload-pack': write the name"),
    ],
)
def test_main_address_refuses_what_is_none(published, capsys, url, branch, problem):
    paths = published(url, branch)
    before = [path.read_bytes() for path in paths]
    assert main(["address"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {problem}")
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    "cells",
    [["print(1)"], [colab_cell("print(1)")], [colab_cell(), colab_cell(name="second")]],
    ids=["none", "other", "two"],
)
def test_main_address_names_the_notebook_without_a_place_for_it(published, course, capsys, cells):
    published("")
    course("03_small", *cells)
    assert main(["address"]) == 2
    expected = "error: 03_small has no cell with the tag 'colab' and a line COURSE, BRANCH = …\n"
    assert capsys.readouterr().err == expected


def test_the_course_and_its_notebooks_name_the_same_address():
    """As `make book` leaves them: run it, and commit what it changed."""
    settings = yaml.safe_load((notebooks.runtime.PROJECT_ROOT / "_config.yml").read_text("utf-8"))[
        "repository"
    ]
    line = f'COURSE, BRANCH = "{settings["url"] or ""}", "{settings["branch"]}"'
    for name in stamps.names():
        assert [line in cell.source for cell in stamps.read(name).cells].count(True) == 1, name


# ---------------------------------------------------------------- other people's files and machines


def test_notebooks_that_a_reader_opens_beside_the_courses_own_are_left_alone(course, executes_nothing, book):
    course("01_small", "1")
    for name in ("Untitled", "Untitled1", "my_01_copy", "01", "notes 01"):
        course(name, "raise SystemError('not the course')")
    assert stamps.names() == ["01_small"]
    assert main(["run"]) == 0
    copied = notebooks.RUN_FOLDER / "source" / "notebooks"
    assert [path.stem for path in copied.iterdir()] == ["01_small"]


@pytest.fixture
def executes_nothing(monkeypatch):
    """The notebooks count as executed as they are."""

    def execute(name, save_to, threads=None):
        notebook = stamps.read(name)
        notebook.metadata["course"] = {"stamp": STAMP | {"wall_seconds": 1}}
        return notebook

    monkeypatch.setattr(notebooks, "execute", execute)


def test_a_second_run_at_once_is_refused_in_one_line(course, executes_nothing, book, capsys):
    course("01_small", "1")
    notebooks.RUN_FOLDER.parent.mkdir(parents=True)
    with FileLock(notebooks.RUN_FOLDER.with_suffix(".lock")):
        assert main(["run"]) == 2
    assert re.fullmatch(r"error: another run is at work in .*: wait .*\n", capsys.readouterr().err)
    assert book[0] == []
    assert main(["run"]) == 0


def test_the_earlier_book_stays_until_the_new_one_is_whole(
    course, executes_nothing, book, monkeypatch, capsys
):
    course("01_small", "1")
    earlier = notebooks.RUN_FOLDER / "_build" / "html" / "index.html"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("the earlier book")
    book[1][0] = False
    assert main(["run"]) == 1
    assert earlier.read_text() == "the earlier book"
    assert "The book from an earlier run is still there" in capsys.readouterr().out

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(notebooks, "execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main(["run"])
    assert earlier.read_text() == "the earlier book"
    book[1][0] = True
    assert main(["run"]) == 0
    assert not earlier.exists()  # the stand-in has built none
    assert (notebooks.RUN_FOLDER / "source").is_dir()


def test_a_folder_that_can_not_be_made_costs_one_line(course, book, monkeypatch, tmp_path, capsys):
    course("01_small", "1")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(notebooks, "RUN_FOLDER", tmp_path / "file" / "_build" / "run")
    assert main(["run"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(rf"error: can't write or read {tmp_path}/file/_build \(Not a directory\): .*\n", said)


def test_a_full_disk_costs_one_line(course, book, monkeypatch, capsys):
    course("01_small", "1")

    def full(*_):
        raise OSError(28, "No space left on device", "/small/disk/01_small.ipynb")

    monkeypatch.setattr(notebooks, "execute", full)
    assert main(["store"]) == 2
    assert capsys.readouterr().err == (
        "error: can't write or read /small/disk/01_small.ipynb (No space left on device): "
        "free some space on this disk\n"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1"])
def test_whatever_a_stream_can_show_is_shown(encoding):
    code = "from helpers import notebooks, runtime; print(notebooks.table([('a', '±'), ('·', '…−')])); "
    code += "print(runtime.describe()); import sys; print('→ ×', file=sys.stderr); print('end')"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).splitlines()[-1] == "end"
    assert b"budget" in done.stdout


# ---------------------------------------------------------------- make


needs_make = pytest.mark.skipif(os.name != "posix" or not shutil.which("make"), reason="make isn't installed")


def make(*arguments, **variables):
    """What `make` would do, as text."""
    command = ["make", "--dry-run", "--no-print-directory", "--old-file", ".venv/ready", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COURSE_")} | variables
    run = {"cwd": PROJECT, "capture_output": True, "text": True, "check": True}
    return subprocess.run(command, env=environment, **run).stdout


@needs_make
@pytest.mark.parametrize(
    ("target", "budget", "data"), [("run", "quick", "embedded"), ("full", "full", "real")]
)
def test_make_takes_the_dials_from_its_arguments_then_the_environment(target, budget, data):
    assert f"COURSE_BUDGET={budget} COURSE_DATA={data} " in make(target)
    environment = {"COURSE_BUDGET": "cpu", "COURSE_DATA": "auto"}
    assert "COURSE_BUDGET=cpu COURSE_DATA=auto " in make(target, **environment)
    both = make(target, "BUDGET=quick", "DATA=embedded", **environment)
    assert "COURSE_BUDGET=quick COURSE_DATA=embedded " in both


@needs_make
@pytest.mark.parametrize("target", ["run", "full"])
def test_what_make_started_ends_with_it(tmp_path, target):
    script = tmp_path / "runner"
    script.write_text(
        '#!/bin/sh\necho $$ > "$PID_FILE.new"\nmv "$PID_FILE.new" "$PID_FILE"\nexec sleep 600\n'
    )
    script.chmod(0o755)
    file = tmp_path / "pid"
    command = ["make", "--old-file", ".venv/ready", target, f"PY={script}"]
    environment = os.environ | {"PID_FILE": str(file)}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=subprocess.DEVNULL) as process:
        for _ in range(1200):
            if file.exists():
                break
            time.sleep(0.1)
        process.terminate()
    runner = int(file.read_text())
    for _ in range(600):  # a moment passes until the system has buried it
        with contextlib.suppress(ProcessLookupError):
            os.kill(runner, 0)
            time.sleep(0.1)
            continue
        return
    os.kill(runner, signal.SIGKILL)
    pytest.fail("it went on")


# ---------------------------------------------------------------- what interrupted trainings leave


def test_checkpoints_are_listed_and_removed_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks.runtime, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "CHECKPOINTS", tmp_path / "checkpoints")
    assert main(["checkpoints"]) == 0
    assert "holds no interrupted training" in capsys.readouterr().out
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "abc.pt"
    file.write_bytes(bytes(2_500_000))
    assert main(["checkpoints"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"checkpoints.abc\.pt +\d{4}-\d\d-\d\d \d\d:\d\d +2\.5\n", out)
    assert file.exists()
    assert main(["checkpoints", "--remove"]) == 0
    assert not file.exists()
