"""From a notebook's model to the stages that `networks` draws: names, windows, shapes, parameters."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace

import project  # noqa: F401  (helpers on the path)
import torch
from torch import nn

from helpers.shapes import LayerTable, Shape, layer_table
from helpers.stamps import load

REQUEST = re.compile(r"(\w+)\s+((\w+)\(.*\))\s+(\d+(?:[x×]\d+)*)")
KINDS = {
    "Conv2d": "convolution",
    "Linear": "dense",
    "MaxPool2d": "max-pooling",
    "AvgPool2d": "mean pooling",
    "AdaptiveAvgPool2d": "mean pooling",
    "LocalResponseNorm": "response normalisation",
    "": "outside all layers",
}
COLOURS = {"convolution": "window", "pooling": "pool", "subsampling": "pool", "norm": "norm"}
MOST_STAGES = 15  # a longer network has its like neighbours drawn as one


# ---- the model and its table ---------------------------------------------------------------------------


def examine(request: str) -> tuple[nn.Module, LayerTable, Shape]:
    """Build the model that a page asks for and measure its layers, without allocating a weight.

    Args:
        request: notebook, call and input, such as `01_lenet5 ArticleLeNet5() 1x28x28`.

    Returns:
        The model, on the `meta` device where it can be, its table, and the shape of its input.

    Raises:
        ValueError: the request is none, or there is no such notebook or class, or the call or the pass fails.
    """
    match = REQUEST.fullmatch(request.strip())
    if not match:
        raise ValueError(f"{request!r} asks for no network: write `01_lenet5 ArticleLeNet5() 1x28x28`")
    notebook, call, name, size = match.groups()
    module = load(notebook)
    if not _is_network(getattr(module, name, None)):
        classes = [key for key, value in vars(module).items() if _is_network(value)]
        raise ValueError(f"notebook {notebook} has no network {name}: choose from {', '.join(classes)}")
    shape = tuple(map(int, re.split("[x×]", size)))
    try:
        model = _build(call, vars(module))
        return model, layer_table(model, shape), shape
    except ValueError as error:
        raise ValueError(f"{request} fails: {error}") from error
    except Exception as error:  # whatever else a model's code may raise
        raise ValueError(f"{request} fails: {type(error).__name__}: {error}") from error


def _build(call: str, names: dict) -> nn.Module:
    """Call a model without memory, or for real if its starting weights go by numbers in tensors."""
    node = ast.parse(call, mode="eval").body
    if not isinstance(node, ast.Call):
        raise ValueError("it is no call of a class, write Name() or Name(argument)")
    network = names[ast.unparse(node.func)]
    values = [ast.literal_eval(value) for value in node.args]
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    try:
        with torch.device("meta"):
            return network(*values, **named)
    except RuntimeError:
        return network(*values, **named)


def _is_network(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


# ---- from layers to stages -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What one box stands for."""

    names: tuple[str, ...]
    kind: str  # in words, with its window
    colour: str
    output: Shape
    parameters: int = 0

    @property
    def label(self) -> str:
        """Its name, or its first and the end of its last: `conv1_1–2`."""
        first, last = self.names[0], self.names[-1]
        stem = re.sub(r"\d+$", "", first)
        return first if first == last else f"{first}–{last.removeprefix(stem)}"

    @property
    def words(self) -> str:
        """The kind, and how many layers of it."""
        return self.kind if len(self.names) == 1 else f"{len(self.names)} × {self.kind}"

    @property
    def cost(self) -> str:
        """Its parameters in words."""
        return f"{self.parameters:,} parameters" if self.parameters else "no parameters"


def stages(model: nn.Module, table: LayerTable) -> list[Stage]:
    """The layers in order; in a long network, neighbours of one kind and shape are one stage.

    Dense layers stay apart.
    """
    modules = {type(model).__name__: model, **dict(model.named_modules())}
    found = []
    for row in table.rows:
        kind = KINDS.get(row.kind) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", row.kind).lower()
        colour = next((colour for word, colour in COLOURS.items() if word in kind), "dense")
        kind += window(modules.get(row.name))
        last = found[-1] if found and len(table.rows) > MOST_STAGES and len(row.output) == 3 else None
        if last and (last.kind, last.output) == (kind, row.output):
            names, parameters = (*last.names, row.name), last.parameters + row.parameters
            found[-1] = replace(last, names=names, parameters=parameters)
        else:
            found.append(Stage((row.name,), kind, colour, row.output, row.parameters))
    return found


def input_stage(shape: Shape) -> Stage:
    """What the network is given."""
    channels, *size = shape
    pixels = f"{channels} channel{'s' * (channels > 1)} of {shown(size)} pixels"
    return Stage(("input",), pixels if size else f"{channels:,} numbers", "data", shape)


def window(module: nn.Module | None) -> str:
    """A layer's window, and what of its stride, padding and groups is out of the ordinary."""
    size = getattr(module, "kernel_size", None)
    if not size:
        return ""
    stride, padding = _pair(getattr(module, "stride", 1) or size), getattr(module, "padding", 0)
    words = [" " + shown(_pair(size))]
    if stride != (1, 1):
        words.append(f"stride {_once(stride)}")
    if padding not in (0, (0, 0), "valid"):
        words.append(f"padding {padding if isinstance(padding, str) else _once(_pair(padding))}")
    if getattr(module, "groups", 1) != 1:
        words.append(f"{module.groups} groups")
    return ", ".join(words)


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _once(pair: tuple[int, ...]) -> str:
    """A pair as text: one number if both are alike."""
    return shown(pair[:1] if len(set(pair)) == 1 else pair)


def shown(shape: Shape | list[int]) -> str:
    """A shape as text: 6×28×28."""
    return "×".join(map(str, shape)) or "–"


def percent(share: float) -> str:
    """A share as text; a small one is not rounded to nothing."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "under 1 %"
