import contextlib
import copy
import functools
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import nn
from torch.optim import lr_scheduler

from helpers import checkpoints, training
from helpers.data import ImageSet, scale
from helpers.training import count_parameters, evaluate, explain_non_finite, fit
from helpers.transforms import compose, normalize, pca_colour, random_crop, random_flip

COUNT, BATCH, PER_EPOCH = 23, 5, 5  # the last batch of an epoch holds 3 images
CLASSES = 4


def image_set(count=COUNT, seed=0, classes=CLASSES, name="noise"):
    """Noise with three bright pixels that tell the class: learnable, and no two images are alike."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 128, (count, 1, 6, 6), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % classes
    images.flatten(1)[torch.arange(count)[:, None], 3 * labels[:, None] + torch.arange(3)] += 128
    return ImageSet(images, labels, tuple("abcdefghijkl"[:classes]), name)


def network(seed=0, classes=CLASSES, dropout=0.3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, classes),
    )


def momentum(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)


def train(model=None, data=None, optimizer=None, **options):
    model = network() if model is None else model
    options = {"batch_size": BATCH, "transform": scale(), "progress": False} | options
    options |= {} if "epochs" in options else {"steps": options.get("steps", 13)}
    optimizer = momentum(model) if optimizer is None else optimizer
    return fit(model, image_set() if data is None else data, optimizer=optimizer, **options)


def raise_at(step, error=KeyboardInterrupt):
    """A hook that raises after one step."""

    def hook(state):
        if state.step == step:
            raise error

    return (1, hook)


def same(first, second):
    """Whether two nested state dicts are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


# ---------------------------------------------------------------- the loop


@pytest.mark.parametrize("size", [1, 2 * BATCH * 36, 10**6])  # bytes: less than a batch, two batches, all
def test_images_fetched_for_several_steps_at_once_are_those_of_each_step(monkeypatch, size):
    data, seen = image_set(), []
    monkeypatch.setattr(training, "GATHERED_TOGETHER", size)
    train(data=data, hooks=[(1, lambda state: seen.append((state.images, state.labels)))], seed=3)
    order = [
        torch.randperm(COUNT, generator=torch.Generator().manual_seed(3 * 1_000_003 + epoch)).split(BATCH)
        for epoch in range(3)
    ]
    expected = [chosen for epoch in order for chosen in epoch][:13]
    for chosen, (images, labels) in zip(expected, seen, strict=True):
        assert torch.equal(images, scale()(data.images[chosen]))
        assert torch.equal(labels, data.labels[chosen])


def with_bf16(monkeypatch, there=True):
    """Whatever the processor, say that it has instructions for bfloat16, or that it has none."""
    monkeypatch.setattr("helpers.runtime.has_bf16", lambda on=None: there)


