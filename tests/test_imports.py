"""What notebooks import, and the cell that fetches the course and what Colab lacks."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import imports, stamps

PROJECT = Path(imports.__file__).parent.parent


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch.nn as nn, sys", {"torch.nn", "sys"}),
        ("from helpers import data, plots as p", {"helpers", "helpers.data", "helpers.plots"}),
        ("def late():\n    from helpers.shapes import area", {"helpers.shapes", "helpers.shapes.area"}),
        ("%matplotlib inline\n!pip list\nimport numpy", {"numpy"}),
        ("from . import near\nfrom .near import it", set()),
        ("import torch\nfor", set()),
        ("# import numpy\ntext = 'import torch'", set()),
    ],
)
def test_imported_finds_the_names_of_modules(source, names):
    assert imports.imported(source) - {"IPython"} == names


def test_helpers_used_follows_imports_once_each(tmp_path):
    sources = {
        "a": "from helpers import b\nimport helpers.c",
        "b": "from helpers.a import x",
        "c": "",
        "d": "",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    assert imports.helpers_used(["from helpers import a, unknown"], tmp_path) == {
        name: sources[name] for name in "abc"
    }


def test_needed_counts_what_helpers_import_and_leaves_python_and_prose_out(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "data.py").write_text("import json\nfrom sklearn import datasets", "utf-8")
    (tmp_path / "helpers" / "other.py").write_text("import keras", "utf-8")
    cells = [new_markdown_cell("import pandas"), new_code_cell("import torch\nfrom helpers import data")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    assert imports.needed(tmp_path / "a.ipynb") == {"torch", "sklearn"}


def test_the_notebooks_need_no_package_but_these():
    needs = {name: imports.needed(stamps.NOTEBOOKS / f"{name}.ipynb") for name in stamps.names()}
    everywhere = set.intersection(*needs.values())
    assert everywhere == {
        "IPython",
        "PIL",
        "filelock",
        "matplotlib",
        "numpy",
        "packaging",
        "sklearn",
        "torch",
    } | {"torchvision"}
    assert {name: needs[name] - everywhere for name in needs if needs[name] != everywhere} == {
        "05_alexnet": {"optuna", "tensorboard"},
        "06_vgg16": {"captum"},
    }


# ---------------------------------------------------------------- as in Colab


def colab_cell(name):
    """The source of a notebook's Colab cell."""
    (cell,) = (cell for cell in stamps.read(name).cells if stamps.COLAB in cell.metadata.get("tags", []))
    return cell.source


@pytest.mark.parametrize("name", stamps.names())
def test_the_first_code_cell_is_the_one_for_colab_and_hidden_in_the_book(name):
    first = next(cell for cell in stamps.read(name).cells if cell.cell_type == "code")
    assert first.metadata.tags == [stamps.COLAB, "remove-cell"]
    assert first.outputs == []
    assert first.source == colab_cell("05_alexnet").replace("05_alexnet", name)


