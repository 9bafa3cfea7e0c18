"""Oracles: the outlines' areas by geometry, scikit-learn's models on the bare pixels."""

import itertools
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from helpers import drawings
from helpers.drawings import CLASSES, PIECE, SHAPES, draw
from helpers.transforms import resize


@pytest.fixture
def draw_only(monkeypatch):
    """`draw_only(name, …)` draws one class only: the same seed gives the same ground, place and colours."""

    def one_class(name, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(drawings, "CLASSES", (name,) * len(CLASSES))
            return draw(*arguments, **options)[0]

    return one_class


@pytest.fixture
def draw_parts(monkeypatch):
    """`draw_parts(count, seed, size)`: the images, each one's ground alone, and what the figure covers."""
    cover_of = drawings._cover

    def parts(count, seed, size):
        covers = []
        with monkeypatch.context() as patch:
            patch.setattr(drawings, "_cover", lambda *a: covers.append(cover_of(*a)) or covers[-1])
            images, _ = draw(count, seed, size)
            patch.setattr(drawings, "_cover", lambda name, x, *_: torch.zeros_like(x))
            ground, _ = draw(count, seed, size)
        return images, ground, torch.stack(covers)

    return parts


@pytest.mark.parametrize(("count", "size"), [(1, 16), (25, 50), (PIECE + 3, 64)])
def test_draw_gives_uint8_colour_images_and_the_classes_in_turn(count, size):
    images, labels = draw(count, seed=0, size=size)
    assert images.shape == (count, 3, size, size)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert labels.tolist() == [i % 10 for i in range(count)]


def test_draw_is_224_pixels_wide_by_default():
    assert draw(1, seed=0)[0].shape == (1, 3, 224, 224)


def test_draw_has_ten_classes_six_of_them_outlines():
    assert len(set(CLASSES)) == 10
    assert CLASSES[:SHAPES] == ("disc", "ring", "square", "triangle", "cross", "star")


def test_draw_repeats_with_the_seed_and_only_with_it():
    images, _ = draw(40, seed=1, size=32)
    assert torch.equal(draw(40, seed=1, size=32)[0], images)
    unlike = (draw(40, seed=2, size=32)[0] != images).flatten(1).float().mean(1)
    assert unlike.min() > 0.9  # every image is another


def test_draw_leaves_torchs_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    images, _ = draw(10, seed=1, size=32)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(draw(10, seed=1, size=32)[0], images)


@pytest.mark.parametrize("count", [PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 7])
def test_draw_of_more_images_begins_with_the_same_whole_pieces(count):
    whole = count // PIECE * PIECE
    longer, _ = draw(3 * PIECE, seed=0, size=16)
    assert torch.equal(draw(count, seed=0, size=16)[0][:whole], longer[:whole])


def test_draw_never_draws_the_same_image_twice():
    images = draw(300, seed=0, size=16)[0].flatten(1).float()
    assert torch.pdist(images).min() > 100


@pytest.mark.parametrize(("count", "size"), [(0, 64), (-1, 64), (1, 15), (1, 0)])
def test_draw_rejects_no_images_and_tiny_ones(count, size):
    with pytest.raises(ValueError, match=rf"draw\({count}, size={size}\): wants an image at least, and 16"):
        draw(count, seed=0, size=size)


# ---- what is on the images

AREAS = {  # in squares of the radius
    "disc": math.pi * 0.85**2,
    "ring": math.pi * (0.95**2 - 0.55**2),
    "square": 1.5**2,
    "triangle": 3 * math.sqrt(3) * 0.5**2,  # of an inscribed circle of radius ½
    "cross": 2 * 1.8 * 0.5 - 0.5**2,  # two bars, their crossing counted once
    "star": math.pi * (0.65**2 + 0.3**2 / 2),  # ½∫(0.65 + 0.3 cos 5φ)²dφ
}


@pytest.mark.parametrize("name", CLASSES)
def test_draw_fills_the_area_that_geometry_gives(name):
    line = torch.linspace(-1.3, 1.3, 1301)
    y, x = torch.meshgrid(line, line, indexing="ij")
    cover = drawings._cover(name, x, y, torch.tensor([[0.01]]), 3.0)
    area = float(cover.sum()) * 0.002**2
    if name in AREAS:
        assert area == pytest.approx(AREAS[name], rel=0.01)
    else:  # a texture covers between a fifth and two thirds of its disc of radius 1
        assert math.pi / 5 < area < 2 * math.pi / 3
    assert cover.min() == 0
    assert cover.max() == 1
    assert cover[torch.hypot(x, y) > 1.1].max() == 0


def test_draw_keeps_each_figure_whole_and_moves_it_about(draw_parts):
    _, _, covers = draw_parts(200, 0, 64)
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert covers[:, border].max() == 0
    line = torch.arange(64) / 63
    weight = covers.sum((1, 2))
    across, down = (covers.sum(axis) @ line / weight for axis in (1, 2))
    for centre in (across, down):
        assert centre.min() < 0.3
        assert centre.max() > 0.7
        assert abs(centre.mean() - 0.5) < 0.05
    shares = weight / 64**2
    assert 0.01 < shares.min() < shares.max() < 0.3


def test_draw_changes_the_image_where_the_figure_is_and_nowhere_else(draw_parts):
    images, ground, covers = draw_parts(40, 0, 64)
    changed = (images != ground).any(1)
    assert not changed[covers == 0].any()
    assert changed[covers > 0.5].float().mean() > 0.99


def test_draw_gives_the_figure_a_colour_well_apart_from_its_ground(draw_parts):
    images, ground, covers = draw_parts(200, 0, 64)
    contrast = (images.float() - ground.float()).abs().mean(1)  # mean of three channels, (N, H, W)
    inside = covers > 0.5
    means = (contrast * inside).sum((1, 2)) / inside.sum((1, 2))
    assert means.mean() > 90
    assert means.min() > 40


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(CLASSES, 2)))
def test_draw_tells_each_two_classes_apart(draw_only, first, second):
    one, other = (draw_only(name, 20, 0, size=64).float() for name in (first, second))
    apart = ((one - other).abs().amax(1) > 40).flatten(1).float().mean(1)  # share of each image's pixels
    assert apart.min() > 0.005
    assert apart.mean() > 0.02


# ---- how hard they are


@pytest.fixture(scope="module")
def pixels():
    """1,500 images to learn from and 500 others of another seed, as rows of 32 × 32 × 3 values."""
    (images, labels), (others, answers) = draw(1500, seed=0, size=64), draw(500, seed=1, size=64)
    rows, questions = (resize(x, 32).flatten(1).numpy() / 255 - 0.5 for x in (images, others))
    return rows, labels.numpy(), questions, answers.numpy()


@pytest.mark.parametrize(
    "model", [LogisticRegression(C=0.01, max_iter=500), KNeighborsClassifier(1)], ids=["linear", "neighbour"]
)
def test_draw_gives_classes_that_pixels_by_themselves_do_not_tell(pixels, model):
    rows, labels, questions, answers = pixels
    model.fit(rows, labels)
    assert model.score(rows, labels) > 0.3  # of the images it has learnt from
    assert model.score(questions, answers) < 0.2  # 0.1 is chance