def test_fit_in_bf16_equals_autocast_written_by_hand(monkeypatch):
    with_bf16(monkeypatch)
    by_hand, data = network(), image_set()
    by_hand.to(memory_format=torch.channels_last).train()
    optimizer, losses = momentum(by_hand), []
    torch.manual_seed(1)
    for step in range(5):
        chosen = slice(step * BATCH, (step + 1) * BATCH)
        inputs = scale()(data.images[chosen]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = by_hand(inputs)
        assert logits.dtype == torch.bfloat16
        loss = F.cross_entropy(logits.float(), data.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model, seen = network(), []
    torch.manual_seed(1)
    history = train(model, shuffle=False, steps=5, bf16=True, hooks=[(1, seen.append)])
    assert history.loss == losses
    assert same(model.state_dict(), by_hand.state_dict())
    assert {state.logits.dtype for state in seen} == {state.loss.dtype for state in seen} == {torch.float32}
    assert (
        {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}
    )


def test_fit_in_bf16_differs_from_float32_by_little(monkeypatch):
    with_bf16(monkeypatch)
    losses = []
    for bf16 in (False, True):
        torch.manual_seed(1)
        losses.append(train(network(dropout=0.0), bf16=bf16, epochs=2).loss)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_fit_takes_float32_where_the_device_has_no_bf16(monkeypatch):
    with_bf16(monkeypatch, there=False)
    losses = []
    for bf16 in (False, True):
        torch.manual_seed(1)
        losses.append(train(network(), bf16=bf16).loss)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("bf16", [False, True])
def test_fit_leaves_a_network_of_double_precision_at_that(monkeypatch, bf16):
    with_bf16(monkeypatch, there=False)
    seen = []
    how = {"transform": lambda batch: batch.double() / 255, "hooks": [(1, seen.append)], "steps": 2}
    train(network().double(), bf16=bf16, **how)
    assert {state.logits.dtype for state in seen} == {torch.float64}


def test_fit_validates_in_float32(monkeypatch):
    with_bf16(monkeypatch)
    model, val = network(), image_set(seed=1)
    history = train(model, steps=5, bf16=True, val=val)
    assert history.val[-1]["loss"] == evaluate(model, val, transform=scale()).loss


def test_fit_refuses_a_checkpoint_of_another_precision(monkeypatch, tmp_path):
    with_bf16(monkeypatch)
    path = tmp_path / "run.pt"
    train(steps=5, bf16=True, checkpoint=path)
    with pytest.raises(ValueError, match="precision"):
        train(steps=5, checkpoint=path)


def test_fit_in_bf16_goes_on_bit_for_bit_after_an_interruption(monkeypatch, tmp_path):
    with_bf16(monkeypatch)
    histories = []
    for cut in (False, True):
        path = tmp_path / f"{cut}.pt"
        for hooks in [[raise_at(7)], []] if cut else [[]]:
            model = network()
            torch.manual_seed(1)
            with contextlib.suppress(KeyboardInterrupt):
                history = train(model, bf16=True, checkpoint=path, checkpoint_every=3, hooks=hooks)
        histories.append((history.loss, model.state_dict()))
    assert same(*histories)


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_equals_a_loop_written_by_hand(shuffle):
    seen = []
    model, data = network(), image_set()
    optimizer = momentum(model)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
    torch.manual_seed(7)
    history = train(
        model,
        data,
        optimizer,
        scheduler=scheduler,
        shuffle=shuffle,
        hooks=[(1, lambda state: seen.append((state.images, state.labels)))],
    )

    reference = network()
    weights, velocity = list(reference.parameters()), {}
    torch.manual_seed(7)
    losses, accuracies = [], []
    for step, (images, labels) in enumerate(seen):
        logits = reference(images.contiguous())
        loss = -logits.log_softmax(1)[range(len(labels)), labels].mean()
        gradients = torch.autograd.grad(loss, weights)
        losses.append(loss.item())
        accuracies.append((logits.argmax(1) == labels).double().mean().item())
        with torch.no_grad():
            for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                gradient = gradient + 1e-3 * weight
                velocity[i] = 0.9 * velocity[i] + gradient if i in velocity else gradient
                weight -= 0.1 * 0.5 ** (step // 4) * velocity[i]
    assert history.loss == pytest.approx(losses, abs=1e-6)
    assert history.accuracy == pytest.approx(accuracies, abs=1e-6)
    for ours, theirs in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_fit_without_shuffle_takes_the_images_in_their_order_in_every_epoch():
    labels = []
    data = image_set()
    train(data=data, shuffle=False, epochs=2, hooks=[(1, lambda state: labels.extend(state.labels.tolist()))])
    assert labels == data.labels.tolist() * 2


def order_of(seed, epochs=3):
    """Which image fit takes when, read off images that hold their own number."""
    images = torch.arange(COUNT, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 6, 6).contiguous()
    data = ImageSet(images, torch.zeros(COUNT, dtype=torch.int64), ("a",), "numbers")
    order = []
    hook = (1, lambda state: order.append((state.images[:, 0, 0, 0] * 255).round().int().tolist()))
    train(network(classes=1), data, epochs=epochs, seed=seed, hooks=[hook])
    return order


def test_fit_sees_each_image_exactly_once_in_every_epoch():
    batches = order_of(seed=0)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] * 3
    images = [image for batch in batches for image in batch]
    epochs = [images[:COUNT], images[COUNT : 2 * COUNT], images[2 * COUNT :]]
    assert all(Counter(epoch) == Counter(range(COUNT)) for epoch in epochs)
    assert list(range(COUNT)) not in epochs
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_fit_draws_the_same_order_from_the_same_seed_and_another_from_another():
    assert order_of(seed=1) == order_of(seed=1) != order_of(seed=2)


def test_fit_order_does_not_depend_on_what_was_drawn_before():
    torch.manual_seed(0)
    first = order_of(seed=1)
    torch.rand(10)
    assert order_of(seed=1) == first


def test_fit_measures_the_same_history_from_the_same_seeds():
    """Bit for bit, with dropout and validation."""
    first, again = (train(network(), epochs=3, val=image_set(7, seed=1)) for _ in range(2))
    assert len(first.loss) == 3 * PER_EPOCH
    assert len(first.val) == 3
    assert replace(first, seconds=0) == replace(again, seconds=0)
    assert train(network(), epochs=3, seed=1).loss != first.loss


@pytest.mark.parametrize(
    ("length", "steps", "images"),
    [
        ({"steps": 7}, 7, 33),  # 23 of the first epoch, 2 × 5 of the second
        ({"steps": 5}, 5, 23),
        ({"epochs": 1}, 5, 23),
        ({"epochs": 3}, 15, 69),
        ({"epochs": 2, "batch_size": 100}, 2, 46),
        ({"epochs": 2, "batch_size": 1}, 46, 46),
    ],
)
def test_fit_runs_for_the_steps_or_epochs_asked_for_and_counts_images(length, steps, images):
    options = {"batch_size": BATCH} | length
    model = network() if options["batch_size"] > 1 else nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    history = train(model, **options)
    assert history.steps == len(history.accuracy) == steps
    assert history.images == images


def test_fit_gives_every_parameter_a_gradient_and_changes_it():
    model = network()
    before = copy.deepcopy(model.state_dict())
    train(model, steps=1)
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
        assert not torch.equal(parameter, before[name]), name


def test_fit_learns():
    history = train(network(dropout=0), epochs=12)
    assert np.mean(history.loss[:3]) > 1
    assert np.mean(history.loss[-5:]) < 0.1
    assert np.mean(history.accuracy[-5:]) == 1


@pytest.mark.parametrize("mode", [True, False])
def test_fit_trains_in_training_mode_and_leaves_the_model_in_it(mode):
    model = network().train(mode)
    modes = []
    train(model, val=image_set(7), epochs=2, hooks=[(1, lambda state: modes.append(model[4].training))])
    assert modes == [True] * 10
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 0}, "batch_size=0: use 1 or more"),
        ({"batch_size": -5}, "batch_size=-5: use 1 or more"),
        ({"steps": 0}, "steps=0: use 1 or more"),
        ({"steps": -1}, "steps=-1: use 1 or more"),
        ({"epochs": 0}, "epochs=0: use 1 or more"),
        ({"steps": None}, "give steps or epochs"),
        ({"steps": 1, "epochs": 1}, "give steps or epochs"),
        ({"hooks": [(0, print)]}, "between two calls of a hook=0: use 1 or more"),
        ({"checkpoint_every": 0}, "checkpoint_every=0: use 1 or more"),
        ({"val_batch_size": 0}, "val_batch_size=0: use 1 or more"),
    ],
)
def test_fit_rejects_impossible_sizes_before_it_changes_anything(options, complaint):
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=complaint):
        fit(
            model,
            image_set(),
            optimizer=momentum(model),
            transform=scale(),
            progress=False,
            **({"batch_size": BATCH} | ({} if "epochs" in options else {"steps": 3}) | options),
        )
    assert same(model.state_dict(), before)


