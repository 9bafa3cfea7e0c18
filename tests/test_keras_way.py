"""The Keras networks are those of the notebooks: with the same weights they give the same logits.

They need TensorFlow: `.venv-bench/bin/python -m pytest tests/test_keras_way.py` after `make bench`.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
pytest.importorskip("tensorflow", reason="Keras and TensorFlow are only in .venv-bench, see make bench")
import images
import keras_way
import recipes
from task import Task

NAMES = [name for name, own in recipes.RECIPES.items() if own.model in keras_way.NETWORKS]


def lend_weights(network, model):
    """Copy torch's weights into the Keras model, layer by layer."""
    theirs = [layer for layer in model.layers if layer.weights]
    ours = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    maps = None  # of the last convolution
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        weight = ours_.weight.detach()
        if isinstance(ours_, nn.Conv2d):
            weight, maps = weight.permute(2, 3, 1, 0), len(weight)
        else:
            if maps:  # the first dense layer reads maps: torch (C, H, W), Keras (H, W, C)
                side = round((weight.shape[1] / maps) ** 0.5)
                weight = weight.reshape(-1, maps, side, side).permute(0, 2, 3, 1).flatten(1)
                maps = None
            weight = weight.T
        theirs_.set_weights([weight.numpy(), ours_.bias.detach().numpy()])


@pytest.mark.parametrize("name", NAMES)
def test_keras_network_gives_the_logits_of_the_notebook(name):
    recipe = recipes.recipe(name)
    network = Task(recipe, {}).model().eval()
    model = keras_way.build(recipe)
    lend_weights(network, model)
    inputs = torch.rand(2, *recipe.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(inputs)
    found = torch.from_numpy(np.array(model(inputs.permute(0, 2, 3, 1).numpy(), training=False)))
    if name == "MLP":  # ends in log-softmax; Keras has that in its loss
        found = found.log_softmax(1)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()) + 1e-6)


@pytest.mark.parametrize("name", ["LeNet-5 (Keras)", "PyTorch CNN"])
def test_float_images_are_what_fit_sees(monkeypatch, tmp_path, name):
    monkeypatch.setattr(images, "FOLDER", tmp_path)
    recipe = recipes.recipe(name, count=20)
    images.make(recipe)
    task = Task(recipe, {})
    pixels, labels = keras_way.float_images(recipe)
    assert np.allclose(np.moveaxis(pixels, -1, 1), task.transform()(task.images().images).numpy(), atol=1e-5)
    assert np.array_equal(labels, task.images().labels.numpy())


def test_prepare_trains_whole_passes_or_a_part_of_one(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "FOLDER", tmp_path)
    recipe = recipes.recipe("MLP", count=1000)
    images.make(recipe)
    run, parameters = keras_way.prepare(recipe)
    assert parameters == 199_210
    assert run(3)[1] == 600
    assert run(10)[1] == 2000
    assert run(1)[0] > 0
