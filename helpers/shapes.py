"""Sizes by formula, and a table of what each layer of a model really does.

Not from torchinfo: its MACs include biases (VGG16 15.48 instead of 15.47 billion), it knows no receptive
field and may leave layers in another mode. Here forward hooks read the shapes and torch counts the products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

COLUMNS = ("layer", "kind", "output", "parameters", "MACs", "field (px)", "jump (px)")
Shape = tuple[int, ...]  # without the batch: (C, H, W) or (features,)


def output_size(size: int, kernel: int, stride: int = 1, padding: int | tuple[int, int] | str = 0) -> int:
    """Length of a convolution's or pooling's output along one axis: (W−F+2P)/S+1, rounded down.

    Args:
        size: input length W in pixels.
        kernel: window length F in pixels.
        stride: step S in pixels.
        padding: pixels P on either side, (before, after), or as TensorFlow has it "valid" or "same" (⌈W/S⌉).

    Returns:
        The number of window positions, at least 1.

    Raises:
        ValueError: a length is no whole number in its range, or the window outgrows the padded input.

    Source: Dumoulin & Visin 2016, section 2.4.
    """
    for name, length in {"size": size, "kernel": kernel, "stride": stride}.items():
        if not isinstance(length, int) or length < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {length!r}")
    if padding == "same":
        return (size + stride - 1) // stride
    sides = (0, 0) if padding == "valid" else padding if isinstance(padding, tuple) else (padding, padding)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 0 for side in sides):
        raise ValueError(f'padding={padding!r} is unknown: use an int, (before, after), "same" or "valid"')
    if kernel > size + sum(sides):
        raise ValueError(f"a window of {kernel} is longer than the padded input, {size} + {sum(sides)}")
    return (size + sum(sides) - kernel) // stride + 1


def same_padding(size: int, kernel: int, stride: int = 1) -> tuple[int, int]:
    """Pixels that TensorFlow's SAME adds (before, after) along one axis; an odd one goes after.

    PyTorch's "same" takes stride 1 only: use `F.pad` with these. Arguments and errors as in `output_size`.
    """
    total = max((output_size(size, kernel, stride, "same") - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Layer:
    """One row, for one image. None stands for what cannot be told."""

    name: str
    kind: str
    output: Shape
    parameters: int  # a shared one counts where it is used first; buffers don't count
    macs: int  # multiply-accumulates without biases
    receptive_field: int | None  # input pixels along a side
    jump: int | None  # input pixels between neighbouring outputs


@dataclass(frozen=True, repr=False)
class LayerTable:
    """What `layer_table` returns: text when printed, an HTML table on a page; sums over all rows."""

    title: str
    rows: tuple[Layer, ...]
    parameters: int
    macs: int

    def row(self, name: str) -> Layer:
        """The first row of that name; a KeyError names the rows there are."""
        rows = {row.name: row for row in reversed(self.rows)}
        if name not in rows:
            raise KeyError(f"no layer {name!r}: the table has {', '.join(row.name for row in self.rows)}")
        return rows[name]

    def _lines(self) -> list[tuple[str, ...]]:
        total = ("total", "", "", f"{self.parameters:,}", f"{self.macs:,}", "", "")
        return [COLUMNS, *(tuple(map(_text, vars(row).values())) for row in self.rows), total]

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self._lines(), strict=True)]
        spec = "  ".join(f"{{:{side}{width}}}" for side, width in zip("<<<>>>>", widths, strict=True))
        return "\n".join([self.title, *(spec.format(*line).rstrip() for line in self._lines())])

    def _repr_html_(self) -> str:
        head, *body = self._lines()
        heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        rows = (f'<tr><th scope="row">{name}</th><td>{"</td><td>".join(r)}</td></tr>' for name, *r in body)
        top = f"<caption>{self.title}</caption><thead><tr>{heads}</tr></thead>"
        return f'<table class="layer-table">{top}<tbody>{"".join(rows)}</tbody></table>'


def _text(value: str | Shape | int | None) -> str:
    """A cell: 1,234 for a number, 6×28×28 for a shape, a dash for nothing."""
    if isinstance(value, tuple):
        value = "×".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and value else value or "–"


def layer_table(model: nn.Module, input_shape: Shape, *, every: bool = False) -> LayerTable:
    """Run one blank image through a model and note what each layer puts out and costs.

    A layer is a module without children, or one with a `kernel_size`. A layer of your own may also have
    `stride`, `dilation` and, where the products that torch counts are not the ones meant, `macs`: a number
    or a function of the output shape. What happens outside all layers is summed up in a row `(other)`.
    The receptive field holds for chains with square windows: a dense layer's is the image's longer side,
    and after a pooling that is no module it is unknown.

    Args:
        model: any module on any device, `meta` included. It comes back as it was, buffers and modes too.
        input_shape: one image (C, H, W), or (features,); no batch.
        every: True for rows also of layers that learn, multiply and resize nothing: activations, dropout.

    Returns:
        The rows in call order; a layer that is called twice has two.

    Raises:
        ValueError: the model cannot take an image of that shape, or has lazy layers.

    Source: Araujo et al. 2019, section 3: r += (k−1)·jump, then jump *= stride.
    """
    if len(input_shape) not in (1, 3) or not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise ValueError(f"input_shape must be (C, H, W) or (features,), got {tuple(input_shape)}")
    calls, other_macs = _trace(model, tuple(input_shape))
    others, rows, field, jump, last = set(model.parameters()), [], 1, 1, input_shape
    for name, module, before, after, counted in calls:
        held = {*module.parameters(), *module.buffers()}
        if held and len(after) == 1:
            field, jump = max(input_shape[1:], default=None), None
        elif jump and len(after) == 3:
            shrunk = any(b < a for b, a in zip(before[1:], last[1:], strict=False))  # by no layer
            window = None if shrunk else _window(module, before[1:], after[1:])
            field, jump = (field + (window[0] - 1) * jump, jump * window[1]) if window else (None, None)
        macs = getattr(module, "macs", counted)
        macs = macs(after) if callable(macs) else macs
        if every or held or macs or hasattr(module, "kernel_size") or hasattr(module, "output_size"):
            size = sum(p.numel() for p in held & others)
            rows.append(Layer(name, type(module).__name__, after, size, macs, field, jump))
        others, other_macs, last = others - held, other_macs - counted, after
    if others or other_macs:
        rows.append(Layer("(other)", "", (), sum(p.numel() for p in others), other_macs, None, None))
    title = f"{type(model).__name__}, input {_text(tuple(input_shape))}"
    return LayerTable(title, tuple(rows), sum(row.parameters for row in rows), sum(row.macs for row in rows))


def _window(module: nn.Module, before: Shape, after: Shape) -> tuple[int, int] | None:
    """(extent, stride) of a layer's square window on a map of (H, W); None if it has another form."""
    if hasattr(module, "kernel_size"):
        stride = getattr(module, "stride", 1) or module.kernel_size
        sizes = (module.kernel_size, stride, getattr(module, "dilation", 1))
        pairs = [(size, size) if isinstance(size, int) else tuple(size) for size in sizes]
        (kernel, stride, dilation), *uneven = set(zip(*pairs, strict=True))
        square = not uneven and not getattr(module, "transposed", False)
        return (dilation * (kernel - 1) + 1, stride) if square else None
    ratio = before[0] // after[0] if hasattr(module, "output_size") else 1  # adaptive pooling
    return (ratio, ratio) if all(b <= a * ratio for b, a in zip(before, after, strict=False)) else None


