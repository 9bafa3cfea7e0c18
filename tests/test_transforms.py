import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from helpers import transforms
from helpers.transforms import (
    center_crop,
    compose,
    normalize,
    pad,
    pca_colour,
    random_crop,
    random_flip,
    resize,
    scale,
    ten_crops,
)

ALL_PIXELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
PHOTOGRAPHS = torch.randint(
    0, 256, (4, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def noise(count, height=9, width=7, seed=1):
    """Colour images that no two windows of are alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def tinted(count, seed=2):
    """Colour images whose channels go together, as in photographs, and differ in spread."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.tensor([[0.25, 0.1, 0.02], [0.2, 0.0, -0.03], [0.1, -0.1, 0.05]])
    pixels = 0.5 + torch.randn(count, 8, 8, 3, generator=generator) @ mixing.T
    return (pixels.clamp(0, 1) * 255).byte().permute(0, 3, 1, 2)


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


# ---- resize


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1025])
def test_resize_equals_torchvision_on_both_sides_of_a_piece(count):
    images = noise(count, 5, 6)
    small = resize(images, 3)
    expected = v2.functional.resize(images, [3, 3], antialias=True)
    assert small.dtype == torch.uint8
    torch.testing.assert_close(small, expected, rtol=0, atol=1)  # processors round in two ways
    assert abs((small.double() - expected.double()).mean()) < 0.05


@pytest.mark.parametrize(("height", "width", "size"), [(40, 30, 16), (30, 40, 7), (9, 9, 9), (8, 8, 20)])
def test_resize_equals_torchvision_whatever_the_sizes(height, width, size):
    images = noise(3, height, width)
    expected = v2.functional.resize(images, [size, size], antialias=True)
    torch.testing.assert_close(resize(images, size), expected, rtol=0, atol=1)


def test_resize_averages_what_it_shrinks():
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255  # without antialiasing 0 or 255
    grey = resize(checks.byte().expand(2, 1, 64, 64), 8)
    assert grey.shape == (2, 1, 8, 8)
    assert (grey.int() - 128).abs().max() <= 2


@pytest.mark.parametrize(
    ("images", "size", "named"),
    [
        (torch.zeros(2, 3, 8, 8), 4, r"resize to 4 wants .*, not torch\.float32 \(2, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), 4, r"uint8 images \(N, C, H, W\), not .* \(3, 8, 8\)"),
        (PHOTOGRAPHS, 0, "resize to 0 wants ≥ 1 pixel"),
    ],
)
def test_resize_rejects_other_images_and_sizes(images, size, named):
    with pytest.raises(ValueError, match=named):
        resize(images, size)


# ---- random_crop, random_flip


def places(crops, images):
    """Where each crop lies in its own image, found by comparing it with every window: [(top, left), …]."""
    size = crops.shape[-1]
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # (N, C, tops, lefts, size, size)
    found = (windows == crops[:, :, None, None]).all(-1).all(-1).all(1).nonzero().tolist()
    assert [image for image, _, _ in found] == list(range(len(images))), "not one window of each image"
    return [(top, left) for _, top, left in found]


def test_random_crop_takes_a_window_of_each_image_from_all_places_alike():
    images = noise(1500)
    torch.manual_seed(0)
    found = places(random_crop(5)(images), images)
    counts = [found.count(place) for place in itertools.product(range(5), range(3))]
    assert sum(counts) == 1500
    assert 60 < min(counts) <= max(counts) < 140  # 100 expected in each of 15 places, deviation 9.7


def test_random_crop_places_each_image_of_a_batch_for_itself():
    images = noise(1).expand(200, -1, -1, -1)
    torch.manual_seed(0)
    found = places(random_crop(2)(images), images)
    assert len(set(found)) == 8 * 6
    assert len(set(found[:10])) > 5


def test_random_crop_of_the_whole_image_changes_nothing():
    images = noise(4, 8, 8)
    assert torch.equal(random_crop(8)(images), images)


@pytest.mark.parametrize("images", [noise(6), scale()(noise(6))], ids=["uint8", "float"])
def test_random_crop_keeps_the_type(images):
    crops = random_crop(5)(images)
    assert crops.dtype == images.dtype
    assert crops.shape == (6, 3, 5, 5)
    assert random_flip()(random_crop(5)(images[:0])).shape == (0, 3, 5, 5)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_cut_and_mirror_give_what_torchvision_gives_by_either_way(one_by_one):
    """The way of accelerators is tried on a CPU too."""
    images, generator = noise(50), torch.Generator().manual_seed(0)
    top, left = (torch.randint(room, (50, 1), generator=generator) for room in (5, 3))
    turned = torch.rand(50, 1, 1, 1, generator=generator) < 0.5
    cut = transforms._cut(images, top, left, 5, one_by_one=one_by_one)
    mirrored = transforms._mirror(images, turned, one_by_one=one_by_one)
    for place, image in enumerate(images):
        corner = top[place].item(), left[place].item()
        assert torch.equal(cut[place], v2.functional.crop(image, *corner, 5, 5))
        expected = v2.functional.horizontal_flip(image) if turned[place] else image
        assert torch.equal(mirrored[place], expected)


def test_random_flip_mirrors_about_half_of_the_images_each_for_itself():
    images = noise(1000)
    torch.manual_seed(0)
    flipped = random_flip()(images)
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == v2.functional.horizontal_flip(images)).flatten(1).all(1)
    assert torch.equal(kept, ~mirrored)
    assert abs(mirrored.float().mean() - 0.5) < 0.05  # deviation 0.016
    assert 0.4 < (mirrored[1:] == mirrored[:-1]).float().mean() < 0.6  # no pattern along the batch
    assert flipped.dtype == torch.uint8


