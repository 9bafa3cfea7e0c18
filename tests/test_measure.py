import numpy as np
import pytest
import torch
from torch import nn

from helpers.measure import mean_and_deviation, signed, training_memory


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


# ---------------------------------------------------------------- numbers as text


@pytest.mark.parametrize(
    ("values", "arguments", "text"),
    [
        ([97.4], {}, "97.40"),
        ([97.4], {"digits": 0, "unit": " %"}, "97 %"),
        ([1, 3], {}, "2.00 ± 1.41"),
        ([0.98, 0.97, 0.96], {"digits": 3, "unit": " points"}, "0.970 ± 0.010 points"),
        ([-3, -1], {"digits": 1}, "−2.0 ± 1.4"),
        (np.array([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), {}, "5.00 ± 2.14"),
        (torch.tensor([1.0, 3.0]), {}, "2.00 ± 1.41"),
        ((value for value in (1, 3)), {}, "2.00 ± 1.41"),
    ],
)
def test_mean_and_deviation_writes_the_mean_and_the_deviation_of_a_sample(values, arguments, text):
    assert mean_and_deviation(values, **arguments) == text


def test_mean_and_deviation_agrees_with_numpy():
    values = np.random.default_rng(0).normal(90, 3, 7)
    assert mean_and_deviation(values, 4) == f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"


def test_mean_and_deviation_needs_a_value():
    with pytest.raises(ValueError, match="no value was given: a mean needs one run or more"):
        mean_and_deviation([])


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.384, 2, "+0.38"),
        (-0.384, 2, "−0.38"),
        (-10, 1, "−10.0"),
        (0.0, 2, "0.00"),
        (-0.004, 2, "0.00"),
        (0.4, 0, "0"),
        (100, 0, "+100"),
        (np.float64(-2.5), 1, "−2.5"),
    ],
)
def test_signed_writes_a_sign_but_for_zero(value, digits, text):
    assert signed(value, digits) == text
