import io
import itertools
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from helpers import progress
from helpers.data import ImageSet
from helpers.progress import ProgressLine, duration
from helpers.training import fit


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


def polyline(content):
    """The points of the curve in a notebook's output, as pairs of numbers."""
    (line,) = ElementTree.fromstring(f"<div>{content['text/html']}</div>").iter("polyline")
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def test_update_draws_the_curve_of_the_values_in_a_notebook(shown):
    line = ProgressLine("seed 0 <b>", 1_000)
    for step, loss in ((100, 2.0), (200, 1.0), (400, 0.0), (500, float("nan"))):
        line.update(step, 100 * step, f"loss {loss}", loss)
    assert polyline(shown[0]) == [(24, 2), (48, 30), (96, 58)]  # high values on top, steps of 1,000 on 240
    assert "seed 0 &lt;b&gt;: step 500" in shown[0]["text/html"]
    assert 'aria-label="from 2 to 0"' in shown[0]["text/html"]


def test_finish_takes_the_curve_away(shown):
    with ProgressLine("training", 10) as line:
        line.update(1, 10, "loss 2", 2.0)
        assert "text/html" not in shown[0], "one point is no curve"
        line.update(2, 20, "loss 1", 1.0)
        assert "text/html" in shown[0]
        line.finish("3 s")
    assert shown == [{"text/plain": "training: 3 s"}]


def test_update_keeps_a_long_curve_short(shown):
    line = ProgressLine("training", 10_000)
    for step in range(1, 10_001):
        line.update(step, step, "loss", 1.0)
    points = polyline(shown[0])
    assert progress.MOST_POINTS / 2 < len(points) <= progress.MOST_POINTS
    assert points[-1] == pytest.approx((240, 2), abs=1.5)
    gaps = {round(b - a, 1) for (a, _), (b, _) in itertools.pairwise(points)}
    assert max(gaps) - min(gaps) < 0.2, "evenly spread"


def test_fit_draws_its_loss(shown, monkeypatch):
    monkeypatch.setattr(ProgressLine, "due", lambda self: True)
    drawn = []
    update = ProgressLine.update
    monkeypatch.setattr(
        ProgressLine, "update", lambda self, *a: (update(self, *a), drawn.append(shown[0]))[0]
    )
    images = torch.zeros(8, 1, 2, 2, dtype=torch.uint8)
    data = ImageSet(images, torch.zeros(8, dtype=torch.int64), ("a", "b"), "blank")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(model, data, optimizer=optimizer, batch_size=4, steps=5, transform=lambda x: x.float())
    assert len(polyline(drawn[-1])) == history.steps == 5
    assert shown[0].keys() == {"text/plain"}


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
