import pytest
import torch
from torchvision.transforms import v2

from helpers.transforms import compose, normalize, pad, scale

ALL_PIXELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
PHOTOGRAPHS = torch.randint(
    0, 256, (4, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def test_scale_equals_torchvision_for_all_256_pixels():
    expected = v2.ToDtype(torch.float32, scale=True)(ALL_PIXELS)
    torch.testing.assert_close(scale()(ALL_PIXELS), expected)
    torch.testing.assert_close(scale(-1, 1)(ALL_PIXELS), expected * 2 - 1)


def test_scale_brings_background_and_ink_to_the_papers_values():
    scaled = scale(-0.1, 1.175)(ALL_PIXELS)
    torch.testing.assert_close(scaled.aminmax(), (torch.tensor(-0.1), torch.tensor(1.175)))


def test_scale_with_low_above_high_inverts():
    torch.testing.assert_close(scale(1, 0)(ALL_PIXELS), 1 - scale(0, 1)(ALL_PIXELS))


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, float("inf")), (float("nan"), 1)])
def test_scale_rejects_ends_that_are_equal_or_not_finite(low, high):
    with pytest.raises(ValueError, match="two different finite numbers"):
        scale(low, high)


@pytest.mark.parametrize(
    ("mean", "std"), [(0.1307, 0.3081), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ([0.5], [0.25])]
)
def test_normalize_equals_torchvision(mean, std):
    per_channel = ([v] * 3 if isinstance(v, float) else list(v) * (3 // len(v)) for v in (mean, std))
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*per_channel)])
    torch.testing.assert_close(normalize(mean, std)(PHOTOGRAPHS), reference(PHOTOGRAPHS))


@pytest.mark.parametrize(
    ("mean", "std"), [(0.5, 0), (0.5, -1), (float("nan"), 1), (0, float("inf")), ((0, 0, 0), (1, 1))]
)
def test_normalize_rejects_unusable_means_and_stds(mean, std):
    with pytest.raises(ValueError, match="as many stds as means, all finite and the stds above 0"):
        normalize(mean, std)


def test_normalize_with_three_means_rejects_grey_images():
    with pytest.raises(RuntimeError, match="shape"):
        normalize((0, 0, 0), (1, 1, 1))(ALL_PIXELS)


def test_pad_equals_torchvision():
    images = torch.rand(2, 1, 28, 28)
    padded = pad(2, -0.1)(images)
    assert padded.shape == (2, 1, 32, 32)
    assert torch.equal(padded, v2.Pad(2, fill=-0.1)(images))


@pytest.mark.parametrize("pixels", [-1, 1.5])
def test_pad_rejects_an_impossible_border(pixels):
    with pytest.raises(ValueError, match="whole number of pixels from 0 on"):
        pad(pixels, 0)


def test_pad_rejects_uint8_images():
    with pytest.raises(ValueError, match=r"pad\(2, -0.1\) wants float images, not torch.uint8"):
        pad(2, -0.1)(ALL_PIXELS)


def test_compose_applies_from_left_to_right():
    composed = compose(scale(-0.1, 1.175), pad(2, -0.1), torch.Tensor.double)
    by_hand = v2.Pad(2, fill=-0.1)(v2.ToDtype(torch.float32, scale=True)(ALL_PIXELS) * 1.275 - 0.1)
    assert composed(ALL_PIXELS).dtype == torch.float64
    torch.testing.assert_close(composed(ALL_PIXELS).float(), by_hand)


def test_compose_rejects_nothing_to_do():
    with pytest.raises(ValueError, match="one transform or more"):
        compose()


def halve(images):
    return images / 2


@pytest.mark.parametrize(
    ("transform", "text"),
    [
        (scale(), "scale(0, 1)"),
        (normalize(0.1307, 0.3081), "normalize(0.1307, 0.3081)"),
        (normalize((0.5, 0.25), (1, 2)), "normalize((0.5, 0.25), (1, 2))"),
        (compose(scale(-0.1, 1.175), pad(2, -0.1)), "compose(scale(-0.1, 1.175), pad(2, -0.1))"),
        (compose(scale(), halve), "compose(scale(0, 1), halve)"),
    ],
)
def test_transform_prints_as_the_call_that_made_it(transform, text):
    assert repr(transform) == text


@pytest.mark.parametrize("transform", [scale(0, 2), normalize(0.5, 0.5)])
def test_transform_of_pixels_leaves_its_input_and_rejects_floats(transform):
    images = PHOTOGRAPHS.clone()
    floats = transform(images)
    assert floats.dtype == torch.float32
    assert torch.equal(images, PHOTOGRAPHS)
    with pytest.raises(ValueError, match=r"wants uint8 images, not torch\.float32"):
        transform(floats)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_transform_stays_on_its_device():
    transform = compose(normalize((0.4, 0.5, 0.6), (0.1, 0.2, 0.3)), pad(1, 0.5))
    on_device = transform(PHOTOGRAPHS.cuda())
    assert on_device.is_cuda
    torch.testing.assert_close(on_device.cpu(), transform(PHOTOGRAPHS))