def wheel(folder, requires=""):
    """A package `lonely` with one empty module, written as a wheel without any builder."""
    metadata = "Metadata-Version: 2.1\nName: lonely\nVersion: 1.5\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    inner = {
        "lonely.py": "",
        "lonely-1.5.dist-info/METADATA": metadata,
        "lonely-1.5.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / "lonely-1.5-py3-none-any.whl", "w") as archive:
        listed = []
        for name, text in inner.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            listed.append(f"{name},sha256={digest},{len(text)}\n")
            archive.writestr(name, text)
        archive.writestr("lonely-1.5.dist-info/RECORD", "".join(listed) + "lonely-1.5.dist-info/RECORD,,\n")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python that, as in Colab, has torch and much else already, and where more can be installed."""
    folder = tmp_path_factory.mktemp("colab") / "python"
    venv.create(folder, with_pip=True, symlinks=True)
    binary = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    paths = subprocess.run(
        [binary, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    Path(paths.stdout.strip(), "present.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return binary


class Colab:
    """A machine with a lone notebook whose course, in a repository elsewhere, wants a package `lonely`."""

    def __init__(self, folder, python, monkeypatch):
        self.folder, self.python, self.repository = folder, python, folder / "repository"
        (folder / "wheels").mkdir()
        (folder / "content").mkdir()
        (self.repository / "notebooks").mkdir(parents=True)
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / "helpers", self.repository / "helpers", ignore=leave_out)
        shutil.copy(PROJECT / "pyproject.toml", self.repository)
        cell = new_code_cell("import lonely, torch\nfrom helpers import imports")
        nbformat.write(new_notebook(cells=[cell]), self.repository / "notebooks" / "05_alexnet.ipynb")
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.invalid", "-C", self.repository]
        for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "course"]):
            subprocess.run([*git, *command], check=True)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder / "wheels"))
        monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(self, *, inside=True, address=None, then=""):
        """Run the Colab cell in a new process, and a line after it; the finished process."""
        address = self.repository.as_uri() if address is None else address
        cell, replaced = re.subn(
            r'COURSE, BRANCH = "[^"]*"', f'COURSE, BRANCH = "{address}"', colab_cell("05_alexnet")
        )
        assert replaced == 1
        loaded = "import sys; sys.modules['google.colab'] = sys\n" if inside else ""
        source = f"{loaded}{cell}\n{then}"
        run = {"cwd": self.folder / "content", "capture_output": True, "text": True}
        return subprocess.run([self.python, "-c", source], **run)


@pytest.fixture
def colab(tmp_path, python, monkeypatch):
    yield Colab(tmp_path, python, monkeypatch)
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "lonely"], capture_output=True, check=True)


def test_in_colab_the_cell_fetches_the_course_and_installs_what_is_missing(colab):
    wheel(colab.folder / "wheels")
    report = "import json, lonely, helpers; print(json.dumps([os.getcwd(), helpers.__file__]))"
    first = colab.run(then=report)
    assert first.stderr == ""
    said, found = first.stdout.splitlines()
    tested = f"torch stays at {version('torch')}; torch>=2.11,<2.16 was tested."
    assert said == f"Installed: lonely 1.5. {tested}"
    course = colab.folder / "content" / "course"
    assert json.loads(found)[0] == str(course / "notebooks")
    assert (course / "notebooks" / json.loads(found)[1]).resolve() == course / "helpers" / "__init__.py"

    restarted = colab.run(then=report)  # the folder and the package are there; the process is new
    assert restarted.stderr == ""
    assert restarted.stdout.splitlines() == [f"Installed: nothing. {tested}", found]


def test_in_colab_the_cell_never_changes_torch(colab):
    wheel(colab.folder / "wheels", requires="torch==0.1")
    refused = colab.run()
    assert "RuntimeError: pip could not add lonely to what is here, and left that unchanged" in refused.stderr
    assert "lonely 1.5 depends on torch==0.1" in refused.stderr
    after = subprocess.run(
        [colab.python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    present = {each["name"]: each["version"] for each in json.loads(after.stdout)}
    assert present["torch"] == version("torch")
    assert "lonely" not in present


def test_in_colab_the_cell_says_so_if_nobody_told_it_where_the_course_is(colab):
    failed = colab.run(address="")
    assert "ModuleNotFoundError: helpers/ is missing: fetch the whole course" in failed.stderr
    assert list((colab.folder / "content").iterdir()) == []


def test_elsewhere_a_lone_notebook_names_the_course_and_fetches_nothing(colab):
    failed = colab.run(inside=False)
    message = f"ModuleNotFoundError: helpers/ is missing: fetch the whole course {colab.repository.as_uri()}"
    assert message in failed.stderr
    assert list((colab.folder / "content").iterdir()) == []


def test_elsewhere_the_cell_of_a_whole_course_does_nothing(colab, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(colab.repository))
    done = colab.run(inside=False, then="print(os.getcwd())")
    assert (done.stdout, done.stderr) == (f"{colab.folder / 'content'}\n", "")
    assert list((colab.folder / "content").iterdir()) == []