@pytest.mark.parametrize(
    "transform", [random_crop(4), random_flip(), compose(scale(), pca_colour(tinted(20)))], ids=repr
)
def test_random_transform_repeats_with_the_seed_and_only_then(transform):
    images = noise(50)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(transform(images))
    results.append(transform(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[2], results[3])


# ---- center_crop, ten_crops


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize(("height", "width"), [(9, 7), (8, 10), (7, 7)])
def test_center_crop_equals_torchvision(height, width, size):
    for images in (noise(2, height, width), scale()(noise(2, height, width))):
        expected = v2.functional.center_crop(images, [size, size])
        assert torch.equal(center_crop(size)(images), expected)


@pytest.mark.parametrize(("height", "width", "size"), [(9, 7, 5), (8, 10, 6), (10, 9, 7), (6, 6, 6)])
def test_ten_crops_are_torchvisions_five_and_then_the_same_five_mirrored(height, width, size):
    images = noise(3, height, width)
    crops = ten_crops(images, size)
    five = v2.functional.five_crop(images, [size, size])
    assert crops.shape == (10, 3, 3, size, size)
    for i, expected in enumerate(five):
        assert torch.equal(crops[i], expected)
        assert torch.equal(crops[5 + i], v2.functional.horizontal_flip(expected))


def test_ten_crops_are_torchvisions_ten_with_left_and_right_exchanged_in_the_mirror():
    images = noise(3, 8, 10)
    expected = v2.functional.ten_crop(images, [4, 4])  # mirrors the image, then crops it
    order = [0, 1, 2, 3, 4, 6, 5, 8, 7, 9]
    assert torch.equal(ten_crops(images, 4), torch.stack([expected[i] for i in order]))


@pytest.mark.parametrize("size", [8, 10, 0, -1])
@pytest.mark.parametrize(
    ("name", "crop"),
    [
        ("random_crop", lambda images, size: random_crop(size)(images)),
        ("center_crop", lambda images, size: center_crop(size)(images)),
        ("ten_crops", ten_crops),
    ],
)
def test_crop_rejects_a_size_that_does_not_fit_into_the_images(name, crop, size):
    with pytest.raises(ValueError, match=rf"{name}\({size}\) wants images of that size.*\(4, 3, 9, 7\)"):
        crop(PHOTOGRAPHS, size)


# ---- pca_colour


@pytest.mark.parametrize("std", [(1, 1, 1), (0.2, 0.5, 0.8)])
def test_pca_colour_shifts_have_the_covariance_of_numpys_eigenvectors(std):
    pixels = tinted(150).numpy().transpose(0, 2, 3, 1).reshape(-1, 3) / 255
    values, vectors = np.linalg.eigh(np.cov(pixels, rowvar=False))
    assert values[2] > 4 * values[1] > 16 * values[0]  # three components that a mix-up would show
    expected = sum(value**2 * np.outer(p, p) for value, p in zip(values, vectors.T, strict=True))
    expected *= 0.4**2 / np.outer(std, std)

    count = 40_000
    torch.manual_seed(0)
    shift = pca_colour(tinted(150), sigma=0.4, std=std)(torch.zeros(count, 3, 1, 1))[:, :, 0, 0]
    variances = np.diag(expected)
    mean, covariance = shift.double().mean(0).numpy(), np.cov(shift.double().numpy(), rowvar=False)
    assert (np.abs(mean) < 4 * np.sqrt(variances / count)).all()
    deviation = np.sqrt((np.outer(variances, variances) + expected**2) / count)  # of a measured covariance
    assert (np.abs(covariance - expected) < 4 * deviation).all()


def test_pca_colour_components_are_numpys_and_each_has_its_own_alpha():
    """In the eigenvectors' axes the shifts, each over its λ, are independent draws from N(0, sigma)."""
    pixels = tinted(150).numpy().transpose(0, 2, 3, 1).reshape(-1, 3) / 255
    values, vectors = np.linalg.eigh(np.cov(pixels, rowvar=False))
    torch.manual_seed(0)
    shift = pca_colour(tinted(150), sigma=0.1)(torch.zeros(40_000, 3, 1, 1))[:, :, 0, 0]
    alpha = shift.double().numpy() @ vectors / values
    np.testing.assert_allclose(np.cov(alpha, rowvar=False), 0.01 * np.eye(3), atol=0.0004)


def test_pca_colour_shifts_all_pixels_of_an_image_alike_and_each_image_by_its_own():
    images = scale()(noise(20))
    torch.manual_seed(0)
    shift = pca_colour(tinted(20))(images) - images  # (N, 3, H, W)
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-6)
    colours = shift[:, :, 0, 0]
    assert torch.pdist(colours).min() > 1e-5
    assert colours.abs().max() < 0.1


