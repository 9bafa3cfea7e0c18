"""Which parameters are named as broken."""

import pytest
import torch
from torch import nn

from helpers.failures import not_finite


@pytest.fixture
def layers():
    """Two layers with gradients, all finite."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model(torch.ones(1, 3)).sum().backward()
    return model


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_not_finite_names_the_parameter_that_holds_such_a_value(layers, value, place):
    assert not_finite(layers) == []
    layers[0].weight.data.view(-1)[place] = value
    assert not_finite(layers) == ["0.weight"]
    assert not_finite(layers, gradients=True) == []


def test_not_finite_looks_at_gradients_and_keeps_the_models_order(layers):
    for parameter in (layers[1].bias, layers[0].bias):
        parameter.grad[0] = torch.nan
    assert not_finite(layers, gradients=True) == ["0.bias", "1.bias"]
    assert not_finite(layers) == []


def test_not_finite_takes_the_largest_floats_and_empty_parameters_for_finite(layers):
    layers[0].weight.data.view(-1)[:2] = torch.tensor([3e38, -3e38])
    layers.register_parameter("none", nn.Parameter(torch.empty(0, 3)))
    assert not_finite(layers) == []
