import pytest
import torch
from torch import nn

from helpers.measure import training_memory


def test_training_memory_of_a_linear_layer_is_worked_out_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    images = torch.zeros(8, 1, 4, 4)
    weights = (16 * 10 + 10) * 4
    log_softmax = 8 * 10 * 4  # what cross-entropy keeps besides the labels
    labels = 8 * 8
    total_weight = 4  # nll_loss keeps the sum of the class weights
    expected = 2 * weights + 8 * 16 * 4 + log_softmax + labels + total_weight
    assert training_memory(model, images) == expected
    assert training_memory(model, images, states=2) == expected + 2 * weights


def test_training_memory_grows_by_the_relu_output_it_keeps():
    images = torch.zeros(8, 1, 4, 4)
    narrow = training_memory(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)), images
    )
    wide = training_memory(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10)), images
    )
    weights = 4 * (16 * 32 + 32 + 32 * 10)
    activation = 8 * 32 * 4
    assert wide - narrow == 2 * weights + activation


def test_training_memory_leaves_mode_and_gradients_alone():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 10)).eval()
    training_memory(model, torch.zeros(2, 1, 4, 4))
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_training_memory_rejects_negative_states():
    with pytest.raises(ValueError, match="states=-1"):
        training_memory(nn.Linear(1, 1), torch.zeros(1, 1), states=-1)
