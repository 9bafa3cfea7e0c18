"""What the repository promises: no code in data, no open port, no moving action, nobody told."""

import ast
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
MAKEFILE = (PROJECT / "Makefile").read_text("utf-8")
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
FOLDERS = ("helpers", "benchmarks", "book/_ext")


def python_sources():
    """Name and text of every piece of Python that a reader runs: modules, cells, snippets of the pages."""
    for folder in FOLDERS:
        for path in sorted((PROJECT / folder).glob("*.py")):
            yield path.name, path.read_text("utf-8")
    for folder in ("notebooks", "drafts"):
        for path in sorted((PROJECT / folder).glob("[0-9][0-9]*_*.ipynb")):
            for cell in nbformat.read(path, as_version=4).cells:
                if cell.cell_type == "code":
                    yield path.name, re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)
    for path in sorted((PROJECT / "book").glob("*.md")):
        for snippet in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
            yield path.name, snippet


def calls(name):
    """Source and keywords of every call of a function of this name."""
    for where, source in python_sources():
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a deliberate error
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
                yield where, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_torch_load_reads_data_only_everywhere():
    found = list(calls("torch.load"))
    assert len(found) >= 3
    assert [where for where, keywords in found if keywords.get("weights_only") != "True"] == []


@pytest.mark.parametrize("name", ["pickle.load", "pickle.loads", "eval", "os.system", "yaml.load", "np.load"])
def test_nothing_else_runs_what_it_reads(name):
    assert list(calls(name)) == []


def test_archives_are_unpacked_by_the_filter_for_data():
    assert [keywords["filter"] for _, keywords in calls("tar.extractall")] == ["'data'"]


def recipe(target):
    """The commands of a target of the Makefile."""
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]


def test_servers_listen_on_this_machine_only():
    assert "--bind 127.0.0.1" in recipe("serve")
    assert "--ServerApp.ip=127.0.0.1" in recipe("lab")
    texts = [MAKEFILE, *(source for _, source in python_sources())]
    texts += [path.read_text("utf-8") for path in [PROJECT / "README.md", *(PROJECT / "book").glob("*.md")]]
    assert not [text for text in texts if re.search(r"0\.0\.0\.0|bind_all|--host[ =](?!localhost|127)", text)]


def test_make_lab_tells_nobody():
    assert "NeverCheckForUpdate" in recipe("lab")
    assert "--LabApp.news_url= " in recipe("lab")
    assert '{"fetchNews": "false"}' in recipe("lab")


@pytest.fixture
def started(tmp_path, monkeypatch):
    """`started(target, pattern, *more)` runs a recipe until it prints something like the pattern."""
    if os.name != "posix":
        pytest.skip("the Makefile is for POSIX systems")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))  # no settings of whoever runs the tests
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    processes = []

    def start(target, pattern, *more):
        variables = {"$(BIN)": str(Path(sys.executable).parent), "$(PY)": sys.executable, "$(PORT)": "0"}
        without_notebook = re.sub(r"\$\(if \$\(NB\).*\)", "", recipe(target))  # empty without NB=…
        command = shlex.split(without_notebook.splitlines()[-1])  # the one that serves
        for name, value in variables.items():
            command = [word.replace(name, value) for word in command]
        output = tmp_path / "output"
        with output.open("wb") as file:
            process = subprocess.Popen([*command, *more], cwd=tmp_path, stdout=file, stderr=file)
        processes.append(process)
        ends = time.monotonic() + 120
        while not (found := re.search(pattern, output.read_text("utf-8"))):
            assert process.poll() is None, output.read_text("utf-8")
            assert time.monotonic() < ends, output.read_text("utf-8")
            time.sleep(0.1)
        return found

    yield start
    for process in processes:
        process.terminate()
        process.wait(timeout=60)


def status(address):
    """What a server answers to a request: its code, after redirects, and the path where these end."""
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            return response.status, urlsplit(response.url).path
    except urllib.error.HTTPError as error:
        return error.code, urlsplit(error.url).path


def refuses_others(port):
    """Whether nothing but 127.0.0.1 leads to a server: on Linux 127.0.0.2 is this machine too."""
    try:
        socket.create_connection(("127.0.0.2", port), timeout=5).close()
    except OSError:
        return True
    return False


def test_jupyterlab_wants_the_token_that_it_prints_and_listens_on_this_machine_only(started, tmp_path):
    (tmp_path / "notebooks").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    address = re.escape(server) + r"/lab\S*\?token=([0-9a-f]{48})"
    found = started("lab", address, "--no-browser", "--allow-root", f"--ServerApp.port={port}")
    token = found[1]
    assert status(found[0])[0] == 200
    assert status(f"{server}/lab") == (200, "/login")
    assert status(f"{server}/api/contents")[0] == 403
    assert status(f"{server}/api/contents?token={'0' * 48}")[0] == 403
    assert status(f"{server}/api/contents?token={token}") == (200, "/api/contents")
    assert refuses_others(port)


def test_the_book_is_served_to_this_machine_only(started, tmp_path):
    (tmp_path / "_build" / "html").mkdir(parents=True)
    (tmp_path / "_build" / "html" / "index.html").write_text("the book")
    port = int(started("serve", r"port (\d+)")[1])
    assert status(f"http://127.0.0.1:{port}/index.html") == (200, "/index.html")
    assert refuses_others(port)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_each_action_by_commit_and_may_only_read(path):
    text = path.read_text("utf-8")
    used = re.findall(r"uses: *(\S+)(.*)", text)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" +# v\d+\.\d+\.\d+", comment), f"{action} does not say which version it is"
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert "secrets." not in text


def test_weekly_workflow_audits_and_covers_the_pythons_torches_and_systems_of_the_project():
    jobs = yaml.safe_load((PROJECT / ".github" / "workflows" / "weekly.yml").read_text("utf-8"))["jobs"]
    assert any("make audit" in step.get("run", "") for step in jobs["audit"]["steps"])
    assert "pip-audit --strict" in recipe("audit"), "else packages that nobody could look up pass"
    matrix = jobs["versions"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert {extra["system"] for extra in matrix["include"]} == {"macos-latest", "windows-latest"}
    project = (PROJECT / "pyproject.toml").read_text("utf-8")
    lowest, highest = re.search(r'"torch>=([\d.]+),<([\d.]+)"', project).groups()
    vision = re.search(r'"torchvision>=([\d.]+),', project)[1]
    assert matrix["torch"][0] == f"torch=={lowest}.* torchvision=={vision}.*"
    assert f"torch>={lowest},<{highest}" in matrix["torch"][1]


def test_every_locked_package_has_its_hash():
    lock = (PROJECT / "requirements.lock").read_text("utf-8")
    packages = re.findall(r"^(?!#)(\S+)==[^\n]*\\\n +--hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)
    assert len(packages) == len(re.findall(r"^[A-Za-z]", lock, re.MULTILINE)) > 100
