"""What every stored notebook must keep to. Reads the files; executes nothing but the model cells."""

import ast
import inspect
import re
import sys
from statistics import median

import nbformat
import pytest
from torch import nn

from helpers import runtime, stamps
from helpers.training import count_parameters

NAMES = stamps.names()
SECTIONS = [
    "1 Claim",
    "2 Setup",
    "3 Data",
    "4 Shapes by hand",
    "5 Build",
    "6 Train",
    "7 Look inside",
    "8 What the article got wrong",
    "9 What changing one thing does",
    "10 Verdict",
    "11 Exercises",
]
MACHINE_PATH = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|work|Users|opt|mnt)/|\b[A-Z]:\\\w|site-packages|ipykernel_\d+"
)
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}
STAMP = {"budget", "data", "device", "python", "torch", "torchvision", "date", "wall_seconds"} | {
    "code_hash",
    "helpers_hash",
}
EXERCISE = re.compile(r"^`{3,}\{exercise(?:-start)?\}.*\n(?::(?!label).*\n)*:label: (\S+)", re.MULTILINE)
SOLUTION_START = re.compile(r"^`{3,}\{solution-start\} (\S+)\n((?::.*\n)*)", re.MULTILINE)
SOLUTION_BODY = re.compile(r"^`{3,}\{solution-(?:start|end)\}.*\n(?::.*\n)*(?!:|`{3})", re.MULTILINE)
SOLUTION_END = re.compile(r"^`{3,}\{solution-end\}", re.MULTILINE)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def notebook(name):
    return stamps.read(name)