def test_fit_rejects_a_model_without_parameters():
    with pytest.raises(ValueError, match="the model has no parameters"):
        train(nn.Flatten(), optimizer=momentum(network()))


# ---------------------------------------------------------------- hooks, validation, time


def test_fit_calls_each_hook_at_its_steps_with_step_and_epoch():
    calls = []
    hooks = [
        (every, lambda state, every=every: calls.append((every, state.step, state.epoch))) for every in (3, 4)
    ]
    train(steps=13, hooks=hooks)
    assert calls == [(3, 3, 0), (4, 4, 0), (3, 6, 1), (4, 8, 1), (3, 9, 1), (3, 12, 2), (4, 12, 2)]


def test_fit_shows_hooks_the_batch_and_what_the_model_said_before_its_update():
    model, data, states = network(dropout=0), image_set(), []
    before = copy.deepcopy(model).train()
    history = train(model, data, steps=5, shuffle=False, hooks=[(1, states.append)])
    first, last = states[0], states[-1]
    assert first.model is model
    assert torch.equal(first.images, data.images[:5] / 255)
    assert torch.equal(first.labels, data.labels[:5])
    torch.testing.assert_close(first.logits, before(first.images).detach())
    assert not first.logits.requires_grad
    assert first.loss.item() == pytest.approx(
        metrics.log_loss(first.labels, first.logits.double().softmax(1))
    )
    assert torch.equal(last.images, data.images[20:] / 255)
    assert [state.loss.item() for state in states] == history.loss
    for state, accuracy in zip(states, history.accuracy, strict=True):
        assert accuracy == pytest.approx(metrics.accuracy_score(state.labels, state.logits.argmax(1)))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ({"steps": 12}, [(5, 0), (10, 1), (12, 2)]),
        ({"epochs": 2}, [(5, 0), (10, 1)]),
        ({"steps": 3}, [(3, 0)]),
    ],
)
def test_fit_validates_after_each_epoch_and_at_the_end(length, expected):
    history = train(val=image_set(7), **length)
    assert [(entry["step"], entry["epoch"]) for entry in history.val] == expected


def test_fit_validation_measures_the_validation_set_with_the_model_of_that_moment():
    model, val, copies = network(), image_set(7, seed=5), []
    history = train(
        model, val=val, epochs=2, hooks=[(PER_EPOCH, lambda state: copies.append(copy.deepcopy(model)))]
    )
    for entry, then in zip(history.val, copies, strict=True):
        probabilities = then.eval()(val.images / 255).double().softmax(1).detach().numpy()
        assert entry["loss"] == pytest.approx(metrics.log_loss(val.labels, probabilities), abs=1e-6)
        assert entry["top1"] == pytest.approx(metrics.accuracy_score(val.labels, probabilities.argmax(1)))
    assert history.val[0]["loss"] != history.val[1]["loss"]


def noisy(images):
    """A transform that draws at random, as crops and flips do."""
    return images / 255 + 0.1 * torch.randn(images.shape)


@pytest.mark.parametrize("transform", [scale(-1, 1), noisy], ids=["fixed", "random"])
def test_fit_validation_goes_through_val_transform_and_not_through_transform(transform):
    model, val, copies = network(), image_set(7, seed=5), []
    hook = (PER_EPOCH, lambda state: copies.append(copy.deepcopy(model)))
    history = train(model, val=val, epochs=2, transform=transform, val_transform=scale(2, 0), hooks=[hook])
    for entry, then in zip(history.val, copies, strict=True):
        probabilities = then.eval()(2 - val.images / 127.5).double().softmax(1).detach().numpy()
        assert entry["loss"] == pytest.approx(metrics.log_loss(val.labels, probabilities), abs=1e-6)
        assert entry["top1"] == pytest.approx(metrics.accuracy_score(val.labels, probabilities.argmax(1)))
        other = evaluate(then, val, transform=transform)
        assert abs(other.loss - entry["loss"]) > 1e-3


