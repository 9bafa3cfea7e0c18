"""A notebook as a reader runs it: in a real JupyterLab, started by `make lab`, in Chromium."""

import html
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "book"))
import chromium  # noqa: E402 - its folder is on the path only now

NOTEBOOK = "00_pytorch_basics"


def lab_command(notebook=""):
    """The command that `make lab` runs, as text, for a notebook's name."""
    arguments = [
        "make",
        "--dry-run",
        "--no-print-directory",
        "--old-file",
        ".venv/ready",
        "lab",
        f"NB={notebook}",
    ]
    return subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not shutil.which("make"), reason="make isn't installed")
@pytest.mark.parametrize(
    ("notebook", "opened"), [("", "notebooks"), ("01_lenet5", "notebooks/01_lenet5.ipynb")]
)
def test_make_lab_opens_the_folder_or_the_notebook_that_nb_names(notebook, opened):
    assert lab_command(notebook).split()[-1] == opened


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab as `make lab` starts it, on a copy of the course; gives the address of the notebook."""
    for folder in ("helpers", "notebooks"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = lab_command(NOTEBOOK).replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    command += " --no-browser --allow-root --ServerApp.port=0"  # what a test needs and a reader doesn't
    environment = os.environ | {"COURSE_BUDGET": "quick", "COURSE_DATA": "embedded", "OMP_NUM_THREADS": "1"}
    environment |= {
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "run"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    log = tmp_path / "lab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield address(server, log)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def address(server, log):
    """The address, with its token, that JupyterLab would open in the reader's browser."""
    for _ in range(3000):
        for page in (log.parent / "run").glob("jpserver-file-to-run-*-open.html"):
            if found := re.search(r'href="(http://127\.0\.0\.1:[^"]*token=[^"]*)"', page.read_text("utf-8")):
                return html.unescape(found[1])
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text('utf-8')}")


def test_half_written_notebook_has_no_cells_yet(tmp_path):
    whole = (PROJECT / "notebooks" / f"{NOTEBOOK}.ipynb").read_bytes()
    path = tmp_path / "half.ipynb"
    for length in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:length])
        assert code_cells(path) == []
    path.write_bytes(whole)
    assert code_cells(path) != []


@pytest.mark.skipif(not chromium.find(), reason=chromium.NEEDED)
@pytest.mark.skipif(os.name != "posix" or not shutil.which("make"), reason="make lab needs make and a shell")
def test_all_cells_of_a_notebook_run_in_jupyterlab(lab, tmp_path):
    path = tmp_path / "notebooks" / f"{NOTEBOOK}.ipynb"
    clear_outputs(path)
    with chromium.browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)  # on a busy machine
        page.goto(lab)
        page.get_by_text(re.compile(r"^Python 3.*Idle$")).wait_for()  # the kernel is up
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        asked = page.get_by_text(re.compile("Jupyter news"))  # shown soon after the start, if at all
        cells = []
        for _ in range(600):
            page.wait_for_timeout(1000)
            page.keyboard.press("Control+s")
            cells = code_cells(path)
            if cells and all(cell.execution_count for cell in cells):
                break
        assert asked.count() == 0
    assert cells
    assert [cell.source[:60] for cell in cells if not cell.execution_count] == []
    assert failures(cells) == []


def clear_outputs(path):
    """Take away what is stored, so that all that is found afterwards was made in this run."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


def code_cells(path):
    """The code cells of the file as it was last saved; none while JupyterLab is writing it."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except nbformat.reader.NotJSONError:
        return []
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def failures(cells):
    """The errors that are not meant to be seen, one line each."""
    return [
        f"{output.ename}: {output.evalue}"
        for cell in cells
        for output in cell.outputs
        if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", [])
    ]
