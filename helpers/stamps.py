"""Notebooks as data: their names, their model cells, what they recorded, and the stamp on their outputs.

A stamp says on which budget, data, machine and day the stored outputs were made, and holds a hash of the code
that made them: a test fails when the code has moved on.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import linecache
import platform
import re
import sys
import tokenize
from datetime import date
from importlib.metadata import version  # importing torchvision itself takes seconds
from pathlib import Path
from types import ModuleType

import nbformat
import torch
from nbformat import NotebookNode
from PIL import Image

from helpers import runtime
from helpers.imports import helpers_used

NOTEBOOKS = runtime.PROJECT_ROOT / "notebooks"
OURS = re.compile(r"\d\d[a-z]*_\w+")  # a reader's own notebook, such as Untitled, is none of the course's
COLAB = "colab"  # tag of the first code cell


def names(wanted: list[str] | None = None) -> list[str]:
    """The notebooks' names in course order, all of them or the wanted ones.

    Raises:
        ValueError: a wanted name does not exist; the message lists those that do.
    """
    known = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb") if OURS.fullmatch(path.stem))
    unknown = [name for name in wanted or [] if name.removesuffix(".ipynb") not in known]
    if unknown:
        raise ValueError(f"no notebook is called {', '.join(unknown)}: choose from {', '.join(known)}")
    return [name.removesuffix(".ipynb") for name in wanted or known]


def read(name: str, folder: Path | None = None) -> NotebookNode:
    """Read a notebook from `notebooks/` or another folder."""
    return nbformat.read((folder or NOTEBOOKS) / f"{name}.ipynb", as_version=4)


def load(name: str) -> ModuleType:
    """The model of a notebook as a module: its cells tagged `model`, executed in order.

    Args:
        name: the notebook's name, such as `01_lenet5`.

    Raises:
        ValueError: no such notebook, or it has no cell tagged `model`.
    """
    (name,) = names([name])
    cells = [cell for cell in read(name).cells if "model" in cell.metadata.get("tags", [])]
    if not cells:
        raise ValueError(f"notebook {name} has no cell tagged 'model'")
    source = "\n\n".join(cell.source for cell in cells)
    module = ModuleType(f"course_{name}", f"The model cells of notebook {name}.")
    filename = f"<model cells of {name}>"
    module.__file__ = filename  # this and the next line let inspect.getsource and tracebacks show the cells
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    sys.modules[module.__name__] = module
    exec(compile(source, filename, "exec"), module.__dict__)
    return module


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _own_code(notebook: NotebookNode) -> list[NotebookNode]:
    """A notebook's code cells but for the one that does nothing outside Colab."""
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [cell for cell in code if COLAB not in cell.metadata.get("tags", [])]


def code_hash(notebook: NotebookNode) -> str:
    """Hash of a notebook's code cells: prose may change without making the outputs stale."""
    return _hash("\n\n".join(cell.source for cell in _own_code(notebook)))


def _code_alone(source: str) -> str:
    """Python source without docstrings, comments and empty lines.

    Works on the text, because the printed form of a syntax tree differs between Python versions.
    """
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno
            lines[first:last] = [""] * (last - first)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def helpers_hash(notebook: NotebookNode) -> str:
    """Hash of the helpers modules that a notebook imports, directly or through one another.

    Comments and docstrings do not count.
    """
    used = helpers_used((cell.source for cell in _own_code(notebook)), Path(__file__).parent)
    return _hash("\n".join(f"{module} {_code_alone(used[module])}" for module in sorted(used)))


def stamp(notebook: NotebookNode, seconds: float) -> None:
    """Write into a notebook's metadata where its outputs come from.

    Args:
        notebook: just executed here.
        seconds: how long that took.
    """
    notebook.metadata["course"] = {
        "stamp": {
            "budget": runtime.budget_name(),
            "data": records(notebook).get("data-set", runtime.data_source()),
            "device": runtime.hardware(),
            "bf16": runtime.has_bf16(),
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "torchvision": version("torchvision").split("+")[0],
            "date": date.today().isoformat(),
            "wall_seconds": round(seconds),
            "code_hash": code_hash(notebook),
            "helpers_hash": helpers_hash(notebook),
        }
    }


def shrink_pictures(notebook: NotebookNode, above: int = 20_000) -> None:
    """Store large PNG outputs with 256 colours each: photographs take a third of the space and look the same.

    Args:
        notebook: its outputs are changed in place.
        above: size in bytes; smaller pictures stay as they are.
    """
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        stored = base64.b64decode(output.get("data", {}).get("image/png", ""))
        if len(stored) > above:
            smaller = io.BytesIO()
            picture = Image.open(io.BytesIO(stored)).convert("RGB").quantize(256)
            picture.save(smaller, "PNG", optimize=True)
            output["data"]["image/png"] = base64.b64encode(smaller.getvalue()).decode()


def stale(notebook: NotebookNode) -> str | None:
    """Why a notebook's stored outputs do not belong to today's code, or None if they do."""
    kept = notebook.metadata.get("course", {}).get("stamp")
    if kept is None:
        return "it has no stamp"
    if kept["code_hash"] != code_hash(notebook):
        return "its code cells have changed since its outputs were stored"
    if kept["helpers_hash"] != helpers_hash(notebook):
        return "helpers/ has changed since its outputs were stored"
    return None


def records(notebook: NotebookNode) -> dict[str, str]:
    """What a notebook's outputs recorded with `runtime.record`: key → text."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            glued = output.get("metadata", {}).get("scrapbook")
            if glued:
                text = output["data"][f"{glued['mime_prefix']}text/plain"]
                found[glued["name"]] = ast.literal_eval(text)
    return found
