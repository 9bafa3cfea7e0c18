import base64
import inspect
import io
import traceback
from datetime import date

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from PIL import Image, ImageChops, ImageStat

from helpers import runtime, stamps

MODEL = '''class Double(torch.nn.Module):
    """Twice its input."""

    def forward(self, x):
        return 2 * x'''


def model_cell(source):
    return new_code_cell(source, metadata={"tags": ["model"]})


# ---------------------------------------------------------------- names and models


def test_names_are_in_course_order_and_may_be_chosen_with_or_without_suffix(course):
    for name in ("05_alexnet", "00_basics", "01_lenet5"):
        course(name, "1")
    assert stamps.names() == ["00_basics", "01_lenet5", "05_alexnet"]
    assert stamps.names(["05_alexnet", "00_basics.ipynb"]) == ["05_alexnet", "00_basics"]


def test_names_rejects_an_unknown_name_in_one_line_with_those_that_exist(course):
    course("01_lenet5", "1")
    course("05_alexnet", "1")
    with pytest.raises(
        ValueError, match=r"^no notebook is called 06_vgg, x: choose from 01_lenet5, 05_alexnet$"
    ):
        stamps.names(["06_vgg", "01_lenet5", "x"])


def test_load_executes_the_model_cells_in_order_and_nothing_else(course):
    course(
        "01_small",
        "raise RuntimeError('not a model cell')",
        model_cell("import torch"),
        new_markdown_cell("prose"),
        model_cell(MODEL),
        "print('training')",
        model_cell("double = Double()"),
    )
    module = stamps.load("01_small")
    assert module.double(torch.tensor(3)) == 6
    assert module.Double.__module__ == module.__name__ == "course_01_small"


def test_load_gives_a_module_whose_source_can_be_shown_and_traced(course):
    course("01_small", model_cell("import torch"), model_cell(MODEL), model_cell("def broken():\n    1 / 0"))
    module = stamps.load("01_small.ipynb")
    assert inspect.getsource(module.Double) == MODEL + "\n"
    with pytest.raises(ZeroDivisionError) as caught:
        module.broken()
    assert "    1 / 0\n" in "".join(traceback.format_exception(caught.value))


def test_load_sees_a_notebook_that_has_changed(course):
    course("01_small", model_cell("width = 1"))
    assert stamps.load("01_small").width == 1
    course("01_small", model_cell("width = 2"))
    assert stamps.load("01_small").width == 2


def test_load_rejects_a_notebook_without_model_cells(course):
    course("01_small", "import torch")
    with pytest.raises(ValueError, match="notebook 01_small has no cell tagged 'model'"):
        stamps.load("01_small")


def test_load_rejects_an_unknown_notebook(course):
    course("01_small", "1")
    with pytest.raises(ValueError, match="choose from 01_small"):
        stamps.load("02_small")


# ---------------------------------------------------------------- hashes


