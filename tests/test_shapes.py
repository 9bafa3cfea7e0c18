"""Oracles: torch's operators, torchvision's published figures, torchinfo, gradients, LeNet-5 by hand."""

import itertools
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
import torchinfo
import torchvision
from bs4 import BeautifulSoup
from torch import nn

from helpers.shapes import layer_table, output_size, same_padding


def lenet5() -> nn.Sequential:
    """The article's network, 61,706 parameters."""
    layers = [
        ("C1", nn.Conv2d(1, 6, 5, padding=2)),
        ("tanh1", nn.Tanh()),
        ("S2", nn.MaxPool2d(2)),
        ("C3", nn.Conv2d(6, 16, 5)),
        ("relu3", nn.ReLU()),
        ("S4", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("C5", nn.Linear(400, 120)),
        ("F6", nn.Linear(120, 84)),
        ("output", nn.Linear(84, 10)),
    ]
    return nn.Sequential(OrderedDict(layers))


# ---- output_size, same_padding


@pytest.mark.parametrize("padding", [0, 1, 2, (0, 1), (2, 0)])
def test_output_size_equals_torch_convolution(padding):
    both = (padding, padding) if isinstance(padding, int) else padding
    for size, kernel, stride in itertools.product(range(1, 10), range(1, 7), range(1, 5)):
        line = F.pad(torch.zeros(1, 1, size), both)
        if kernel > line.shape[-1]:
            with pytest.raises(ValueError, match=f"a window of {kernel} is longer"):
                output_size(size, kernel, stride, padding)
        else:
            expected = F.conv1d(line, torch.zeros(1, 1, kernel), stride=stride).shape[-1]
            assert output_size(size, kernel, stride, padding) == expected, (size, kernel, stride)


def test_output_size_valid_equals_no_padding():
    assert output_size(28, 5, padding="valid") == 24
    assert output_size(227, 11, 4, "valid") == 55  # AlexNet's arithmetic
    assert output_size(224, 11, 4, "valid") == 54  # what the paper's 224 gives


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after", "out"),
    [
        (224, 11, 4, 3, 4, 56),  # the AlexNet article's conv1
        (56, 3, 2, 0, 1, 28),  # and its pools
        (28, 3, 2, 0, 1, 14),
        (28, 5, 1, 2, 2, 28),
        (7, 2, 2, 0, 1, 4),
        (6, 1, 3, 0, 0, 2),  # the stride skips pixels: nothing to pad, and never less than nothing
        (1, 5, 1, 2, 2, 1),  # a window longer than the input
    ],
)
def test_same_padding_equals_tensorflow(size, kernel, stride, before, after, out):
    assert same_padding(size, kernel, stride) == (before, after)
    assert output_size(size, kernel, stride, "same") == out
    padded = F.pad(torch.zeros(1, 1, size), (before, after))
    assert F.conv1d(padded, torch.zeros(1, 1, kernel), stride=stride).shape[-1] == out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "size must be a whole number of at least 1, got 0"),
        ((28, 0), "kernel must be"),
        ((28, 3, 0), "stride must be"),
        ((14.0, 3), "size must be a whole number of at least 1, got 14.0"),
        ((28, 3, 1, -1), "padding=-1 is unknown"),
        ((28, 3, 1, 0.5), "padding=0.5 is unknown"),
        ((28, 3, 1, "SAME"), 'use an int, .before, after., "same" or "valid"'),
        ((28, 3, 1, (1, 1, 1)), "padding=.1, 1, 1. is unknown"),
    ],
)
def test_output_size_rejects_what_is_no_size(arguments, message):
    with pytest.raises(ValueError, match=message):
        output_size(*arguments)


def test_same_padding_rejects_stride_0():
    with pytest.raises(ValueError, match="stride must be a whole number of at least 1, got 0"):
        same_padding(28, 3, 0)


# ---- layer_table: counts


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg16", "vgg19", "resnet18", "mobilenet_v2"])
def test_layer_table_equals_torchvision_published_counts(name):
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    table = layer_table(model, (3, 224, 224))
    assert table.parameters == published["num_params"]
    assert table.macs / 1e9 == pytest.approx(published["_ops"], abs=0.0006)