def _trace(model: nn.Module, input_shape: Shape) -> tuple[list[tuple], int]:
    """Calls of layers as (name, module, shape before, shape after, MACs), and the whole pass's MACs."""
    calls, starts, modes = [], [], {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    count = counter.get_total_flops

    def leave(name: str, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        macs = (count() - starts.pop()) // 2
        calls.append((name, module, tuple(args[0].shape[1:]), tuple(output.shape[1:]), macs))

    names = {module: name or type(module).__name__ for name, module in model.named_modules()}
    layers = {module for module in names if hasattr(module, "kernel_size") or not list(module.children())}
    layers -= {inner for layer in layers for inner in list(layer.modules())[1:]}
    hooks = [layer.register_forward_pre_hook(lambda *_: starts.append(count())) for layer in layers]
    hooks += [layer.register_forward_hook(partial(leave, names[layer])) for layer in layers]
    image = next(iter(model.state_dict().values()), torch.empty(0)).new_zeros(1, *input_shape)
    try:
        with counter, torch.no_grad():  # the buffers are lent as copies, so that no update stays
            functional_call(model.eval(), {name: b.clone() for name, b in model.named_buffers()}, (image,))
    except RuntimeError as error:
        last = f"layer {calls[-1][0]}" if calls else "the input"
        raise ValueError(f"{input_shape} passes no further than {last}: {error}".splitlines()[0]) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return calls, count() // 2