def notebook(*cells):
    return nbformat.v4.new_notebook(
        cells=[new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    )


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A helpers folder of its own: `modules(data="source", ...)` writes its modules."""
    monkeypatch.setattr(stamps, "__file__", str(tmp_path / "stamps.py"))

    def write(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")

    return write


def test_code_hash_follows_code_and_its_order_but_not_prose_outputs_or_counts():
    code = stamps.code_hash(notebook("a = 1", "b = 2"))
    assert stamps.code_hash(notebook("a = 1", "b = 3")) != code
    assert stamps.code_hash(notebook("b = 2", "a = 1")) != code
    executed = new_code_cell("b = 2", outputs=[new_output("stream", text="2")], execution_count=7)
    assert stamps.code_hash(notebook(new_markdown_cell("# prose"), "a = 1", executed)) == code


BEFORE = '''"""What the module is for."""

import math


def area(radius):  # of a circle
    """Square pixels."""
    # a reason
    unit = "px # not a comment"
    return f"{math.pi * radius**2:.1f} {unit}"


class Shape:
    """A shape."""
'''
SAME = '''"""Another purpose,

told at length."""
import math

def area(radius):
    """Square pixels.

    Source: Euclid.
    """
    unit = "px # not a comment"

    return f"{math.pi * radius**2:.1f} {unit}"  # rounded
class Shape:
    """Any shape."""
'''


def test_helpers_hash_ignores_docstrings_comments_and_empty_lines(modules):
    modules(shapes=BEFORE)
    before = stamps.helpers_hash(notebook("from helpers import shapes"))
    modules(shapes=SAME)
    assert stamps.helpers_hash(notebook("from helpers import shapes")) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("radius**2", "radius**3"),
        ("not a comment", "still none"),
        (":.1f", ":.2f"),
        ("import math", "import cmath as math"),
        ('    """A shape."""', '    """A shape."""\n    sides = 0'),
        ("    return f", "    if radius:\n        return f"),
    ],
)
def test_helpers_hash_follows_code(modules, old, new):
    modules(shapes=BEFORE)
    before = stamps.helpers_hash(notebook("from helpers import shapes"))
    assert BEFORE.count(old) == 1
    modules(shapes=BEFORE.replace(old, new))
    assert stamps.helpers_hash(notebook("from helpers import shapes")) != before


def test_helpers_hash_is_the_same_on_every_version_of_python(modules):
    modules(shapes=BEFORE)  # the number was made by Python 3.11
    assert stamps.helpers_hash(notebook("from helpers import shapes")) == "312b600d4dc27762"


@pytest.mark.parametrize(
    "line",
    [
        "from helpers import shapes",
        "from helpers import plots, shapes as s",
        "from helpers.shapes import area",
        "import helpers.shapes",
        "import helpers.shapes as s",
        "def late():\n    from helpers import shapes",
        "%matplotlib inline\nfrom helpers import shapes",
        "!ls\nfrom helpers.plots import curves",  # which imports shapes
    ],
)
def test_helpers_hash_finds_the_modules_that_a_notebook_imports(modules, line):
    modules(shapes="a = 1", plots="from helpers.shapes import a", data="b = 1")
    before = stamps.helpers_hash(notebook("import torch", line))
    modules(data="b = 2")
    assert stamps.helpers_hash(notebook("import torch", line)) == before
    modules(shapes="a = 2")
    assert stamps.helpers_hash(notebook("import torch", line)) != before


def test_helpers_hash_follows_modules_that_import_each_other(modules):
    modules(a="from helpers import b", b="from helpers import c", c="from helpers import a\nx = 1")
    before = stamps.helpers_hash(notebook("from helpers import a"))
    modules(c="from helpers import a\nx = 2")
    assert stamps.helpers_hash(notebook("from helpers import a")) != before


def test_helpers_hash_passes_over_cells_that_are_no_python(modules):
    modules(shapes="a = 1")
    assert stamps.helpers_hash(notebook("for", "from helpers import shapes")) == stamps.helpers_hash(
        notebook("from helpers import shapes")
    )


# ---------------------------------------------------------------- stamps


@pytest.fixture
def stamped(modules, monkeypatch):
    """A notebook that was run on the quick budget and stamped."""
    modules(shapes=BEFORE)
    monkeypatch.setenv("COURSE_BUDGET", "quick")
    monkeypatch.setenv("COURSE_DATA", "embedded")
    made = notebook("from helpers import shapes", new_markdown_cell("prose"), "shapes.area(1)")
    stamps.stamp(made, 61.7)
    return made


def test_stamp_says_where_the_outputs_come_from(stamped, tmp_path):
    nbformat.write(stamped, tmp_path / "as_a_file.ipynb")
    kept = nbformat.read(tmp_path / "as_a_file.ipynb", as_version=4).metadata.course.stamp
    assert kept.budget == "quick"
    assert kept.data == "embedded"
    assert kept.device == runtime.hardware()
    assert torch.__version__.startswith(kept.torch)
    assert "+" not in kept.torch + kept.torchvision
    assert kept.date == date.today().isoformat()
    assert kept.wall_seconds == 62
    assert kept.code_hash == stamps.code_hash(stamped)
    assert kept.helpers_hash == stamps.helpers_hash(stamped)


def test_stamp_takes_the_name_of_the_data_from_what_the_notebook_recorded(stamped):
    stamped.cells[2].outputs = [recorded("data-set", "MNIST")]
    stamps.stamp(stamped, 1)
    assert stamped.metadata.course.stamp.data == "MNIST"


def test_stale_is_none_for_code_that_has_not_changed(stamped, modules):
    assert stamps.stale(stamped) is None
    stamped.cells[1].source = "other prose"
    modules(shapes=SAME)
    assert stamps.stale(stamped) is None


def test_stale_names_a_missing_stamp():
    assert stamps.stale(notebook("1")) == "it has no stamp"


def test_stale_names_changed_cells(stamped):
    stamped.cells[2].source = "shapes.area(2)"
    assert stamps.stale(stamped) == "its code cells have changed since its outputs were stored"


def test_stale_names_changed_helpers(stamped, modules):
    modules(shapes=BEFORE.replace("**2", "**3"))
    assert stamps.stale(stamped) == "helpers/ has changed since its outputs were stored"


# ---------------------------------------------------------------- records


def recorded(key, text):
    prefix = "application/papermill.record/"
    return new_output(
        "display_data",
        data={f"{prefix}text/plain": repr(text)},
        metadata={"scrapbook": {"name": key, "mime_prefix": prefix}},
    )


def test_records_reads_the_results_of_all_cells_and_nothing_else():
    cells = [
        new_markdown_cell("prose"),
        new_code_cell("1", outputs=[recorded("a", "61,706"), new_output("stream", text="training\n")]),
        new_code_cell("2", outputs=[new_output("display_data", data={"text/plain": "'x'"})]),
        new_code_cell("3", outputs=[recorded("b", "it's 1 %")]),
    ]
    assert stamps.records(notebook(*cells)) == {"a": "61,706", "b": "it's 1 %"}


# ---------------------------------------------------------------- pictures


def png_output(picture):
    """The output of a cell that shows a picture."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})


def shown(notebook, number):
    """The bytes of a cell's picture."""
    return base64.b64decode(notebook.cells[number].outputs[0]["data"]["image/png"])


def test_shrink_pictures_halves_a_large_one_that_stays_the_same_to_the_eye():
    ramp = Image.linear_gradient("L").resize((400, 300))
    grain = [Image.effect_noise((400, 300), 12) for _ in range(3)]
    photograph = Image.merge("RGB", [ImageChops.blend(ramp, noise, 0.3) for noise in grain])
    outputs = [[png_output(photograph)], [png_output(photograph.crop((0, 0, 20, 20)))], []]
    cells = [new_code_cell("plt.show()", outputs=each) for each in outputs]
    notebook = nbformat.v4.new_notebook(cells=[*cells, new_markdown_cell("text")])
    large, small = shown(notebook, 0), shown(notebook, 1)
    stamps.shrink_pictures(notebook, above=50_000)
    after = Image.open(io.BytesIO(shown(notebook, 0))).convert("RGB")
    assert len(large) > 50_000
    assert len(shown(notebook, 0)) < len(large) / 2
    assert max(ImageStat.Stat(ImageChops.difference(photograph, after)).mean) < 8, "of 255"
    assert shown(notebook, 1) == small, "small pictures stay as they are"
    nbformat.validate(notebook)