class Floats(nn.Module):
    def forward(self, images):
        return images.float()


def test_fit_takes_a_val_transform_that_counts_as_false():
    nothing = nn.Sequential()  # has length 0
    val = image_set(7)
    model = nn.Sequential(Floats(), nn.Flatten(), nn.Linear(36, CLASSES))
    entry = train(model, val=val, steps=1, transform=scale(), val_transform=nothing).val[0]
    assert entry["loss"] == pytest.approx(evaluate(model, val, transform=nothing).loss)
    assert entry["loss"] != pytest.approx(evaluate(model, val, transform=scale()).loss)


@pytest.mark.parametrize(("val_batch_size", "passes"), [(3, [3, 3, 1]), (7, [7]), (None, [7])])
def test_fit_shows_the_model_val_batch_size_images_a_pass(val_batch_size, passes):
    seen = []

    class Spy(nn.Flatten):
        def forward(self, images):
            if not self.training:
                seen.append(len(images))
            return super().forward(images)

    options = {} if val_batch_size is None else {"val_batch_size": val_batch_size}
    history = train(nn.Sequential(Spy(), nn.Linear(36, CLASSES)), val=image_set(7), epochs=2, **options)
    assert seen == [2, *passes * 2]  # two images first, so that no error waits for an epoch's end
    assert len(history.val) == 2


def test_fit_trains_the_same_with_and_without_validation():
    assert train(network(), val=image_set(7)).loss == train(network()).loss


def test_fit_trains_the_same_with_and_without_validation_where_its_transform_draws_at_random():
    losses, weights = [], []
    for options in ({}, {"val": image_set(7), "val_transform": scale(), "val_batch_size": 2}):
        model = network()
        torch.manual_seed(0)
        losses.append(train(model, transform=noisy, **options).loss)
        weights.append(model.state_dict())
    assert losses[0] == losses[1]
    assert same(*weights)


def test_fit_counts_the_seconds_of_its_steps_only(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(nn.Linear):
        def forward(self, x):
            now[0] += 0.5 if self.training else 100
            return super().forward(x)

    save = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *a: (now.__setitem__(0, now[0] + 1000), save(*a)))
    model = nn.Sequential(nn.Flatten(), Slow(36, CLASSES))
    history = train(model, val=image_set(7), epochs=3, checkpoint=tmp_path / "run.pt", checkpoint_every=2)
    assert history.seconds == 15 * 0.5
    assert history.images_per_second == 69 / 7.5


def test_fit_shows_one_line_with_time_and_speed_at_the_end(capsys):
    train(progress=True, label="baseline")
    assert re.fullmatch(r"baseline: \d+ s, [\d,]+ images/s\n", capsys.readouterr().out)


def test_fit_is_silent_on_request(capsys):
    train(progress=False)
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_fit_line_says_where_an_interrupted_run_stopped(capsys):
    with pytest.raises(KeyboardInterrupt):
        train(progress=True, hooks=[raise_at(7)])
    assert capsys.readouterr().out == "training: stopped at step 7 of 13 (KeyboardInterrupt)\n"


# ---------------------------------------------------------------- cut and resumed

RECIPES = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}
SCHEDULES = {
    "constant": lambda optimizer: None,
    "steps": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones=[3, 6, 9], gamma=0.5),
    "cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=13),
}


def everything(recipe, schedule, cuts=(), checkpoint=None):
    """All that a run of 13 steps leaves behind, if it is interrupted and taken up again at each cut.

    A cut (saved, stopped) saves checkpoints every `saved` steps and interrupts the run after `stopped`.
    """
    for attempt, (saved, stopped) in enumerate([*cuts, (13, None)]):
        # After an interruption nothing is left but the file: other weights, another random state.
        model = network(seed=attempt)
        optimizer = RECIPES[recipe](model.parameters())
        scheduler = SCHEDULES[schedule](optimizer)
        torch.manual_seed(1000 + attempt)
        with pytest.raises(KeyboardInterrupt) if stopped else contextlib.nullcontext():
            history = train(
                model,
                optimizer=optimizer,
                scheduler=scheduler,
                val=image_set(7),
                checkpoint=checkpoint,
                checkpoint_every=saved,
                hooks=[raise_at(stopped)],
            )
    return {
        "weights": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler and scheduler.state_dict(),
        "history": [history.loss, history.accuracy, history.val, history.images],
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param([(3, 4)], id="first-epoch"),
        pytest.param([(7, 8)], id="mid-epoch"),
        pytest.param([(5, 6)], id="epoch-end"),
        pytest.param([(4, 5)], id="before-uneven-batch"),
        pytest.param([(10, 12)], id="last-epoch"),
        pytest.param([(3, 4), (5, 8), (12, 13)], id="three-cuts"),
    ],
)
@pytest.mark.parametrize(
    ("recipe", "schedule"),
    [("momentum", "constant"), ("momentum", "cycle"), ("adam", "steps"), ("adam", "cycle")],
)
def test_fit_cut_and_resumed_equals_the_uninterrupted_run_bit_for_bit(tmp_path, cuts, recipe, schedule):
    whole = everything(recipe, schedule)
    resumed = everything(recipe, schedule, cuts, checkpoint=tmp_path / "run.pt")
    for part, expected in whole.items():
        assert same(resumed[part], expected), part


