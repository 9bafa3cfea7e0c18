"""Misuse of `fit` and `evaluate`: one line that says what to do, before a weight has changed."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_training import CLASSES, image_set, momentum, network, same, train
from torch import nn
from torch.optim import lr_scheduler

from helpers.data import Splits, digits
from helpers.training import evaluate
from helpers.transforms import center_crop, compose, scale


def refused(complaint, model=None, kind=ValueError, **options):
    """`fit` says this, in one line, and leaves weights, modes and random state as they were."""
    model = network() if model is None else model
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    optimizer = options.pop("optimizer", None) or momentum(model)
    with pytest.raises(kind, match=complaint) as caught:
        train(model, optimizer=optimizer, **options)
    assert "\n" not in str(caught.value)
    assert same(
        {k: v for k, v in model.state_dict().items() if "running" not in k and "num_" not in k},
        {k: v for k, v in before.items() if "running" not in k and "num_" not in k},
    )
    return random


# ---------------------------------------------------------------- the reader's images stay as they are


def occlude(images):
    images[:, :, 1:4, 1:4] = 0
    return scale()(images)


def flip_labels(logits, labels):
    labels.fill_(0)
    return F.cross_entropy(logits, labels)


@pytest.mark.parametrize("batch_size", [5, 1000])
@pytest.mark.parametrize("how", [{"transform": occlude}, {"transform": scale(), "loss_fn": flip_labels}])
def test_evaluate_hands_nothing_of_the_set_to_be_written_into(how, batch_size):
    data = image_set()
    images, labels = data.images.clone(), data.labels.clone()
    evaluate(network(), data, batch_size=batch_size, **how)
    assert torch.equal(data.images, images)
    assert torch.equal(data.labels, labels)


@pytest.mark.parametrize(
    "how", [{"transform": occlude}, {"val_transform": occlude}, {"loss_fn": flip_labels}]
)
@pytest.mark.parametrize("batch_size", [5, 23, 1000])
def test_fit_hands_nothing_of_the_sets_to_be_written_into(how, batch_size):
    data, val = image_set(), image_set(7, seed=1)
    kept = [tensor.clone() for one in (data, val) for tensor in (one.images, one.labels)]
    train(data=data, val=val, batch_size=batch_size, shuffle=False, epochs=2, **how)
    now = [tensor for one in (data, val) for tensor in (one.images, one.labels)]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


def test_hook_that_writes_into_its_batch_leaves_the_set_alone():
    data = image_set()
    before = data.images.clone()
    train(
        data=data,
        transform=center_crop(6),
        model=nn.Sequential(Floats(), network()),
        hooks=[(1, lambda state: state.images.zero_())],
    )
    assert torch.equal(data.images, before)


class Floats(nn.Module):
    def forward(self, images):
        return images.float() / 255


def test_centre_is_a_copy():
    data = image_set()
    before = data.images.clone()
    center_crop(6)(data.images).zero_()
    compose(center_crop(4), scale())(data.images).zero_()
    assert torch.equal(data.images, before)


# ---------------------------------------------------------------- parts that belong together


def test_fit_refuses_an_optimizer_of_another_network():
    refused("updates 6 of 6 parameters that are not this model's", optimizer=momentum(network()))


def test_fit_refuses_an_optimizer_from_before_a_layer_was_replaced():
    model = network()
    optimizer = momentum(model)
    model[5] = nn.Linear(64, CLASSES)
    refused("updates 2 of 6 parameters that are not this model's", model, optimizer=optimizer)


def test_fit_takes_an_optimizer_of_some_layers_and_of_the_loss():
    model, loss = network(), WeightedLoss()
    optimizer = torch.optim.SGD([*model[5].parameters(), *loss.parameters()], lr=0.1)
    assert train(model, optimizer=optimizer, loss_fn=loss).steps == 13


class WeightedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, logits, labels):
        return F.cross_entropy(logits * self.temperature, labels)


def test_fit_refuses_an_optimizer_of_frozen_parameters_and_what_is_none():
    model = network().requires_grad_(False)
    refused("all parameters of the optimizer are frozen", model)
    refused("one of torch.optim, .* not str", optimizer="sgd")
    refused(
        "LBFGS wants its closure at each step",
        model := network(),
        optimizer=torch.optim.LBFGS(model.parameters()),
    )


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda own, other: lr_scheduler.StepLR(other, 3), "belongs to another optimizer"),
        (
            lambda own, other: lr_scheduler.OneCycleLR(other, 0.1, total_steps=99),
            "belongs to another optimizer",
        ),
        (lambda own, other: lr_scheduler.ReduceLROnPlateau(own), "ReduceLROnPlateau wants its metrics"),
        (
            lambda own, other: lr_scheduler.OneCycleLR(own, 0.1, total_steps=9),
            r"after 9 steps.*total_steps=13",
        ),
        (lambda own, other: lr_scheduler.StepLR, "must be one of torch.optim.lr_scheduler"),
        (lambda own, other: 0.1, "must be one of torch.optim.lr_scheduler"),
    ],
)
def test_fit_refuses_a_scheduler_that_can_not_go_with_the_optimizer(build, complaint):
    model = network()
    optimizer = momentum(model)
    refused(complaint, model, optimizer=optimizer, scheduler=build(optimizer, momentum(network())))


@pytest.mark.parametrize(
    "build",
    [
        lambda own: lr_scheduler.ChainedScheduler(
            [lr_scheduler.StepLR(own, 3), lr_scheduler.ConstantLR(own)]
        ),
        lambda own: lr_scheduler.SequentialLR(
            own, [lr_scheduler.StepLR(own, 3), lr_scheduler.ConstantLR(own)], [4]
        ),
        lambda own: lr_scheduler.OneCycleLR(own, 0.1, total_steps=13),
        lambda own: lr_scheduler.CosineAnnealingLR(own, 13),
    ],
)
def test_fit_takes_every_scheduler_of_steps(build):
    model = network()
    optimizer = momentum(model)
    assert train(model, optimizer=optimizer, scheduler=build(optimizer)).steps == 13


def test_fit_compares_the_classes_of_training_and_validation():
    refused(r"other classes than 'noise' \(3 where that has 4\)", val=image_set(7, classes=3))


@pytest.mark.parametrize("outputs", [1, CLASSES - 1])
def test_outputs_and_classes_are_compared(outputs):
    model = network(classes=outputs)
    refused(f"has {outputs} outputs, 'noise' has 4 classes: its last layer needs 4", model)
    with pytest.raises(ValueError, match="its last layer needs 4"):
        evaluate(model, image_set(), transform=scale())


def test_more_outputs_than_classes_are_taken():
    assert train(network(classes=CLASSES + 3)).steps == 13


# ---------------------------------------------------------------- what goes in and comes out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"data": digits()}, r"train must be an ImageSet, .* not Splits: take one of its parts"),
        ({"data": torch.zeros(3, 1, 6, 6)}, "train must be an ImageSet, .* not Tensor"),
        ({"val": digits()}, "val must be an ImageSet, .* not Splits"),
        ({"batch_size": 5.0}, r"batch_size=5\.0: use a whole number"),
        ({"steps": "13"}, "steps='13': use a whole number"),
        ({"steps": None, "epochs": 1.5}, r"epochs=1\.5: use a whole number"),
        ({"val_batch_size": None}, "val_batch_size=None: use a whole number"),
        ({"hooks": [print]}, r"hooks must be pairs .* hooks=\[\(100, note\)\]"),
        ({"hooks": (100, print)}, "hooks must be pairs"),
        ({"hooks": print}, "hooks must be pairs"),
        ({"transform": None}, "the transform must be a function, as scale"),
        ({"transform": lambda images: images.numpy()}, "must return a tensor, not ndarray"),
        (
            {"transform": lambda images: images},
            r"layer 0, Conv2d.*uint8 \(5, 1, 6, 6\): begin the transform with",
        ),
        ({"transform": lambda images: scale()(images)[:2]}, "makes 2 images of 5"),
        (
            {"transform": lambda images: scale()(images).repeat(1, 3, 1, 1)},
            r"layer 0, Conv2d.*\(5, 3, 6, 6\)",
        ),
        (
            {"transform": compose(center_crop(5), scale())},
            r"layer 5, Linear.* does not take float32 \(5, 36\)",
        ),
        ({"val": image_set(7), "val_transform": compose(center_crop(5), scale())}, "layer 5, Linear"),
        ({"loss_fn": nn.BCEWithLogitsLoss()}, r"can't take logits float32 \(5, 4\) and labels int64 \(5\,\)"),
        ({"loss_fn": nn.CrossEntropyLoss(reduction="none")}, r"one number, the mean .* not float32 \(5,\)"),
        ({"loss_fn": lambda logits, labels: 1.0}, "one number, the mean .* not float"),
        ({"loss_fn": lambda logits, labels: F.cross_entropy(logits.detach(), labels)}, "no gradient leads"),
    ],
)
def test_fit_says_what_is_wrong_before_a_weight_changes(options, complaint):
    refused(complaint, **options)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3)), r"logits \(N, K\).* not float32 \(5, 4, 4, 4\)"),
        (nn.Sequential(nn.Conv2d(1, 4, 9), nn.Flatten()), "layer 0, Conv2d.*Kernel size can't be greater"),
    ],
)
def test_fit_says_what_is_wrong_with_a_network(model, complaint):
    refused(complaint, model)


@pytest.mark.parametrize(
    ("model", "complaint"), [(nn.ReLU, r"class ReLU: call it"), (len, "torch.nn.Module")]
)
def test_what_is_no_network_is_refused(model, complaint):
    with pytest.raises(ValueError, match=complaint):
        train(model, optimizer=momentum(network()))
    with pytest.raises(ValueError, match=complaint):
        evaluate(model, image_set(), transform=scale())


def test_numpy_counts_are_whole_numbers():
    assert train(steps=np.int64(3), batch_size=np.int64(5)).steps == 3


def test_validation_is_tried_before_the_first_step_and_leaves_the_random_state():
    losses = [train(network(), val=val).loss for val in (None, image_set(7))]
    assert losses[0] == losses[1]


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("path", ["", ".", "/proc/nowhere/run.pt", "~nobody-of-that-name/run.pt"])
def test_checkpoint_that_can_not_be_written_is_refused_at_once(path):
    refused(
        "checkpoint=.*(names no file|can't be written|is a folder)", checkpoint=path, checkpoint_every=1000
    )


def test_checkpoint_below_a_file_or_on_a_folder_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused("can't be written", checkpoint=tmp_path / "file" / "run.pt")
    refused("is a folder: name a file in it", checkpoint=tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_checkpoint_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    train(checkpoint="~/runs/run.pt")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run.pt"]


def test_parts_are_of_a_splits():
    assert isinstance(digits(), Splits)
