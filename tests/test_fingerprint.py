import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.fingerprint import fingerprint
from helpers.notebooks import load


def made_by(source, name="f"):
    """What a piece of source defines under a name, as in a notebook's cell."""
    space = {"__name__": "__main__", "torch": torch, "nn": nn}
    exec(textwrap.dedent(source), space)
    return space[name]


SQUARE = """
    def bend(x):
        return x * 2

    def f(x, scale=1.5):
        return bend(x).relu() * scale
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".relu()", ".tanh()"),
        ("x * 2", "x * 3"),  # in a function that is called
        ("scale=1.5", "scale=2.5"),
        ("* scale", "+ scale"),
    ],
)
def test_fingerprint_follows_code_defaults_and_functions_called(old, new):
    assert SQUARE.count(old) == 1
    assert fingerprint(made_by(SQUARE)) != fingerprint(made_by(SQUARE.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        return x * 2", '        """Twice."""\n        return x * 2'),
        ("        return x * 2", "        # twice\n\n        return x * 2"),
        ("    def f", "    unused = 3\n\n    def f"),
    ],
)
def test_fingerprint_ignores_docstrings_comments_and_lines(old, new):
    assert fingerprint(made_by(SQUARE)) == fingerprint(made_by(SQUARE.replace(old, new)))


NETWORK = """
    class Base(nn.Module):
        def forward(self, x):
            return self.bend(x) if self.training else x

    class f(Base):
        rate = 0.5

        def bend(self, x):
            return [part * self.rate for part in x]
"""


@pytest.mark.parametrize(("old", "new"), [("0.5", "0.4"), ("part *", "part +"), ("else x", "else 2 * x")])
def test_fingerprint_follows_the_methods_of_a_network_inherited_ones_too(old, new):
    first, other = (made_by(source)() for source in (NETWORK, NETWORK.replace(old, new)))
    assert fingerprint(first) == fingerprint(made_by(NETWORK)())
    assert fingerprint(first) != fingerprint(other)
    assert fingerprint(nn.Sequential(nn.ReLU(), first)) != fingerprint(nn.Sequential(nn.ReLU(), other))


def test_fingerprint_tells_networks_apart_that_print_alike():
    paper = load("01_lenet5").PaperLeNet5
    assert repr(paper()) == repr(paper(relu_c3=True))
    assert fingerprint(paper()) != fingerprint(paper(relu_c3=True))
    assert fingerprint(paper()) == fingerprint(paper())
    assert fingerprint(paper().train()) == fingerprint(paper().eval())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.relu, torch.tanh),
        (partial(torch.relu), partial(torch.tanh)),
        (partial(print, sep="a"), partial(print, sep="b")),
        (nn.Dropout(0.1), nn.Dropout(0.2)),
        ((lambda n: lambda x: x + n)(1), (lambda n: lambda x: x + n)(2)),
    ],
)
def test_fingerprint_tells_apart(first, second):
    assert fingerprint(first) == fingerprint(first)
    assert fingerprint(first) != fingerprint(second)


def test_fingerprint_ends_on_functions_that_call_each_other():
    source = """
        def f(n):
            return n and g(n - 1)

        def g(n):
            return f(n)
    """
    assert fingerprint(made_by(source)) == fingerprint(made_by(source))


def test_fingerprint_is_the_same_in_another_process():
    code = "from helpers.fingerprint import fingerprint; from helpers.notebooks import load\n"
    code += "print(fingerprint(load('01_lenet5').PaperLeNet5()))"
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert other.stdout.strip() == fingerprint(load("01_lenet5").PaperLeNet5())