@pytest.fixture
def code(notebook):
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def prose(notebook):
    """The text of all markdown cells, in order."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def tags(cell):
    return set(cell.metadata.get("tags", []))


def outputs(cells, kind):
    return [(cell, output) for cell in cells for output in cell.outputs if output.output_type == kind]


def data_of(cells):
    """Pairs of cell and mime bundle, for all outputs that have one."""
    return [(cell, output.data) for cell in cells for output in cell.outputs if "data" in output]


def texts(value):
    """All texts in nested dicts and lists, without those of pictures."""
    if isinstance(value, dict):
        return [text for key, inner in value.items() if key != "image/png" for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


def test_the_course_has_notebooks():
    assert "01_lenet5" in NAMES


def test_notebook_is_valid_and_runs_on_any_machines_python_kernel(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_notebook_was_executed_from_top_to_bottom(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_notebook_fails_only_where_it_says_so(code):
    failing = [cell.source for cell, _ in outputs(code, "error")]
    assert failing == [cell.source for cell in code if "raises-exception" in tags(cell)]


def test_notebook_wrote_nothing_to_stderr(code):
    assert [output.text for _, output in outputs(code, "stream") if output.name == "stderr"] == []


def test_notebook_names_no_path_of_the_machine_that_ran_it(code, notebook):
    for cell in code:
        for text in texts(cell.outputs):
            assert not MACHINE_PATH.search(text), cell.source
    assert not [text for text in texts(notebook.metadata) if MACHINE_PATH.search(text)]


def test_notebook_shows_no_memory_address_where_nbval_compares(code):
    for cell in code:
        if not tags(cell) & NOT_COMPARED:
            assert not [text for text in texts(cell.outputs) if re.search(r"\b0x[0-9a-f]{6,}", text)]


def test_notebook_stores_pngs_and_neither_widgets_nor_svg(notebook, code):
    assert "widgets" not in notebook.metadata
    for cell, data in data_of(code):
        assert not [mime for mime in data if "widget" in mime or "svg" in mime or "jpeg" in mime], cell.source
        assert "<svg" not in str(data.get("text/html", "")), cell.source


def test_notebook_describes_every_figure(code):
    shown = [cell for cell, data in data_of(code) if "image/png" in data]
    assert len(shown) >= 3
    assert len({id(cell) for cell in shown}) == len(shown), "one figure a cell: it has one caption"
    described = [cell.metadata.get("mystnb", {}) for cell in shown]
    for cell, words in zip(shown, described, strict=True):
        assert len(words.get("image", {}).get("alt", "")) >= 20, cell.source
        assert len(words.get("figure", {}).get("caption", "")) >= 10, cell.source
        assert words["image"]["alt"] != words["figure"]["caption"], cell.source
    names = [words["figure"].get("name", "") for words in described]
    assert all(re.fullmatch(r"fig-[a-z0-9-]+", each) for each in names), names
    assert len(set(names)) == len(names)


def test_notebook_is_small(name):
    assert (stamps.NOTEBOOKS / f"{name}.ipynb").stat().st_size <= 1.5e6


def test_notebook_has_the_eleven_sections_in_order(notebook, prose):
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# \S.*\((\d{4}|undated)\)$", notebook.cells[0].source, re.MULTILINE)
    assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1
    assert re.findall(r"^## (.+?)\s*$", prose, re.MULTILINE) == SECTIONS


def test_notebook_code_cells_are_short_and_explained(notebook, code):
    lengths = [len(cell.source.splitlines()) for cell in code]
    assert min(lengths) >= 1
    assert max(lengths) <= 40
    assert median(lengths) <= 8
    assert len(notebook.cells) - len(code) > len(code)


def test_notebook_code_is_plain_python(code):
    for cell in code:
        ast.parse(cell.source)


def test_notebook_has_exercises_with_solutions_that_run_and_check_themselves(notebook, prose):
    asked = EXERCISE.findall(prose)
    assert len(asked) == len(set(asked)) >= 5
    solved, checks, solving = [], [], False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # Compared by nbval, and there is something to compare: an output, or an assertion.
            if solving and not tags(cell) & NOT_COMPARED:
                checks[-1] += bool(cell.outputs or re.search(r"\bassert\b", cell.source))
            continue
        if SOLUTION_END.search(cell.source):
            assert solving, cell.source
            solving = False
        # sphinx-exercise drops what stands inside these fences
        assert not SOLUTION_BODY.search(cell.source), cell.source
        for label, options in SOLUTION_START.findall(cell.source):
            assert not solving, f"the solution before {label} has no end"
            assert ":class: dropdown" in options, label
            solved.append(label)
            checks.append(0)
            solving = True
    assert not solving
    assert sorted(solved) == sorted(asked)
    assert all(checks), [label for label, count in zip(solved, checks, strict=True) if not count]


def test_notebook_outputs_belong_to_todays_code(notebook):
    assert stamps.stale(notebook) is None


def test_notebook_stamp_is_complete_and_from_a_real_run(notebook):
    stamp = notebook.metadata.course.stamp
    assert set(stamp) >= STAMP
    assert all(stamp[key] for key in STAMP)
    assert runtime.BUDGETS.index(stamp.budget) >= runtime.BUDGETS.index("cpu")
    assert not stamp.data.startswith("embedded")
    assert stamp.data not in runtime.DATA_SOURCES, "the notebook must record which set it used, as data-set"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", stamp.date)


def test_notebook_is_compared_strictly_in_at_least_half_of_its_code_cells(code):
    compared = [cell for cell in code if not tags(cell) & NOT_COMPARED]
    assert 2 * len(compared) >= len(code)
    assert not [cell.source for cell in code if "NBVAL" in cell.source], "tags, not comments"


def test_notebook_asserts_bands_in_cells_that_nbval_compares(code):
    checks = [cell for cell in code if re.search(r"\bexpect\(", cell.source)]
    assert checks
    assert [cell.source for cell in checks if tags(cell) & NOT_COMPARED] == []


def test_notebook_records_each_result_once_in_cells_that_nbval_does_not_compare(code):
    recorded = [
        (cell, output.metadata.scrapbook.name)
        for cell in code
        for output in cell.outputs
        if "scrapbook" in output.get("metadata", {})
    ]
    keys = [key for _, key in recorded]
    assert len(set(keys)) == len(keys)
    assert {"headline-article", "headline-here", "data-set"} <= set(keys)
    assert all(tags(cell) & NOT_COMPARED for cell, _ in recorded)


def test_notebook_pastes_only_results_that_it_recorded(notebook, prose):
    pasted = re.findall(r"\{glue:\w*\}`([^`]+)`", prose)
    assert pasted
    assert set(pasted) <= set(stamps.records(notebook))


def test_notebook_model_cells_need_nothing_but_torch(code):
    imported = set()
    for node in ast.walk(ast.parse("\n".join(cell.source for cell in code if "model" in tags(cell)))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"torch"}


def test_notebook_models_load_and_can_be_built(name):
    module = stamps.load(name)
    models = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]
    required = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    buildable = [
        model
        for model in models
        if required not in [(p.kind, p.default) for p in inspect.signature(model).parameters.values()]
    ]
    assert any(count_parameters(model()) > 0 for model in buildable), models
