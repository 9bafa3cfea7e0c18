"""What a notebook imports, and how Colab gets the part of it that it lacks."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
OTHERWISE_CALLED = {"PIL": "pillow", "sklearn": "scikit-learn"}  # import name → name in a package index


def imported(source: str) -> set[str]:
    """Dotted names that a piece of Python imports, late imports included: `helpers.data`, `torch.nn`.

    Lines meant for IPython (`%`, `!`) count as such. Code that is no Python imports nothing.
    """
    found = set()
    with contextlib.suppress(SyntaxError):
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(source))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def helpers_used(cells: Iterable[str], folder: Path) -> dict[str, str]:
    """The helpers modules that pieces of code import, directly or through one another: name → source."""
    known = {path.stem for path in folder.glob("*.py")}
    waiting, seen = list(cells), {}
    while waiting:
        names = (name.split(".") for name in imported(waiting.pop()))
        for module in {name[1] for name in names if name[0] == "helpers" and len(name) > 1} & known:
            if module not in seen:
                seen[module] = (folder / f"{module}.py").read_text(encoding="utf-8")
                waiting.append(seen[module])
    return seen


def needed(notebook: Path) -> set[str]:
    """The packages, by import name, that a notebook and its helpers take from outside Python itself."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    code += helpers_used(code, ROOT / "helpers").values()
    found = {name.split(".")[0] for source in code for name in imported(source)}
    return found - sys.stdlib_module_names - {"helpers"}


def install(notebook: str) -> None:
    """Install what a notebook imports and this Python lacks; whatever is here keeps its version.

    Meant for Colab: it comes with its own torch, which must stay, since it fits the graphics card's driver.
    So pip is told the version of every package that is present, and to change none of them.

    Args:
        notebook: its name, such as `05_alexnet`.

    Raises:
        RuntimeError: pip found no version that goes with what is here, which is left unchanged.
    """
    missing = sorted(
        name for name in needed(ROOT / "notebooks" / f"{notebook}.ipynb") if find_spec(name) is None
    )
    packages = [OTHERWISE_CALLED.get(name, name) for name in missing]
    if packages:
        command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder, "kept.txt")
            kept.write_text("\n".join(_present()), encoding="utf-8")
            done = subprocess.run(
                [*command, "--constraint", str(kept), *packages], capture_output=True, text=True
            )
        if done.returncode:
            raise RuntimeError(
                f"pip could not add {', '.join(packages)} to what is here, and left that unchanged. "
                "Try again, or choose another version of the runtime in Colab's menu. "
                f"It said:\n{done.stdout[-2000:]}{done.stderr}"
            )
        importlib.invalidate_caches()
    added = ", ".join(f"{package} {version(package)}" for package in packages) or "nothing"
    print(f"Installed: {added}. torch stays at {version('torch')}; {_tested()} was tested.")


def _present() -> list[str]:
    """Every installed package with its version, as pip writes them; of two the one that imports find."""
    found = {}
    for each in distributions():
        with contextlib.suppress(InvalidVersion, TypeError, KeyError):  # half-removed, or the system's own
            Version(each.version)
            found.setdefault(canonicalize_name(each.metadata["Name"]), each.version)
    return [f"{name}=={installed}" for name, installed in found.items()]


def _tested() -> str:
    """The versions of torch that the course was tested with, as pyproject.toml gives them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(each for each in project["dependencies"] if each.startswith("torch>"))