def augmented(cuts=(), checkpoint=None):
    """What a run on cropped, flipped and tinted colour images leaves behind; cuts as above."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, 9, 9), dtype=torch.uint8, generator=generator)
    data = ImageSet(images, torch.arange(COUNT) % CLASSES, tuple("abcd"), "colours")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    batches = []
    for attempt, (saved, stopped) in enumerate([*cuts, (13, None)]):
        torch.manual_seed(attempt)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, CLASSES))
        torch.manual_seed(1000 + attempt)
        with pytest.raises(KeyboardInterrupt) if stopped else contextlib.nullcontext():
            history = train(
                model,
                data,
                transform=compose(
                    random_crop(6), random_flip(), normalize(mean, std), pca_colour(images, 0.1, std)
                ),
                val=data,
                val_transform=compose(normalize(mean, std), lambda batch: batch[..., :6, :6]),
                checkpoint=checkpoint,
                checkpoint_every=saved,
                hooks=[(1, lambda state: batches.append(state.images)), raise_at(stopped)],
            )
    return {
        "weights": model.state_dict(),
        "history": [history.loss, history.accuracy, history.val, history.images],
        "random": torch.get_rng_state(),
        "last batch": batches[-1],
    }


@pytest.mark.parametrize("cuts", [[(3, 4)], [(5, 6)], [(3, 4), (7, 8), (12, 13)]])
def test_fit_on_augmented_images_cut_and_resumed_equals_the_uninterrupted_run_bit_for_bit(tmp_path, cuts):
    whole = augmented()
    resumed = augmented(cuts, checkpoint=tmp_path / "run.pt")
    for part, expected in whole.items():
        assert same(resumed[part], expected), part


def test_fit_with_a_checkpoint_trains_as_without(tmp_path):
    whole = everything("adam", "steps")
    assert same(everything("adam", "steps", checkpoint=tmp_path / "run.pt"), whole)


def test_fit_interrupted_before_its_first_checkpoint_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=tmp_path / "run.pt", checkpoint_every=5, hooks=[raise_at(4)])
    assert list(tmp_path.iterdir()) == []


def test_fit_interrupted_while_it_saves_resumes_from_the_checkpoint_before(tmp_path, monkeypatch):
    path, replace, saves = tmp_path / "run.pt", os.replace, []

    def interrupted_the_second_time(*names):
        saves.append(names)
        if len(saves) == 2:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(os, "replace", interrupted_the_second_time)
    model = network()
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train(model, checkpoint=path, checkpoint_every=4)
    steps = []
    other = network(seed=1)
    train(other, checkpoint=path, checkpoint_every=4, hooks=[(1, lambda state: steps.append(state.step))])
    whole = network()
    torch.manual_seed(0)
    train(whole)
    assert steps[0] == 5
    assert same(other.state_dict(), whole.state_dict())


def test_fit_does_not_repeat_a_finished_run(monkeypatch, tmp_path):
    first = network()
    history = train(first, checkpoint=tmp_path / "run.pt", val=image_set(7))
    other, steps = network(seed=1), []
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: 0.0))  # time stands still
    again = train(other, checkpoint=tmp_path / "run.pt", val=image_set(7), hooks=[(1, steps.append)])
    assert steps == []
    assert same(other.state_dict(), first.state_dict())
    assert (again.loss, again.accuracy, again.val) == (history.loss, history.accuracy, history.val)
    assert again.seconds == torch.load(tmp_path / "run.pt", weights_only=True)["seconds"]


def train_on_digits(path, killed_at=0):
    """60 steps of a small network on real digits, saved after each; for the next test and its subprocess."""

    def kill(state):
        if state.step == killed_at:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    from helpers.data import digits

    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(256, 10)
    )
    history = train(
        model,
        digits().train,
        torch.optim.Adam(model.parameters()),
        steps=60,
        batch_size=100,
        checkpoint=path,
        checkpoint_every=1 if path else 1000,
        hooks=[(1, kill)],
    )
    return history, model


def test_fit_killed_by_the_system_resumes_to_the_same_weights(tmp_path):
    path, here = tmp_path / "run.pt", Path(__file__)
    code = (
        f"import sys; sys.path[:0] = {[str(here.parent.parent), str(here.parent)]!r}\n"
        f"import test_training; test_training.train_on_digits({str(path)!r}, killed_at=20)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode != 0
    assert torch.load(path, weights_only=True)["step"] == 19  # killed in step 20, before that was saved
    resumed, model = train_on_digits(path)
    whole, expected = train_on_digits(None)
    assert resumed.loss == whole.loss
    assert same(model.state_dict(), expected.state_dict())


# ---------------------------------------------------------------- checkpoints of other runs


def sgd(**changes):
    return lambda model: torch.optim.SGD(
        model.parameters(), **({"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3} | changes)
    )


def wider_head():
    return nn.Sequential(network()[:5], nn.Linear(64, CLASSES), nn.Linear(CLASSES, CLASSES))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": lambda: network(dropout=0.4)}, r"model: saved .*p=0\.3.*, now .*p=0\.4"),
        ({"model": wider_head}, "model: saved"),
        ({"data": image_set(seed=1)}, "data: saved noise [0-9a-f]{8}, now noise [0-9a-f]{8}"),
        ({"data": image_set(name="other")}, "data: saved noise ([0-9a-f]{8}), now other \\1"),
        ({"transform": scale(-1, 1)}, r"transform: saved scale\(0, 1\) \w{8}, now scale\(-1, 1\) \w{8}"),
        ({"batch_size": 4}, "batch size: saved 5, now 4"),
        ({"steps": 14}, "steps: saved 13, now 14"),
        ({"optimizer": sgd(lr=0.2)}, "optimizer: saved SGD.*'lr': 0.1.*, now SGD.*'lr': 0.2"),
        ({"optimizer": sgd(weight_decay=0.5)}, "saved .*'weight_decay': 0.001.* now .*'weight_decay': 0.5"),
        ({"optimizer": lambda model: torch.optim.Adam(model.parameters())}, "saved SGD.* now Adam"),
        ({"scheduler": lambda o: lr_scheduler.StepLR(o, 5)}, "saved .*'step_size': 4.* now .*'step_size': 5"),
        ({"scheduler": lambda o: None}, "scheduler: saved StepLR.* now NoneType"),
        ({"loss_fn": F.nll_loss}, r"loss function: saved cross_entropy \w{8}, now nll_loss \w{8}"),
        ({"seed": 1}, "seed: saved 0, now 1"),
        ({"shuffle": False}, "shuffle: saved True, now False"),
    ],
)
def test_fit_refuses_the_checkpoint_of_another_run_and_names_the_difference(tmp_path, change, named):
    path = tmp_path / "run.pt"

    def run(*, model=network, optimizer=None, scheduler=None, **options):
        model = model()
        optimizer = (optimizer or sgd())(model)
        scheduler = (scheduler or (lambda o: lr_scheduler.StepLR(o, 4)))(optimizer)
        return train(model, optimizer=optimizer, scheduler=scheduler, checkpoint=path, **options)

    run()
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=named) as caught:
        run(**change)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("the checkpoint belongs to another run (")
    assert message.endswith(f": delete {path} to start anew")
    assert path.read_bytes() == kept
    run()  # still good for its own run


def test_fit_names_all_differences_and_nothing_else(tmp_path):
    train(checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="another run") as caught:
        train(checkpoint=tmp_path / "run.pt", seed=1, steps=14)
    assert re.findall(r"(\w+): saved", str(caught.value)) == ["steps", "seed"]


def halved(images):
    return images.float() / 510


def test_fit_knows_functions_by_their_name_not_by_their_address(tmp_path):
    def loss_of(weight):
        def weighted_loss(logits, labels):
            return F.cross_entropy(logits, labels) * weight

        return weighted_loss

    train(transform=halved, loss_fn=loss_of(1), checkpoint=tmp_path / "run.pt")
    train(network(), transform=halved, loss_fn=loss_of(1), checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"transform: saved halved \w{8}, now scale\(0, 1\) \w{8}"):
        train(network(), loss_fn=loss_of(1), checkpoint=tmp_path / "run.pt")


# ---------------------------------------------------------------- a loss that is not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [1, 4, 5, 9])
def test_fit_stops_at_the_step_with_broken_pixels(step, value):
    calls = []

    def transform(images):
        calls.append(images)
        return scale()(images) if len(calls) < step else torch.full(images.shape, value)

    with pytest.raises(
        FloatingPointError, match=f"^the loss is not finite at step {step}: .*pixels: check the transform$"
    ):
        train(transform=transform)
    assert len(calls) == step


def test_fit_stops_at_the_step_where_the_learning_rate_was_too_high():
    model, batches = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES)), []
    reference = copy.deepcopy(model)
    with pytest.raises(FloatingPointError) as caught:
        train(
            model,
            optimizer=torch.optim.SGD(model.parameters(), lr=3e38),
            hooks=[(1, lambda state: batches.append((state.images, state.labels)))],
        )
    optimizer = torch.optim.SGD(reference.parameters(), lr=3e38)
    for images, labels in batches:  # the same run by hand: only its last loss is broken
        loss = F.cross_entropy(reference(images), labels)
        assert loss.isfinite() == (images is not batches[-1][0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(batches) > 1
    message = str(caught.value)
    assert message.startswith(f"the loss is not finite at step {len(batches)}: ")
    assert message.endswith("lower the learning rate")


def test_fit_blames_the_loss_function_for_the_log_of_zero():
    def log_of_softmax(logits, labels):
        return F.nll_loss(logits.softmax(1).log(), labels)

    model = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    with pytest.raises(FloatingPointError, match=r"at step 1: the logits are finite: .*the log of 0"):
        train(model, transform=scale(0, 5000), loss_fn=log_of_softmax)


def test_fit_leaves_the_last_good_checkpoint_when_the_loss_breaks(tmp_path):
    path, calls = tmp_path / "run.pt", []

    def transform(images):
        calls.append(images)
        return scale()(images) * (float("nan") if len(calls) == 6 else 1)

    with pytest.raises(FloatingPointError, match="step 6"):
        train(transform=transform, checkpoint=path, checkpoint_every=2)
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 4
    assert all(weights.isfinite().all() for weights in saved["model"].values())
    assert saved["losses"].isfinite().all()
    assert list(tmp_path.iterdir()) == [path]


def test_fit_stops_at_a_gradient_that_is_not_finite_and_names_its_layer(tmp_path):
    calls = []

    def breaks_gradients(logits, labels):
        calls.append(labels)
        # sqrt at 0: the value is finite, its gradient is not
        kink = (logits - logits.detach()).pow(2).sum().sqrt() if len(calls) == 4 else 0
        return F.cross_entropy(logits, labels) + kink

    path = tmp_path / "run.pt"
    model = network()
    with pytest.raises(
        FloatingPointError, match=r"^the gradient of 5\.bias is not finite at step 4: .* at 0"
    ):
        train(model, loss_fn=breaks_gradients, checkpoint=path, checkpoint_every=2)
    assert all(weights.isfinite().all() for weights in model.parameters()), "the update was made"
    assert torch.load(path, weights_only=True)["step"] == 2


def test_fit_never_ends_or_saves_with_weights_that_its_last_update_has_broken(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    fast = torch.optim.SGD(model.parameters(), lr=float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"^the weights of 1\.weight are not finite after step 1: lower"
    ):
        train(model, optimizer=fast, steps=1)
    assert list(tmp_path.iterdir()) == []


def test_fit_names_the_first_layer_that_overflows():
    def blow_up(images):
        return scale()(images) * 1e30

    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES))
    with torch.no_grad():
        for layer in model[1:3]:
            layer.weight.fill_(1e5)
    with pytest.raises(FloatingPointError, match=r"at step 1: the outputs of 2 overflow: lower the learning"):
        train(model, transform=blow_up)


def out_of_memory_above(size):
    """A network for which there is not memory enough for more than `size` images at once."""

    def check(_, inputs):
        if len(inputs[0]) > size:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model = network()
    model.register_forward_pre_hook(check)
    return model


@pytest.mark.parametrize(
    ("size", "advice"),
    [(5, "batch_size=5 would fit"), (3, "batch_size=2 would fit"), (0, "not even one image fits")],
)
def test_fit_says_which_batch_would_fit_into_memory(size, advice):
    model = out_of_memory_above(size)
    before = copy.deepcopy(dict(model.named_parameters()))
    complaint = f"^out of memory at step 1 with 10 images: {advice}$"
    with pytest.raises(torch.OutOfMemoryError, match=complaint) as caught:
        train(model, batch_size=10)
    assert caught.value.__context__ is None, "the first error holds the memory of its step"
    assert same(dict(model.named_parameters()), before)


@pytest.mark.parametrize(
    ("size", "advice"),
    [(5, "batch_size=5 would fit"), (3, "batch_size=2 would fit"), (0, "not even one image fits")],
)
@pytest.mark.parametrize("step", [1, 2])
def test_fit_says_so_too_if_the_images_of_a_step_find_no_memory(monkeypatch, size, advice, step):
    picked, select = [], torch.Tensor.index_select

    def choose(images, dimension, chosen):
        if images.dtype == torch.uint8:
            picked.append(len(chosen))
            if len(picked) >= step and len(chosen) > size:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return select(images, dimension, chosen)

    monkeypatch.setattr(training, "GATHERED_TOGETHER", 1)
    monkeypatch.setattr(torch.Tensor, "index_select", choose)
    with pytest.raises(
        torch.OutOfMemoryError, match=f"^out of memory at step {step} with 10 images: {advice}$"
    ):
        train(network(), batch_size=10)
    assert picked[: step + 1] == [10] * step + [5]


def state(step, *, images=0.0, logits=0.0, weights=0.0):
    model = nn.Linear(1, 1)
    nn.init.constant_(model.bias, weights)
    return training.State(
        step,
        0,
        model,
        torch.full((2, 1, 1, 1), images),
        torch.zeros(2, dtype=torch.int64),
        torch.full((2, 3), logits),
        torch.tensor(float("nan")),
    )


NAN = float("nan")


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        (state(1_234, images=NAN, logits=NAN, weights=NAN), "check the transform"),
        (state(1_234, weights=NAN), "the logits are finite"),
        (state(1_234, logits=1e30, weights=NAN), "weights of bias are not finite any more: lower"),
        (state(1_234, logits=NAN, weights=NAN), "weights of bias are not finite any more: lower"),
        (state(1_234, logits=NAN), "the logits overflow: lower the learning rate"),
        (state(1_300, weights=NAN), "weights of bias are not finite any more: lower"),  # looked at late
    ],
)
def test_explain_non_finite_names_step_and_likely_cause(seen, cause):
    message = explain_non_finite(1_234, seen)
    assert message.startswith("the loss is not finite at step 1,234: ")
    assert cause in message
    assert "\n" not in message


# ---------------------------------------------------------------- evaluate


@pytest.fixture(scope="module")
def measured():
    """A network and a set of ten classes that it gets half right."""
    data = image_set(57, classes=10)
    data = ImageSet(data.images, data.labels.roll(1), data.classes, "shifted").join(data)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 10))
    torch.manual_seed(0)
    train(model, image_set(57, classes=10), torch.optim.Adam(model.parameters(), lr=0.02), epochs=12)
    model.eval()
    with torch.no_grad():
        probabilities = model(data.images / 255).double().softmax(1).numpy()
    return model, data, data.labels.numpy(), probabilities


@pytest.mark.parametrize("batch_size", [1, 10, 57, 114, 1000])
def test_evaluate_equals_scikit_learn_whatever_the_batch_size(measured, batch_size):
    model, data, labels, probabilities = measured
    result = evaluate(model, data, transform=scale(), batch_size=batch_size)
    assert result.count == 114
    assert result.loss == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-5)
    assert result.top1 == pytest.approx(metrics.accuracy_score(labels, probabilities.argmax(1)))
    assert result.top5 == pytest.approx(metrics.top_k_accuracy_score(labels, probabilities, k=5))
    assert 0.2 < result.top1 < result.top5 < 1
    assert result.confusion.dtype == torch.int64
    np.testing.assert_array_equal(result.confusion, metrics.confusion_matrix(labels, probabilities.argmax(1)))
    np.testing.assert_array_equal(result.predicted, probabilities.argmax(1))
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-6)


def test_evaluate_counts_every_class_as_top5_when_there_are_fewer():
    result = evaluate(network(), image_set(), transform=scale())
    assert result.top5 == 1
    assert result.top1 < 1


def test_evaluate_averages_the_loss_of_the_caller_over_images(measured):
    model, data, labels, _ = measured
    result = evaluate(
        model, data, transform=scale(), batch_size=50, loss_fn=lambda logits, y: y.float().mean() * 3
    )
    assert result.loss == pytest.approx(3 * labels.mean())


def test_evaluate_restores_the_mode_of_each_layer():
    model = network()
    model[1].eval()  # a frozen normalisation, as in feature extraction
    evaluate(model, image_set(), transform=scale())
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert model.training


def test_evaluate_restores_the_mode_when_the_model_raises():
    class Broken(nn.Linear):
        def forward(self, x):
            assert not self.training
            raise ArithmeticError("no")

    model = Broken(36, CLASSES)
    with pytest.raises(ArithmeticError):
        evaluate(model, image_set(), transform=scale())
    assert model.training


def test_evaluate_uses_neither_dropout_nor_batch_statistics_and_leaves_the_model_as_it_was():
    model = network()
    train(model)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.zero_grad()
    first, again = (evaluate(model, image_set(), transform=scale(), batch_size=size) for size in (23, 2))
    torch.testing.assert_close(first.probabilities, again.probabilities)
    assert same(model.state_dict(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not first.probabilities.requires_grad
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_evaluate_rejects_an_impossible_batch_size(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: use 1 or more"):
        evaluate(network(), image_set(), transform=scale(), batch_size=batch_size)


def test_evaluate_rejects_a_model_without_parameters():
    with pytest.raises(ValueError, match="the model has no parameters"):
        evaluate(nn.Flatten(), image_set(), transform=scale())


def test_count_parameters_counts_what_is_trained():
    model = network()
    assert count_parameters(model) == (9 * 4 + 4) + (4 + 4) + (64 * CLASSES + CLASSES)
    model[0].requires_grad_(False)
    assert count_parameters(model) == (4 + 4) + (64 * CLASSES + CLASSES)
    assert count_parameters(nn.Flatten()) == 0


# ---------------------------------------------------------------- what else makes another run


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"val": image_set(7, seed=2)},
            "validation: saved noise ([0-9a-f]{8}) .*, now noise (?!\\1)[0-9a-f]{8}",
        ),
        ({"val": None}, "validation: saved noise .*, now None"),
        ({"val_transform": scale(-1, 1)}, r"validation: saved .*scale\(0, 1\) .*, now .*scale\(-1, 1\)"),
    ],
)
def test_fit_refuses_a_checkpoint_whose_validation_was_another(tmp_path, change, named):
    path, usual = tmp_path / "run.pt", {"val": image_set(7)}
    train(checkpoint=path, **usual)
    with pytest.raises(ValueError, match=named):
        train(checkpoint=path, **(usual | change))
    train(checkpoint=path, **usual)


class Bent(nn.Module):
    """Two networks that print alike: what differs is a function in `forward`."""

    def __init__(self, bend):
        super().__init__()
        self.layer, self.bend = nn.Linear(36, CLASSES), bend

    def forward(self, images):
        return self.bend(self.layer(images.flatten(1)))


def test_fit_refuses_a_network_whose_code_was_changed_although_it_prints_the_same(tmp_path):
    tanh, relu = Bent(torch.tanh), Bent(torch.relu)
    assert repr(tanh) == repr(relu)
    train(tanh, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"\(model: saved .*code [0-9a-f]{8}, now .*code [0-9a-f]{8}\)"):
        train(relu, checkpoint=tmp_path / "run.pt")


def test_fit_takes_partial_functions_and_tells_their_arguments_apart(tmp_path):
    def loss(smoothing):
        return functools.partial(F.cross_entropy, label_smoothing=smoothing)

    train(loss_fn=loss(0.1), checkpoint=tmp_path / "run.pt")
    train(network(), loss_fn=loss(0.1), checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"loss function: saved cross_entropy \w+, now cross_entropy \w+"):
        train(network(), loss_fn=loss(0.2), checkpoint=tmp_path / "run.pt")
