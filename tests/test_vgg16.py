"""The networks of `06_vgg16`, as tests, benchmarks and other programs load them."""

import hashlib
import math

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import Weights, WeightsEnum

from helpers import stamps

EXACT = {"A": 132_863_336, "B": 133_047_848, "C": 133_638_952, "D": 138_357_544, "E": 143_667_240}
LETTERS = [*EXACT, "A-LRN"]
TORCHVISION = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
NARROW = {"classes": 10, "size": 32, "width_divisor": 16, "hidden": 32}


@pytest.fixture(scope="module")
def page():
    return stamps.load("06_vgg16")


@pytest.fixture
def narrow(page):
    """A narrow net D with lively weights, in evaluation mode."""
    torch.manual_seed(0)
    return page.start(page.VGG("D", **NARROW), "kaiming").eval()


def images(count=2, height=32, width=None):
    return torch.randn(count, 3, height, width or height, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("letter", EXACT)
def test_networks_have_the_papers_parameters(page, letter):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in page.VGG(letter).parameters()) == EXACT[letter]


def test_response_normalisation_adds_no_parameters(page):
    with torch.device("meta"):
        plain, normalised = page.VGG("A"), page.VGG("A-LRN")
    assert list(plain.state_dict()) == list(normalised.state_dict())
    names = [name for name, _ in normalised.named_children()]
    assert names[names.index("lrn1") - 1 : names.index("lrn1") + 2] == ["relu1_1", "lrn1", "pool1"]


def test_response_normalisation_is_alexnets(page):
    layer = page.VGG("A-LRN", **NARROW).lrn1
    maps = 30 * torch.randn(1, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    squares = (maps[0, 1:6, 0, 0] ** 2).sum()  # of map 3's neighbours, two to either side
    expected = maps[0, 3, 0, 0] / (2 + 1e-4 * squares) ** 0.75
    torch.testing.assert_close(layer(maps)[0, 3, 0, 0], expected)


@pytest.mark.parametrize("letter", LETTERS)
def test_convolutions_keep_the_size_whatever_their_window(page, letter):
    with torch.device("meta"):
        model = page.VGG(letter)
        answers = torch.empty(1, 3, 224, 224)
        for name, layer in model.named_children():
            before, answers = answers, layer(answers)
            if name.startswith("conv"):
                assert layer.padding == ((1, 1) if layer.kernel_size == (3, 3) else (0, 0))
                assert answers.shape[2:] == before.shape[2:]
        assert answers.shape == (1, 1000)


def test_net_c_has_three_layers_of_one_by_one(page):
    with torch.device("meta"):
        model = page.VGG("C")
    ones = [name for name, m in page.weighted(model).items() if getattr(m, "kernel_size", None) == (1, 1)]
    assert ones == ["conv3_3", "conv4_3", "conv5_3"]


@pytest.mark.parametrize("letter", TORCHVISION)
def test_torchvisions_weights_give_torchvisions_logits_at_full_width(page, letter):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, TORCHVISION[letter])(init_weights=False).eval()
        ours = page.VGG(letter).eval()
    theirs = theirs.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            bound = math.sqrt(6 / parameter[0].numel()) if parameter.ndim > 1 else 0.1
            parameter.uniform_(-bound, bound, generator=generator)
    # Both share one copy of the weights: half a gigabyte.
    ours.load_state_dict(page.from_torchvision(ours, theirs.state_dict()), assign=True)
    picture = images(1, 224)
    with torch.no_grad():
        expected = theirs(picture)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(picture), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert page.to_torchvision(ours).keys() == theirs.state_dict().keys()
    theirs.load_state_dict(page.to_torchvision(ours))


@pytest.mark.parametrize("letter", TORCHVISION)
def test_batch_norm_layers_have_torchvisions_names_and_shapes(page, letter):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"{TORCHVISION[letter]}_bn")(init_weights=False)
        ours = page.VGG(letter, batch_norm=True)
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in page.to_torchvision(ours).items()} == shapes


def test_state_dict_survives_the_way_there_and_back(page, narrow):
    back = page.from_torchvision(narrow, page.to_torchvision(narrow))
    assert list(back) == list(narrow.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in narrow.state_dict().items())


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_parameter_gets_a_gradient(page, letter, batch_norm):
    torch.manual_seed(0)
    model = page.start(page.VGG(letter, **NARROW, batch_norm=batch_norm), "kaiming")
    nn.functional.cross_entropy(model(images(8)), torch.arange(8)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_row_of_ones_own_is_built_as_it_reads(page):
    row = "5-64 | 5-128 | 7-256 | 3-512 1-512 | 3-512"
    model = page.VGG(row, **NARROW)
    windows = [
        layer.kernel_size[0] for layer in page.weighted(model).values() if hasattr(layer, "kernel_size")
    ]
    assert windows == [5, 5, 7, 3, 1, 3]
    assert model(images()).shape == (2, 10)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("naive", lambda fan_in, fan_out: 0.01),
        ("paper", lambda fan_in, fan_out: 0.1),
        ("glorot", lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
        ("kaiming", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
    ],
)
def test_start_draws_weights_of_the_right_spread_and_no_biases(page, how, expected):
    torch.manual_seed(0)
    model = page.start(page.VGG("A", 10, size=32, width_divisor=4, hidden=128), how)
    for name, layer in page.weighted(model).items():
        fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel()
        std = expected(layer.weight[0].numel(), fan_out)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.15), name
        assert abs(layer.weight.mean().item()) < 0.2 * std, name
        assert not layer.bias.any(), name