def test_pca_colour_with_sigma_0_changes_nothing():
    images = scale()(PHOTOGRAPHS)
    assert torch.equal(pca_colour(tinted(20), sigma=0)(images), images)


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (torch.zeros(2, 3, 4, 4), r"torch\.float32 \(2, 3, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), r"torch\.uint8 \(2, 1, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"torch\.uint8 \(3, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), r"torch\.uint8 \(0, 3, 4, 4\)"),
    ],
)
def test_pca_colour_rejects_a_set_that_is_not_of_colour_images(images, given):
    with pytest.raises(ValueError, match=rf"wants a set of uint8 images \(N, 3, H, W\), not {given}"):
        pca_colour(images)


@pytest.mark.parametrize(
    ("sigma", "std"),
    [
        (-0.1, (1, 1, 1)),
        (float("nan"), (1, 1, 1)),
        (float("inf"), (1, 1, 1)),
        (0.1, (1, 1)),
        (0.1, (1, 0, 1)),
        (0.1, (1, -1, 1)),
        (0.1, (1, float("nan"), 1)),
        (0.1, (1, float("inf"), 1)),
    ],
)
def test_pca_colour_rejects_unusable_sigmas_and_stds(sigma, std):
    with pytest.raises(ValueError, match="wants sigma ≥ 0 and three stds above 0, all finite"):
        pca_colour(PHOTOGRAPHS, sigma, std)


def test_pca_colour_rejects_a_batch_of_uint8_or_grey_images():
    transform = pca_colour(PHOTOGRAPHS)
    with pytest.raises(
        ValueError, match=r"pca_colour\(0.1, \(1, 1, 1\)\) wants float images, not torch.uint8"
    ):
        transform(PHOTOGRAPHS)
    with pytest.raises(ValueError, match=r"wants images of three channels, not \(1, 1, 16, 16\)"):
        transform(scale()(ALL_PIXELS))


# ---- compose, and what all have in common


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
        (random_crop(224), "random_crop(224)"),
        (random_flip(), "random_flip()"),
        (center_crop(224), "center_crop(224)"),
        (pca_colour(PHOTOGRAPHS), "pca_colour(0.1, (1, 1, 1))"),
        (pca_colour(PHOTOGRAPHS, 0.2, [0.25, 0.5, 1]), "pca_colour(0.2, (0.25, 0.5, 1))"),
        (compose(random_crop(4), random_flip()), "compose(random_crop(4), random_flip())"),
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


@pytest.mark.parametrize(
    "transform",
    [
        random_crop(5),
        random_flip(),
        center_crop(5),
        pca_colour(tinted(5)),
        lambda images: ten_crops(images, 5),
    ],
    ids=["random_crop", "random_flip", "center_crop", "pca_colour", "ten_crops"],
)
def test_transform_of_floats_leaves_its_input(transform):
    images = PHOTOGRAPHS.float()
    torch.manual_seed(0)
    assert not torch.equal(transform(images), images)
    assert torch.equal(images, PHOTOGRAPHS.float())


@pytest.mark.parametrize("size", [5, 8])
def test_resize_returns_new_images(size):
    images = noise(3, 8, 8)
    small = resize(images, size)
    small.zero_()
    assert torch.equal(images, noise(3, 8, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_transform_stays_on_its_device():
    transform = compose(normalize((0.4, 0.5, 0.6), (0.1, 0.2, 0.3)), pad(1, 0.5))
    on_device = transform(PHOTOGRAPHS.cuda())
    assert on_device.is_cuda
    torch.testing.assert_close(on_device.cpu(), transform(PHOTOGRAPHS))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_transform_draws_on_the_images_device_from_its_generator():
    images = noise(300)
    transform = compose(random_crop(5), random_flip(), scale(), pca_colour(tinted(20)))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = transform(images.cuda())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    assert torch.equal(transform(images.cuda()), first)
    assert first.is_cuda
    crops = random_crop(5)(images.cuda()).cpu()
    assert len(set(places(crops, images))) == 15


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_resize_on_the_device_equals_the_processors():
    images = noise(600, 20, 30)
    on_device = resize(images.cuda(), 9)
    assert on_device.is_cuda
    assert on_device.dtype == torch.uint8
    torch.testing.assert_close(on_device.cpu(), resize(images, 9), rtol=0, atol=1)