def test_layer_table_equals_the_facts():
    with torch.device("meta"):
        vgg16, alexnet = torchvision.models.vgg16(), torchvision.models.alexnet()
    table = layer_table(vgg16, (3, 224, 224))
    assert (table.parameters, round(table.macs / 1e9, 2)) == (138_357_544, 15.47)
    assert table.row("features.30").receptive_field == 212
    table = layer_table(alexnet, (3, 224, 224))
    assert (table.parameters, round(table.macs / 1e9, 3)) == (61_100_840, 0.714)
    assert table.row("features.12").receptive_field == 195


def test_layer_table_rows_equal_torchinfo():
    with torch.device("meta"):
        model = torchvision.models.alexnet()
    infos = torchinfo.summary(model, (1, 3, 224, 224), depth=9, device="meta", verbose=0).summary_list
    expected = [
        (info.class_name, tuple(info.output_size[1:]), info.num_params)
        for info in infos
        if info.is_leaf_layer
    ]
    rows = layer_table(model, (3, 224, 224), every=True).rows
    assert [(row.kind, row.output, row.parameters) for row in rows] == expected


def test_layer_table_equals_lenet5_by_hand():
    table = layer_table(lenet5(), (1, 28, 28))
    found = [(r.name, r.output, r.parameters, r.macs, r.receptive_field, r.jump) for r in table.rows]
    assert found == [
        ("C1", (6, 28, 28), 6 * (25 + 1), 6 * 25 * 28 * 28, 5, 1),
        ("S2", (6, 14, 14), 0, 0, 6, 2),
        ("C3", (16, 10, 10), 16 * (6 * 25 + 1), 16 * 6 * 25 * 10 * 10, 14, 2),
        ("S4", (16, 5, 5), 0, 0, 16, 4),
        ("C5", (120,), 120 * (400 + 1), 120 * 400, 28, None),
        ("F6", (84,), 84 * (120 + 1), 84 * 120, 28, None),
        ("output", (10,), 10 * (84 + 1), 10 * 84, 28, None),
    ]
    assert (table.parameters, table.macs) == (61_706, 416_520)


def test_layer_table_every_adds_the_rows_left_out():
    names = [row.name for row in layer_table(lenet5(), (1, 28, 28), every=True).rows]
    assert names == ["C1", "tanh1", "S2", "C3", "relu3", "S4", "flatten", "C5", "F6", "output"]


def test_layer_table_takes_flat_input():
    table = layer_table(nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10)), (784,))
    assert [(r.output, r.macs, r.receptive_field) for r in table.rows] == [
        ((200,), 156_800, None),
        ((10,), 2_000, None),
    ]


def test_layer_table_counts_shared_parameters_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)

        def forward(self, x):
            return self.conv(self.conv(x))

    table = layer_table(Twice(), (2, 8, 8))
    assert [(r.name, r.parameters, r.macs, r.receptive_field) for r in table.rows] == [
        ("conv", 36, 36 * 64, 3),
        ("conv", 0, 36 * 64, 5),
    ]
    assert (table.parameters, table.macs, table.row("conv").parameters) == (36, 2 * 36 * 64, 36)


def test_layer_table_sums_up_what_lies_outside_layers():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unused = nn.Conv2d(1, 2, 3), nn.Linear(5, 5)
            self.weight = nn.Parameter(torch.ones(2, 7))

        def forward(self, x):
            return self.conv(x).mean((2, 3)) @ self.weight

    table = layer_table(Loose(), (1, 8, 8))
    assert [row.name for row in table.rows] == ["conv", "(other)"]
    assert (table.row("(other)").parameters, table.row("(other)").macs) == (14 + 30, 14)
    assert table.parameters == 20 + 44


# ---- layer_table: layers of one's own


