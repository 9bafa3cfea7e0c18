import io
from types import SimpleNamespace

import pytest

from helpers import progress
from helpers.progress import ProgressLine, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves by hand."""
    hands = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: hands.now))
    return hands


@pytest.fixture
def terminal(monkeypatch):
    """Stderr as a terminal that keeps what it was sent."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def shown(monkeypatch):
    """What a notebook cell shows: one entry per output, in its last state."""
    outputs = []

    class Handle:
        def __init__(self):
            self.place = len(outputs) - 1

        def update(self, content, *, raw):
            assert raw
            outputs[self.place] = content

    def display(content, *, raw, display_id):
        assert raw
        assert display_id is True
        outputs.append(content)
        return Handle()

    monkeypatch.setattr(progress, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(progress, "display", display)
    return outputs


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_duration_reads_as_people_say_it(seconds, text):
    assert duration(seconds) == text


def test_due_waits_between_updates(clock):
    line = ProgressLine("training", 10, seconds_between=2)
    assert not line.due()
    clock.now += 2
    assert line.due()
    line.update(1, 100, "loss 1")
    assert not line.due()


def test_due_is_never_true_when_disabled(clock):
    line = ProgressLine("training", 10, enabled=False)
    clock.now += 1e6
    assert not line.due()


def test_update_gives_rate_and_time_left_from_the_second_time_on(clock, shown):
    line = ProgressLine("training", 1_500)
    line.update(500, 50_000, "loss 0.5000")  # a resumed run: what was done before does not count as fast
    assert shown == [{"text/plain": "training: step 500 of 1,500 · loss 0.5000"}]
    clock.now += 10
    line.update(600, 60_000, "loss 0.4112")
    assert shown == [
        {"text/plain": "training: step 600 of 1,500 · loss 0.4112 · 1,000 images/s · 1 min 30 s left"}
    ]


def test_finish_replaces_the_one_output_of_a_notebook_cell(shown):
    with ProgressLine("training", 10) as line:
        line.update(5, 50, "loss 1")
        line.finish("3 s")
    assert shown == [{"text/plain": "training: 3 s"}]


def test_update_rewrites_one_line_of_a_terminal(terminal, capsys):
    line = ProgressLine("training", 10)
    line.update(5, 50, "loss 1")
    line.finish("3 s")
    assert terminal.getvalue() == "\r\033[Ktraining: step 5 of 10 · loss 1\r\033[Ktraining: 3 s\n"
    assert capsys.readouterr().out == ""


def test_finish_alone_is_printed_where_nobody_watches(capsys):
    line = ProgressLine("training", 10)
    line.update(5, 50, "loss 1")
    line.finish("3 s")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("training: 3 s\n", "")


@pytest.mark.parametrize("where", ["shown", "terminal", "capsys"])
def test_progress_line_shows_nothing_when_disabled(request, capsys, where):
    request.getfixturevalue(where)
    with ProgressLine("training", 10, enabled=False) as line:
        line.finish("3 s")
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
    assert where != "shown" or request.getfixturevalue("shown") == []
    assert where != "terminal" or request.getfixturevalue("terminal").getvalue() == ""


def train_until_stopped():
    with ProgressLine("training", 2_000) as line:
        line.step = 1_234
        raise KeyboardInterrupt


def test_progress_line_says_how_far_a_stopped_run_got_and_lets_the_error_through(capsys):
    with pytest.raises(KeyboardInterrupt):
        train_until_stopped()
    assert capsys.readouterr().out == "training: stopped at step 1,234 of 2,000 (KeyboardInterrupt)\n"
