import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import speed


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["speed.py", *arguments])
    return speed.main()


def test_speed_writes_every_run_and_their_medians(monkeypatch, tmp_path, capsys):
    out = tmp_path / "speed.json"
    assert run(monkeypatch, "MLP", "--steps", "3", "--repeats", "3", "--out", str(out)) == 0
    written = json.loads(out.read_text())
    (result,) = written["results"]
    for kind in ("fit", "bare_step"):
        assert len(result[kind]["runs"]) == 3
        assert result[kind]["median"] == sorted(result[kind]["runs"])[1] > 0
    assert written["machine"]["steps"] == 3
    assert f"{result['fit']['median']:,.0f}" in capsys.readouterr().out


def test_speed_names_the_networks_when_one_is_unknown(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "LeNet-9")
    assert stop.value.code == 2
    assert "LeNet-5 (paper)" in capsys.readouterr().err


def test_speed_knows_networks_that_notebooks_define():
    for build in speed.NETWORKS.values():
        assert sum(p.numel() for p in build().parameters()) > 10_000