class Subsampling(nn.Module):
    """Sum of four, times a coefficient, plus a bias."""

    def __init__(self, channels, declared=True):
        super().__init__()
        self.coefficient, self.bias = (nn.Parameter(torch.ones(channels, 1, 1)) for _ in range(2))
        if declared:
            self.kernel_size = self.stride = 2
            self.macs = lambda shape: shape[0] * shape[1] * shape[2]

    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, c, h // 2, 2, w // 2, 2).sum((3, 5)) * self.coefficient + self.bias


class TableConvolution(nn.Module):
    """Two output maps that read from different inputs: children that must stay hidden in one row."""

    kernel_size, macs = (3, 3), 999

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(1, 1, 3), nn.Conv2d(2, 1, 3)])

    def forward(self, x):
        return torch.cat([self.parts[0](x[:, :1]), self.parts[1](x)], 1)


class Distance(nn.Module):
    """Squared distance to fixed codes: buffers only."""

    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.ones(10, 32))

    def forward(self, x):
        return (x[:, None] - self.codes).square().sum(2)


def test_layer_table_reads_what_custom_layers_declare():
    model = nn.Sequential(Subsampling(2), TableConvolution(), nn.Tanh(), nn.Flatten(), Distance())
    table = layer_table(model, (2, 12, 12))
    found = [(r.kind, r.output, r.parameters, r.macs, r.receptive_field, r.jump) for r in table.rows]
    assert found == [
        ("Subsampling", (2, 6, 6), 4, 72, 2, 2),
        ("TableConvolution", (2, 4, 4), 10 + 19, 999, 6, 2),
        ("Distance", (10,), 0, 0, 12, None),
    ]


def test_layer_table_takes_no_stride_of_a_pooling_as_its_window():
    pooling = Subsampling(1)
    pooling.stride = None
    row = layer_table(nn.Sequential(nn.Conv2d(1, 1, 3), pooling), (1, 8, 8)).rows[-1]
    assert (row.receptive_field, row.jump) == (4, 2)


def test_layer_table_receptive_field_is_unknown_after_undeclared_shrinking():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.Linear(1, 1)

        def forward(self, x):
            return self.fc(self.conv2(F.max_pool2d(self.conv1(x), 2)).flatten(1))

    assert [row.receptive_field for row in layer_table(Functional(), (1, 8, 8)).rows] == [3, None, 8]
    undeclared = nn.Sequential(Subsampling(2, declared=False), nn.Conv2d(2, 2, 3))
    assert [row.receptive_field for row in layer_table(undeclared, (2, 12, 12)).rows] == [None, None]


# ---- layer_table: receptive field


def positive(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    return model.double()


STACKS = {
    "padded": [
        nn.Conv2d(1, 1, 3, padding=1),
        nn.AvgPool2d(2),
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Conv2d(1, 1, 3),
    ],
    "overlapping": [
        nn.Conv2d(1, 1, 7, stride=2),
        nn.AvgPool2d(3, 2),
        nn.ReLU(),
        nn.Conv2d(1, 1, 5, padding="same"),
    ],
    "dilated": [nn.Conv2d(1, 1, 3, dilation=2), nn.Conv2d(1, 1, 3, stride=3, dilation=3), nn.AvgPool2d(2, 1)],
    "uneven pad": [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(1, 1, 4, stride=2), nn.AvgPool2d(3, ceil_mode=True)],
    "adaptive": [nn.Conv2d(1, 1, 2), nn.AdaptiveAvgPool2d(19), nn.Conv2d(1, 1, 3)],
}


@pytest.mark.parametrize("name", STACKS)
def test_layer_table_receptive_field_equals_the_gradient_footprint(name):
    model = positive(nn.Sequential(*STACKS[name]))
    image = torch.ones(1, 1, 77, 77, dtype=torch.double, requires_grad=True)
    output = model(image)[0, 0]
    middle = output.shape[0] // 2

    def footprint(position):
        (gradient,) = torch.autograd.grad(output[position, position], image, retain_graph=True)
        return gradient[0, 0].sum(0).nonzero().flatten()

    first, second = footprint(middle - 1), footprint(middle)
    last = layer_table(model, (1, 77, 77)).rows[-1]
    assert last.receptive_field == first[-1] - first[0] + 1 == second[-1] - second[0] + 1
    assert last.jump == second[0] - first[0]


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(1, 1, (3, 5)), nn.ConvTranspose2d(1, 1, 2, 2), nn.AdaptiveAvgPool2d(5)]
)
def test_layer_table_receptive_field_is_unknown_for_other_windows(layer):
    assert layer_table(nn.Sequential(layer), (1, 8, 8)).rows[0].receptive_field is None


