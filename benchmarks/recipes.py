"""What is raced: the course's networks, each with its article's batch, optimizer and scaling, as data.

No torch in here, so that the process that trains with TensorFlow can read it too. The networks themselves
stay in their notebooks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

DIGIT, PICTURE = (1, 28, 28), (3, 256, 256)  # (C, H, W) of the stored uint8 images
PICTURE_SCALING = ("normalize", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's
SGD = {"kind": "SGD", "lr": 0.01, "momentum": 0.9}
PAPER_SGD = SGD | {"weight_decay": 5e-4}


@dataclass(frozen=True)
class Recipe:
    """How one network is trained in all the ways.

    Args:
        notebook: where the network is defined.
        model: its class there.
        arguments: of the class.
        stored: (C, H, W) of the uint8 images in memory.
        size: pixels a side that the network takes: larger stored images are cut at random and mirrored.
        count: number of images in memory.
        batch: images a step.
        optimizer: `kind`, SGD or Adam, and its settings under torch's names.
        scaling: `("scale", low, high)` or `("normalize", mean, std)`, as in `helpers.transforms`.
        border: pixels added around each image.
        loss: `cross_entropy`, `nll_loss` (the network ends in log-softmax), or a function of the notebook.
        target: the article's test accuracy on MNIST (0 to 1), where it is to be had in minutes.
        bf16: whether the notebook trains it with `bf16=True`.
        fused: whether the notebook's optimizer is fused; in `fit` and the bare step it is then, too.
    """

    notebook: str
    model: str
    arguments: dict[str, Any] = field(default_factory=dict)
    stored: tuple[int, int, int] = DIGIT
    size: int = 28
    count: int = 55_000
    batch: int = 100
    optimizer: dict[str, Any] = field(default_factory=lambda: {"kind": "SGD", "lr": 0.001})
    scaling: tuple = ("scale", 0, 1)
    border: int = 0
    loss: str = "cross_entropy"
    target: float | None = None
    bf16: bool = False
    fused: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network takes."""
        side = self.size + 2 * self.border
        return (self.stored[0], side, side)

    @property
    def augmented(self) -> bool:
        """Whether images are cut at random and mirrored."""
        return self.stored[-1] > self.size


RECIPES = {
    "MLP": Recipe(
        "00_pytorch_basics",
        "MLP",
        batch=200,
        optimizer=SGD,
        scaling=("normalize", 0.1307, 0.3081),
        loss="nll_loss",
        target=0.9783,
    ),
    "LeNet-5 (article)": Recipe("01_lenet5", "ArticleLeNet5", target=0.9742),
    "LeNet-5 (paper)": Recipe(
        "01_lenet5",
        "PaperLeNet5",
        optimizer={"kind": "Adam", "lr": 0.01},
        fused=True,
        scaling=("scale", -0.1, 1.175),
        border=2,
        loss="map_loss",
    ),
    "LeNet-5 (Keras)": Recipe(
        "02_lenet5_keras",
        "KerasLeNet5",
        batch=128,
        optimizer={"kind": "Adam", "lr": 0.001, "eps": 1e-7},
        fused=True,
        scaling=("scale", -1, 1),
        target=0.98,
    ),
    "TF guide CNN": Recipe("03_tf_guide_cnn", "GuideNet", bf16=True),
    "PyTorch CNN": Recipe(
        "04_pytorch_cnn",
        "ConvNet",
        optimizer={"kind": "Adam", "lr": 0.001},
        scaling=("normalize", 0.1307, 0.3081),
        target=0.9903,
    ),
    "AlexNet": Recipe(
        "05_alexnet",
        "AlexNet",
        {"classes": 10},
        stored=PICTURE,
        size=224,
        count=256,
        batch=32,
        bf16=True,
        optimizer=PAPER_SGD,
        fused=True,
        scaling=PICTURE_SCALING,
    ),
    "VGG16": Recipe(
        "06_vgg16",
        "VGG",
        {"configuration": "D", "classes": 10},
        stored=PICTURE,
        size=224,
        count=256,
        batch=4,
        bf16=True,
        optimizer=PAPER_SGD | {"lr": 0.001},
        fused=True,
        scaling=PICTURE_SCALING,
    ),
}
# VGG16 as notebook 06 trains it on a CPU: a quarter of the filters, 64 pixels.
SMALL_VGG = replace(
    RECIPES["VGG16"],
    arguments={"configuration": "D", "classes": 10, "size": 64, "width_divisor": 4, "hidden": 1024},
    stored=(3, 73, 73),
    size=64,
    count=2_000,
    batch=32,
)
SMALL_VGG_NAME = "VGG16, a quarter of the filters, 64 pixels"


def recipe(name: str, **changes: Any) -> Recipe:
    """A recipe by its name, or one with changes; `arguments` are added to its own.

    Raises:
        KeyError: there is no such network.
    """
    known = SMALL_VGG if name == SMALL_VGG_NAME else RECIPES[name]
    if "arguments" in changes:
        changes["arguments"] = known.arguments | changes["arguments"]
    return replace(known, **changes)
