"""Run the course's notebooks and publish what came out.

    python -m helpers.notebooks run [NAME ...]       execute copies, build the book from them, print a table
    python -m helpers.notebooks store [NAME ...]     execute in place: the outputs that the book shows
    python -m helpers.notebooks restamp --because "why no result can differ" [NAME ...]
    python -m helpers.notebooks checkpoints          list what interrupted trainings have left (--remove)
    python -m helpers.notebooks address              tell the Colab cells where _config.yml says the course is

The budget and the data come from COURSE_BUDGET and COURSE_DATA. `load` gives the model of a notebook.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from pathlib import Path
from typing import Any

import nbformat
import yaml
from filelock import FileLock, Timeout
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from helpers import runtime
from helpers.progress import duration
from helpers.stamps import (
    COLAB,
    NOTEBOOKS,
    code_hash,
    helpers_hash,
    load,
    names,
    read,
    records,
    shrink_pictures,
    stale,
    stamp,
)

__all__ = ["address", "execute", "load", "restamp", "run", "store"]

RUN_FOLDER = runtime.PROJECT_ROOT / "_build" / "run"
CHECKPOINTS = runtime.PROJECT_ROOT / "checkpoints"
STAMPING = threading.Lock()  # Python 3.11 may fail to parse in two threads at once: python/cpython#106905


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised or ended its kernel; the message holds the cell and the error."""


def execute(name: str, save_to: Path, threads: int | None = None) -> NotebookNode:
    """Run a notebook in its own kernel, with one progress line, and save the result with its stamp.

    Args:
        name: the notebook's name.
        save_to: the file to write; on failure nothing is written.
        threads: processor cores that it may use; all by default.

    Raises:
        NotebookFailed: a cell raised, or the kernel died, as it does when memory runs out.
    """
    notebook = read(name)
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    started, current = time.perf_counter(), 0

    def show(cell_index: int, **_: Any) -> None:
        nonlocal current
        current, done = cell_index, sum(i < cell_index for i in code)
        _line(f"{name}: cell {done + 1} of {len(code)}, {duration(time.perf_counter() - started)}")

    client = NotebookClient(
        notebook,
        timeout=None,
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        on_cell_execute=show,
        shutdown_kernel="immediate",  # torch takes two to three seconds to leave by itself
        extra_arguments=["--log-level=ERROR"],  # of the kernel: no warning about its own connection
    )
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    try:
        client.execute(env=os.environ | limit)
    except (CellExecutionError, DeadKernelError) as error:
        what = str(error) if isinstance(error, CellExecutionError) else _died_in(notebook.cells[current])
        raise NotebookFailed(
            f"{name} failed after {duration(time.perf_counter() - started)}\n{_plain(what)}"
        ) from None
    seconds = time.perf_counter() - started
    shrink_pictures(notebook)
    with STAMPING:
        stamp(notebook, seconds)
    _line(f"{name}: {len(code)} cells in {duration(seconds)}", last=True)
    save_to.parent.mkdir(parents=True, exist_ok=True)
    unfinished = save_to.with_suffix(".unfinished")
    nbformat.write(notebook, unfinished)
    os.replace(unfinished, save_to)
    return notebook


def _died_in(cell: NotebookNode) -> str:
    """What to say about a cell that ended its kernel."""
    return f"the kernel died, perhaps for want of memory, in this cell:\n{cell.source}"