def test_start_names_what_it_does_not_know(page):
    with pytest.raises(KeyError, match="magic"):
        page.start(page.VGG("A", **NARROW), "magic")


def test_start_from_copies_seven_layers_and_leaves_the_rest(page, narrow):
    trained = page.VGG("A", **NARROW)
    before = {name: layer.weight.clone() for name, layer in page.weighted(narrow).items()}
    page.start_from(narrow, trained)
    copied = [
        name for name, layer in page.weighted(narrow).items() if not torch.equal(layer.weight, before[name])
    ]
    assert copied == ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"]
    assert all(torch.equal(getattr(narrow, name).bias, getattr(trained, name).bias) for name in copied)
    assert narrow.fc8.weight.data_ptr() != trained.fc8.weight.data_ptr(), "a copy, not a share"


def test_features_are_the_layers_answers(page, narrow):
    batch = images()
    with torch.no_grad():
        found = narrow.features(batch, "relu7", "pool5")
        assert found.keys() == {"pool5", "relu7"}
        assert found["pool5"].shape == (2, 32, 1, 1)
        torch.testing.assert_close(narrow.fc8(found["relu7"]), narrow(batch))


def test_features_name_a_layer_that_there_is_not(narrow):
    with pytest.raises(KeyError, match="pool6"):
        narrow.features(images(), "pool5", "pool6")


@pytest.mark.parametrize("size", [32, 64, 224])
def test_dense_layers_as_convolutions_give_the_crops_logits(page, size):
    torch.manual_seed(0)
    model = page.start(page.VGG("A", **{**NARROW, "size": size}), "kaiming").eval()
    dense = page.to_convolutions(model)
    with torch.no_grad():
        maps, logits = dense(images(2, size)), model(images(2, size))
        wider = dense(images(1, size + 32, size + 64))
    assert maps.shape == (2, 10, 1, 1)
    torch.testing.assert_close(maps[:, :, 0, 0], logits, atol=1e-5, rtol=1e-5)
    assert wider.shape == (1, 10, 2, 3)


def test_dense_network_answers_for_each_place_of_the_last_maps(page, narrow):
    picture = images(1, 64, 96)
    with torch.no_grad():
        answers = page.to_convolutions(narrow)(picture)
        last = narrow.features(picture, "pool5")["pool5"]  # (1, 32, 2, 3)
        by_place = narrow.fc6(last.permute(0, 2, 3, 1))
        by_place = narrow.fc8(narrow.fc7(by_place.relu()).relu()).permute(0, 3, 1, 2)
    torch.testing.assert_close(answers, by_place, atol=1e-5, rtol=1e-5)


def test_dense_network_shares_the_models_weights_and_mode(page, narrow):
    dense = page.to_convolutions(narrow)
    assert dense.fc6.weight.data_ptr() == narrow.fc6.weight.data_ptr()
    assert not dense.training
    assert page.to_convolutions(narrow.train()).training


def test_dense_evaluation_averages_probabilities_and_does_not_mind_mirroring(page, narrow):
    dense, batch = page.DenseEvaluation(narrow, (32, 48, 64)).eval(), images(2, 64)
    with torch.no_grad():
        found = dense(batch)
        torch.testing.assert_close(dense(batch.flip(-1)), found, atol=1e-5, rtol=1e-5)
        single = page.DenseEvaluation(narrow, (64,)).eval()(batch).exp()
        network = page.to_convolutions(narrow)
        views = [network(view).mean((2, 3)).softmax(1) for view in (batch, batch.flip(-1))]
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2))
    torch.testing.assert_close(single, sum(views) / 2)


@pytest.fixture
def published(page, narrow, tmp_path, monkeypatch):
    """A function that publishes a small network's weights as torchvision does, and says where they go."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    whole = tmp_path / "whole.pth"
    torch.save(page.to_torchvision(narrow), whole)
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()

    def publish(prefix=digest[:8]):
        file = tmp_path / f"vgg16-{prefix}.pth"
        file.write_bytes(whole.read_bytes())
        weights = WeightsEnum("Published", {"V1": Weights(url=file.as_uri(), transforms=None, meta={})}).V1
        return weights, file, tmp_path / "home" / "hub" / "checkpoints" / file.name

    return publish


def test_pretrained_weights_give_the_same_network(page, narrow, published, capsys):
    weights, file, cached = published()
    state = page.pretrained(weights)
    fresh = page.VGG("D", **NARROW).eval()
    fresh.load_state_dict(page.from_torchvision(fresh, state))
    with torch.no_grad():
        assert torch.equal(fresh(images()), narrow(images()))
    assert cached.exists()
    file.unlink()
    assert page.pretrained(weights).keys() == state.keys(), "from the cache"
    assert capsys.readouterr() == ("", "")


def test_pretrained_refuses_a_download_of_another_hash(page, published, capsys):
    weights, _, cached = published(prefix="01234567")
    assert page.pretrained(weights) is None
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "hash" in told
    assert "vgg16-01234567.pth" in told
    assert not cached.exists()


def test_pretrained_refuses_a_cached_file_of_another_hash(page, published, capsys):
    weights, file, cached = published()
    cached.parent.mkdir(parents=True)
    cached.write_bytes(file.read_bytes()[:-1])
    assert page.pretrained(weights) is None
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "sha256" in told
    assert "delete it" in told


def test_pretrained_says_in_one_line_that_it_cannot_download(page, published, capsys):
    weights, file, _ = published()
    file.unlink()
    assert page.pretrained(weights) is None
    told = capsys.readouterr()
    assert told.out.count("\n") == 1
    assert "going on with the weights trained here" in told.out
    assert told.err == ""
