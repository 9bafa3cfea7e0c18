"""The networks drawn. Oracles: LeNet-5 counted by hand, real models' parameters, torchvision's VGG16."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import torchvision
from nbformat.v4 import new_markdown_cell, new_notebook
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import network_stages
import networks

from helpers.shapes import layer_table
from helpers.stamps import load

LENET5 = "01_lenet5 ArticleLeNet5() 1x28x28"
# (window · input maps + bias) · output maps, by hand
BY_HAND = {"C1": 26 * 6, "S2": 0, "C3": 151 * 16, "S4": 0, "C5": 401 * 120, "F6": 121 * 84, "output": 85 * 10}
REQUESTS = re.findall(
    r"```\{network\} (.+)", (Path(networks.__file__).parent.parent / "networks.md").read_text("utf-8")
)


def drawing(request: str) -> ElementTree.Element:
    """The drawing that a request gives, parsed."""
    model, table, shape = network_stages.examine(request)
    found = [network_stages.input_stage(shape), *network_stages.stages(model, table)]
    return ElementTree.fromstring(networks.draw("a", "A network", found, table.parameters))


def texts(root: ElementTree.Element) -> list[str]:
    """The lines of text in a drawing, from top to bottom."""
    return ["".join(tag.itertext()) for tag in root.iter("text")]


# ---- true to the code ----------------------------------------------------------------------------------


def test_drawing_shows_lenet5_as_counted_by_hand():
    lines = texts(drawing(LENET5))
    sizes = ["6×28×28", "6×14×14", "16×10×10", "16×5×5", "120", "84", "10"]
    for (name, parameters), size in zip(BY_HAND.items(), sizes, strict=True):
        place = lines.index(f"{name}{size}")
        if parameters:
            assert lines[place + 2].startswith(f"{parameters:,} parameters, ")
    assert sum(line.count("parameters") for line in lines) == 5


def test_drawing_shows_shares_as_numbers_and_as_bars():
    root = drawing(LENET5)
    shares = [100 * count / sum(BY_HAND.values()) for count in BY_HAND.values() if count]
    shown = [line.split(", ")[1] for line in texts(root) if "parameters" in line]
    assert shown == ["under 1 %", *(f"{share:.0f} %" for share in shares[1:])]
    widths = [float(tag.get("width")) for tag in root.iter("rect")]
    whole, bars = widths[0], widths[1::2]
    assert bars[1:] == pytest.approx([whole * share / 100 for share in shares[1:]], abs=0.06)


@pytest.mark.parametrize("request_", REQUESTS)
def test_drawing_counts_every_parameter_of_the_real_model(request_):
    notebook, call, _ = request_.split()
    real = eval(call, vars(load(notebook)))
    model, table, _ = network_stages.examine(request_)
    expected = sum(p.numel() for p in real.parameters())
    assert sum(stage.parameters for stage in network_stages.stages(model, table)) == expected
    assert table.parameters == expected


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv2d(3, 96, 11, stride=4, padding=2), " 11×11, stride 4, padding 2"),
        (nn.Conv2d(4, 4, 5, padding=2, groups=2), " 5×5, padding 2, 2 groups"),
        (nn.Conv2d(4, 4, (3, 1), padding=(1, 0)), " 3×1, padding 1×0"),
        (nn.Conv2d(4, 4, 3, padding="same"), " 3×3, padding same"),
        (nn.MaxPool2d(2), " 2×2, stride 2"),
        (nn.Linear(2, 2), ""),
        (None, ""),
    ],
)
def test_window_says_what_a_layer_does_to_sizes(layer, words):
    assert network_stages.window(layer) == words


def test_box_size_goes_by_square_roots():
    wide, high, deep, _ = networks.box_size((64, 28, 56))
    assert (wide, high) == pytest.approx((high * 2**0.5, 2 * networks.box_size((1, 7, 7))[1]))
    assert deep == pytest.approx(8 * networks.box_size((1, 1, 1))[2])
    assert networks.box_size((10,)) == networks.box_size((10, 1, 1))


def test_examine_allocates_nothing_unless_the_start_of_the_weights_needs_it():
    devices = [
        {p.device.type for p in network_stages.examine(request)[0].parameters()}
        for request in (LENET5, "01_lenet5 PaperLeNet5() 1x32x32")
    ]
    assert devices == [{"meta"}, {"cpu"}]


# ---- long networks -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg16():
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    return model, layer_table(model, (3, 224, 224))


def test_stages_join_like_neighbours_of_a_long_network(vgg16):
    found = network_stages.stages(*vgg16)
    convolutions = [len(stage.names) for stage in found if "convolution" in stage.kind]
    assert convolutions == [2, 2, 3, 3, 3]
    assert [stage.output for stage in found[-3:]] == [(4096,), (4096,), (1000,)]
    assert sum(stage.parameters for stage in found) == 138_357_544
    assert found[0].words == "2 × convolution 3×3, padding 1"
    assert [stage.label for stage in found if len(stage.names) == 3][-1] == "features.24–28"


def test_drawing_keeps_the_largest_boxes_in_their_column_and_the_text_on_the_page(vgg16):
    found = [network_stages.input_stage((3, 224, 224)), *network_stages.stages(*vgg16)]
    root = ElementTree.fromstring(networks.draw("a", "VGG16", found, vgg16[1].parameters))
    points = [point for tag in root.iter("polygon") for point in tag.get("points").split()]
    across, down = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert min(across) >= 0
    assert max(across) <= networks.TEXT
    assert min(down) >= 0
    assert max(down) <= float(root.get("height"))
    assert max(map(len, texts(root))) <= 42  # about 240 px at 12 px a line


# ---- for everybody -------------------------------------------------------------------------------------


def test_drawing_says_in_words_what_it_shows():
    root = drawing(LENET5)
    ids = {tag.get("id"): tag.text for tag in root if tag.get("id")}
    assert root.get("role") == "img"
    assert ids[root.get("aria-labelledby")] == "A network, drawn layer by layer"
    description = ids[root.get("aria-describedby")]
    assert description.startswith(
        "Input: 1 channel of 28×28 pixels. C1: convolution 5×5, padding 2, output 6×28×28"
    )
    assert description.endswith("Answer: 10 numbers.")
    assert all(f"{name}: " in description for name in BY_HAND)


# ---- the numbers in the text ---------------------------------------------------------------------------


def test_fact_reads_the_table():
    _, table, _ = network_stages.examine(LENET5)
    nbsp = "\N{NO-BREAK SPACE}"
    facts = {"parameters": "61,706", "parameters C1 C3": "2,572", "MACs": "416,520", "layers": "7"}
    facts |= {"share C5": f"78{nbsp}%", "output S4": "16×5×5", "MACs C1": "117,600"}
    assert {wanted: networks.fact(wanted, table) for wanted in facts} == facts


@pytest.mark.parametrize(("wanted", "message"), [("weights", "no 'weights'"), ("share C9", "no layer 'C9'")])
def test_fact_names_what_there_is_not(wanted, message):
    _, table, _ = network_stages.examine(LENET5)
    with pytest.raises(ValueError, match=message):
        networks.fact(wanted, table)


# ---- mistakes stop the build ---------------------------------------------------------------------------

WRONG = [
    ("01_lenet5 ArticleLeNet5", "asks for no network"),
    ("09_none Net() 1x28x28", "no notebook is called 09_none"),
    ("01_lenet5 LeNet6() 1x28x28", "no network LeNet6: choose from ArticleLeNet5, .*PaperLeNet5"),
    ("01_lenet5 predict() 1x28x28", "no network predict"),
    ("01_lenet5 ArticleLeNet5(7) 1x28x28", "TypeError"),
    ("01_lenet5 ArticleLeNet5() 1x20x20", "passes no further than layer S4"),
]


@pytest.mark.parametrize(("request_", "message"), WRONG)
def test_examine_says_what_is_wrong_with_a_request(request_, message):
    with pytest.raises(ValueError, match=message):
        network_stages.examine(request_)


def test_build_draws_numbers_and_warns_of_mistakes(build_page):
    good = f"```{{network}} {LENET5}\n:title: LeNet-5\n\n{{{{parameters}}}} parameters.\n```"
    bad = (
        "```{network} 01_lenet5 LeNet6() 1x28x28\n```\n\n```{network} "
        + LENET5
        + "\n:name: b\n\n{{cost}}\n```"
    )
    notebook = new_notebook(cells=[new_markdown_cell("# LeNet")])
    page, warnings = build_page(f"{good}\n\n{bad}", "networks", {"01_lenet5": notebook})
    assert "<p>61,706 parameters.</p>" in page
    assert page.count("<svg") == 1
    assert re.search(r'class="caption-number">Fig. 1 </span>.*LeNet-5: 61,706 parameters, 416,520', page)
    assert "notebook 01_lenet5 has no network LeNet6" in warnings
    assert "a table has no 'cost'" in warnings
    assert len(warnings.strip().splitlines()) == 2