def _plain(text: str) -> str:
    """The text without the colours that IPython gives to tracebacks."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _line(text: str, last: bool = False) -> None:
    """A progress line: rewritten in a terminal; elsewhere only its last state is printed."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="\n" if last else "", flush=True)
    elif last:
        print(text, flush=True)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text, the first one the header, as a table with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _execute_all(selected: list[str], folder: Path) -> dict[str, NotebookNode | NotebookFailed]:
    """Run notebooks; what came of each, in their order.

    On the quick budget two run side by side, each on half the cores: most of their time goes into starting
    up and drawing, which use one core. Longer runs are measured, so they have the machine to themselves.
    """
    cores = os.cpu_count() or 1
    at_once = 2 if runtime.budget_name() == "quick" and cores > 1 and len(selected) > 1 else 1

    def outcome(name: str) -> NotebookNode | NotebookFailed:
        try:
            return execute(name, folder / f"{name}.ipynb", None if at_once == 1 else cores // at_once)
        except NotebookFailed as failure:
            return failure

    pool = ThreadPoolExecutor(at_once)
    try:
        return dict(zip(selected, pool.map(outcome, selected), strict=True))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def run(wanted: list[str]) -> int:
    """Execute copies of notebooks, build the book from them and print one table.

    Returns:
        The exit code: 0 if every notebook ran and the book was built.
    """
    selected = names(wanted)
    with _alone():
        return _run(selected)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep a second run out of the folder where this one works.

    Raises:
        ValueError: another run is at work there.
    """
    RUN_FOLDER.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(RUN_FOLDER.with_suffix(".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another run is at work in {RUN_FOLDER}: wait for its end, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def _run(selected: list[str]) -> int:
    """Do what `run` promises in a folder of its own, which takes the old one's place when it is whole."""
    making = RUN_FOLDER.with_suffix(".unfinished")
    source = making / "source"
    shutil.rmtree(making, ignore_errors=True)
    shutil.copytree(runtime.PROJECT_ROOT / "book", source / "book")
    (source / "notebooks").mkdir()
    for name in names():
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", source / "notebooks")
    shutil.copy(runtime.PROJECT_ROOT / "_config.yml", source)
    print(runtime.describe(), flush=True)
    rows, failures = [("notebook", "article", "stored run", "this run", "time")], []
    for name, outcome in _execute_all(selected, source / "notebooks").items():
        stored = records(read(name))
        if isinstance(outcome, NotebookFailed):
            failures.append(str(outcome))
            rows.append(
                (name, stored.get("headline-article", "–"), stored.get("headline-here", "–"), "FAILED", "–")
            )
            continue
        fresh, seconds = records(outcome), outcome.metadata["course"]["stamp"]["wall_seconds"]
        rows.append(
            (
                name,
                fresh.get("headline-article", "–"),
                stored.get("headline-here", "–"),
                fresh.get("headline-here", "–"),
                duration(seconds),
            )
        )
    built = _build_book(source)
    if built:
        shutil.rmtree(RUN_FOLDER, ignore_errors=True)
        os.replace(making, RUN_FOLDER)
    print(f"\n{table(rows)}\n")
    for failure in failures:
        print(failure, file=sys.stderr)
    index = RUN_FOLDER / "_build" / "html" / "index.html"
    print(f"The book from this run: {index}" if built else "The book could not be built: see above.")
    if not built and index.exists():
        print(f"The book from an earlier run is still there: {index}")
    return int(bool(failures) or not built)


def _build_book(source: Path) -> bool:
    """Build the book of a run; on failure print what the builder said."""
    print("book: building", flush=True)
    builder = "from jupyter_book.cli.main import main; main()"  # the package cannot be run with -m
    command = [sys.executable, "-c", builder, "build", str(source)]
    command += [
        "--toc",
        str(source / "book" / "_toc.yml"),
        "--path-output",
        str(source.parent),
        "-nW",
        "--keep-going",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        print(result.stdout[-4000:], result.stderr[-4000:], file=sys.stderr)
    return result.returncode == 0


def store(wanted: list[str], force: bool = False) -> int:
    """Execute notebooks in place and stamp them: their outputs are what the book shows.

    A notebook whose stored outputs come from a larger budget, or from real data when this run is told to use
    the embedded set, is left alone unless forced.

    Returns:
        The exit code: 0 if every notebook was stored.
    """
    selected, problems = names(wanted), 0
    print(runtime.describe(), flush=True)
    for name in selected:
        kept = read(name).metadata.get("course", {}).get("stamp", {})
        better = _better(kept) if kept else None
        if better and not force:
            print(f"{name}: kept, its outputs come from {better} (--force replaces them)")
            problems = 1
            continue
        try:
            execute(name, NOTEBOOKS / f"{name}.ipynb")
        except NotebookFailed as failure:
            print(failure, file=sys.stderr)
            problems = 1
    return problems


def _better(kept: dict[str, Any]) -> str | None:
    """What stored outputs have over those that today's dials would give, by their stamp; None if nothing."""
    if runtime.BUDGETS.index(runtime.budget_name()) < runtime.BUDGETS.index(kept["budget"]):
        return f"the {kept['budget']} budget"
    if runtime.data_source() == "embedded" and not kept["data"].startswith("embedded"):
        return f"other data than the embedded set ({kept['data']})"
    return None


def restamp(wanted: list[str], because: str) -> int:
    """Accept stored outputs as fresh after a change in helpers/ that cannot alter a result.

    The reason is kept in the notebook's metadata.

    Args:
        wanted: names of notebooks; empty for all.
        because: why no result can differ.

    Raises:
        ValueError: no reason is given, or a notebook's own code has changed (it must be run).
    """
    if not because.strip():
        raise ValueError("say with --because why no result can differ")
    for name in names(wanted):
        notebook = read(name)
        kept = notebook.metadata.get("course", {}).get("stamp")
        if kept is None or kept["code_hash"] != code_hash(notebook):
            raise ValueError(f"{name} must be run: {stale(notebook)}")
        if kept["helpers_hash"] == helpers_hash(notebook):
            continue
        kept["helpers_hash"] = helpers_hash(notebook)
        kept.setdefault("restamped", []).append({"date": date.today().isoformat(), "because": because})
        nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
        print(f"{name}: stamped anew")
    return 0


def checkpoints(remove: bool = False) -> int:
    """List what interrupted trainings have left in `checkpoints/`, with age and size; delete it on request.

    The same call of `fit` would go on there. After `resume.KEPT_DAYS` days the next training that saves
    itself deletes it unasked.
    """
    files = sorted(CHECKPOINTS.glob("*.pt*"), key=lambda file: file.stat().st_mtime)
    rows = [("file", "last written", "MB")]
    for file in files:
        found = file.stat()
        when = datetime.fromtimestamp(found.st_mtime).isoformat(" ", "minutes")
        rows.append((str(file.relative_to(runtime.PROJECT_ROOT)), when, f"{found.st_size / 1e6:,.1f}"))
    if not files:
        print(f"{CHECKPOINTS} holds no interrupted training")
        return 0
    print(table(rows))
    if remove:
        for file in files:
            file.unlink(missing_ok=True)
    print("deleted" if remove else "make checkpoints REMOVE=1 deletes them")
    return 0


def address() -> int:
    """Write repository and branch of _config.yml into the notebooks' Colab cells, where they say otherwise.

    Raises:
        ValueError: one of the two is malformed, or a notebook has no Colab cell to write it into.
    """
    repository = yaml.safe_load((runtime.PROJECT_ROOT / "_config.yml").read_text("utf-8"))["repository"]
    url, branch = repository["url"] or "", repository["branch"]
    if not re.fullmatch(r"(https://[\w.-]+(/[\w.~-]+)+)?", url):
        raise ValueError(
            f"repository.url in _config.yml is {url!r}: "
            "write https://github.com/<owner>/<name>, or leave it empty"
        )
    if not re.fullmatch(r"\w[\w./-]*", branch):
        raise ValueError(f"repository.branch in _config.yml is {branch!r}: write the name of a branch")
    line = f'COURSE, BRANCH = "{url}", "{branch}"'
    for name in names():
        notebook = read(name)
        cells = [cell for cell in notebook.cells if COLAB in cell.metadata.get("tags", [])]
        if len(cells) != 1 or not (found := re.findall(r"^COURSE, BRANCH = \S+, \S+", cells[0].source, re.M)):
            raise ValueError(f"{name} has no cell with the tag {COLAB!r} and a line COURSE, BRANCH = …")
        if found != [line]:
            cells[0].source = cells[0].source.replace(found[0], line)
            nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
            print(f"{name}: its Colab cell fetches the course from {url or 'nowhere'}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; bad names and dials end with one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.notebooks", description="Run the course's notebooks."
    )
    parser.add_argument("action", choices=("run", "store", "restamp", "checkpoints", "address"))
    parser.add_argument("names", nargs="*", help="notebooks; all if none is named")
    parser.add_argument("--force", action="store_true", help="store: replace outputs of a larger budget too")
    parser.add_argument("--because", default="", help="restamp: why no result can differ")
    parser.add_argument("--remove", action="store_true", help="checkpoints: delete all that are listed")
    options = parser.parse_intermixed_args(arguments)  # names may follow --because
    try:
        runtime.budget_name(), runtime.data_source()
        if options.action == "run":
            return run(options.names)
        if options.action == "store":
            return store(options.names, options.force)
        if options.action == "checkpoints":
            return checkpoints(options.remove)
        if options.action == "address":
            return address()
        return restamp(options.names, options.because)
    except UnicodeError:
        raise  # a ValueError too, but nobody's input
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if not error.filename:
            raise
        print(f"error: {_refused(error)}", file=sys.stderr)
        return 2


def _refused(error: OSError) -> str:
    """One line on what the file system refuses, and the way out."""
    where = error.filename2 or error.filename
    advice = {
        errno.ENOSPC: "free some space on this disk",
        errno.EDQUOT: "free some space of your quota",
        errno.EROFS: "copy the course to a folder that can be written",
        errno.EACCES: "make it yours, or copy the course to a folder of your own",
        errno.EPERM: "make it yours, or copy the course to a folder of your own",
    }.get(error.errno, "see to it, and run again")
    return f"can't write or read {where} ({error.strerror}): {advice}"


def command() -> None:
    """Run the command line and end the process; Ctrl-C ends it at once, with one line."""
    try:
        code = main()
    except KeyboardInterrupt:
        print("stopped: no stored output was changed by the notebooks in hand", file=sys.stderr, flush=True)
        os._exit(130)  # does not wait for threads; the kernels see that their parent is gone, and end
    sys.exit(code)


if __name__ == "__main__":
    command()