# ---- layer_table: leaves the model alone


class Counting(nn.Module):
    """Changes a buffer in place and replaces another, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("latest", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.latest = x.mean() + 1
        return x


def test_layer_table_returns_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Counting(), nn.Dropout())
    model.train()
    model[1].eval()  # a frozen normalisation inside a model that trains
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    layer_table(model, (3, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)


def test_layer_table_returns_the_model_as_it_was_after_an_error():
    model = lenet5().train()
    with pytest.raises(ValueError, match="passes no further than layer S2"):
        layer_table(model, (1, 8, 8))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layer_table_gives_the_reason_of_an_error_in_one_line():
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("the reason\nand a long trace")

    with pytest.raises(ValueError, match=r"passes no further than the input: the reason$"):
        layer_table(nn.Sequential(Failing()), (1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layer_table_follows_the_dtype_of_the_model(dtype):
    assert str(layer_table(lenet5().to(dtype), (1, 28, 28))) == str(layer_table(lenet5(), (1, 28, 28)))


def test_layer_table_follows_the_device_of_the_model():
    assert str(layer_table(lenet5().to("meta"), (1, 28, 28))) == str(layer_table(lenet5(), (1, 28, 28)))


# ---- layer_table: bad input, and how it looks


@pytest.mark.parametrize("shape", [(28, 28), (1, 1, 28, 28), (1, 28, 0), (1, 28.0, 28), ()])
def test_layer_table_rejects_what_is_no_image_shape(shape):
    with pytest.raises(ValueError, match=r"input_shape must be \(C, H, W\) or \(features,\), got"):
        layer_table(lenet5(), shape)


def test_layer_table_says_in_one_line_where_a_shape_does_not_fit():
    with pytest.raises(
        ValueError, match=r"^\(3, 28, 28\) passes no further than the input: .*channels"
    ) as caught:
        layer_table(lenet5(), (3, 28, 28))
    assert "\n" not in str(caught.value)


def test_layer_table_row_names_the_known_layers():
    with pytest.raises(KeyError, match="no layer 'C9': the table has C1, S2, C3, S4, C5, F6, output"):
        layer_table(lenet5(), (1, 28, 28)).row("C9")


TEXT = """\
Sequential, input 1×28×28
layer   kind       output    parameters     MACs  field (px)  jump (px)
C1      Conv2d     6×28×28          156  117,600           5          1
S2      MaxPool2d  6×14×14            –        –           6          2
C3      Conv2d     16×10×10       2,416  240,000          14          2
S4      MaxPool2d  16×5×5             –        –          16          4
C5      Linear     120           48,120   48,000          28          –
F6      Linear     84            10,164   10,080          28          –
output  Linear     10               850      840          28          –
total                            61,706  416,520"""


def test_layer_table_prints_fixed_text():
    table = layer_table(lenet5(), (1, 28, 28))
    assert str(table) == repr(table) == TEXT


def test_layer_table_html_shows_the_same_values():
    page = BeautifulSoup(layer_table(lenet5(), (1, 28, 28))._repr_html_(), "html.parser")
    lines = [[cell.text for cell in line.find_all(["th", "td"])] for line in page.find_all("tr")]
    title, head, *body = TEXT.splitlines()
    assert page.caption.text == title
    assert [cell["scope"] for cell in page.thead.find_all("th")] == ["col"] * 7
    assert [line.th["scope"] for line in page.tbody.find_all("tr")] == ["row"] * 8
    assert "".join(lines[0]).replace(" ", "") == head.replace(" ", "")
    assert [[cell for cell in line if cell] for line in lines[1:]] == [line.split() for line in body]
