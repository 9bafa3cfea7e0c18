"""The networks of `05_alexnet`, as tests, benchmarks and other programs load them."""

import math

import pytest
import torch
import torchvision
from torch import nn

from helpers import stamps


@pytest.fixture(scope="module")
def page():
    return stamps.load("05_alexnet")


def weighted(model):
    """The layers with weights, in order."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def count(make):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make().parameters())


def test_networks_have_the_papers_and_the_articles_parameters(page):
    assert count(page.AlexNet) == 60_965_224
    assert count(lambda: page.AlexNet(towers=1)) == 62_378_344
    assert count(page.ArticleAlexNet) == 76_009_832
    assert count(torchvision.models.alexnet) == 61_100_840


@pytest.mark.parametrize("size", [224, 160])
def test_alexnet_with_torchvisions_widths_and_weights_gives_torchvisions_logits(page, size):
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet(num_classes=10).eval()
    ours = page.AlexNet(10, towers=1, widths=(64, 192, 384, 256, 256), norm=False).eval()
    for mine, other in zip(weighted(ours), weighted(theirs), strict=True):
        mine.load_state_dict(other.state_dict())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("size", "alpha", "beta", "k"), [(5, 1e-4, 0.75, 2.0), (11, 1.0, 0.5, 1.0), (3, 0.1, 1.0, 1.0)]
)
def test_normalisation_equals_pytorchs_with_alpha_times_the_window(page, size, alpha, beta, k):
    maps = 30 * torch.randn(2, 16, 5, 4, generator=torch.Generator().manual_seed(0))
    ours = page.LocalResponseNorm(size, alpha, beta, k)(maps)
    theirs = nn.LocalResponseNorm(size, alpha=alpha * size, beta=beta, k=k)(maps)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{}, {"towers": 1}, {"norm": False}, {"overlap": False}, {"activation": torch.tanh}]
)
def test_every_parameter_gets_a_gradient(page, change):
    torch.manual_seed(0)
    model = page.AlexNet(10, widths=(8, 16, 16, 16, 16), hidden=32, **change)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_start_as_in_the_paper_sets_weights_and_the_biases_of_five_layers(page):
    torch.manual_seed(0)
    model = page.start_as_in_the_paper(page.AlexNet(10, hidden=256))
    assert {
        name for name, layer in model.named_children() if hasattr(layer, "bias") and (layer.bias == 1).all()
    } == {
        "conv2",
        "conv4",
        "conv5",
        "fc6",
        "fc7",
    }
    assert all((layer.bias == 0).all() for layer in (model.conv1, model.conv3, model.fc8))
    assert all(layer.weight.std().item() == pytest.approx(0.01, rel=0.05) for layer in weighted(model))


@pytest.mark.parametrize("true_fan_in", [False, True])
def test_start_as_in_the_article_scales_weights_by_the_fan_in_that_is_asked_for(page, true_fan_in):
    torch.manual_seed(0)
    model = page.start_as_in_the_article(
        page.ArticleAlexNet(10, size=64, hidden=256), true_fan_in=true_fan_in
    )
    truncated = 0.8796  # standard deviation of a standard normal distribution cut off at ±2
    for name, inputs in {
        "conv1": 50_176,
        "conv2": 96,
        "conv3": 256,
        "conv4": 384,
        "conv5": 384,
        "fc6": 1024,
    }.items():
        weight = getattr(model, name).weight
        inputs = weight[0].numel() if true_fan_in else inputs
        assert weight.std().item() == pytest.approx(truncated / math.sqrt(inputs), rel=0.03), name
        assert weight.abs().max() <= 2 / math.sqrt(inputs) + 1e-6


def test_article_loss_by_its_formula(page):
    logits, labels = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    once = logits.exp() / logits.exp().sum(1, keepdim=True)
    twice = once.exp() / once.exp().sum(1, keepdim=True)
    for probabilities, softmaxes in ((twice, True), (once, False)):
        losses = -probabilities[torch.arange(6), labels].log()
        torch.testing.assert_close(page.article_loss(logits, labels, twice=softmaxes), losses.sum())
        torch.testing.assert_close(
            page.article_loss(logits, labels, twice=softmaxes, summed=False), losses.mean()
        )
