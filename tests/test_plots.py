"""The artists are inspected, not pixels; the numbers they should hold come from NumPy and by hand."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from helpers import plots


@pytest.fixture(autouse=True)
def own_style():
    """Each test in the course's style, its figures closed, the default style restored."""
    with matplotlib.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def labels():
    return {"xlabel": "step", "ylabel": "loss (nats)"}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


# ---- style


def test_use_style_sets_white_background_palette_and_text_size():
    figure, ax = plt.subplots()
    lines = [ax.plot([0, 1])[0] for _ in range(2 * len(plots.PALETTE))]
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    assert [line.get_color() for line in lines] == list(plots.PALETTE) * 2
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)
    assert min(text.get_fontsize() for text in ax.get_xticklabels()) >= 12


def test_palette_stands_out_from_white():
    contrast = [1.05 / (luminance(colour) + 0.05) for colour in plots.PALETTE]
    assert min(contrast) > 2  # Okabe & Ito's yellow has 1.3
    assert contrast[0] > 4.5  # the colours of one and two series read as text does
    assert contrast[1] > 3


# ---- curves


def test_curves_draws_each_series_with_label_and_units():
    series = {"train": ([0, 1, 2], [3.0, 2.0, 1.0]), "test": (range(2), torch.tensor([2.5, 1.5]))}
    ax = plots.curves(series, title="Losses", **labels())
    assert [list(line.get_ydata()) for line in ax.lines] == [[3, 2, 1], [2.5, 1.5]]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1, 2], [0, 1]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["train", "test"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("step", "loss (nats)", "Losses")


def test_curves_draws_a_single_series_without_legend():
    assert plots.curves({"loss": ([0, 1], [1, 0])}, **labels()).get_legend() is None


def test_curves_smooths_by_a_centred_running_mean_over_the_raw_line():
    ax = plots.curves({"loss": ([0, 10, 20, 30, 40], [1, 2, 6, 4, 11])}, smooth=3, **labels())
    mean, raw = ax.lines
    np.testing.assert_allclose(mean.get_xdata(), [10, 20, 30])
    np.testing.assert_allclose(mean.get_ydata(), [3, 4, 7])
    assert list(raw.get_ydata()) == [1, 2, 6, 4, 11]
    assert raw.get_color() == mean.get_color()
    assert raw.get_alpha() < 0.5
    assert raw.get_zorder() < mean.get_zorder()


def test_curves_hides_raw_lines_of_several_smoothed_series():
    two = {name: (range(5), range(5)) for name in "ab"}
    assert len(plots.curves(two, smooth=3, **labels()).lines) == 2


def test_curves_draws_a_band_of_one_deviation():
    ax = plots.curves({"mean": ([0, 1], [5, 6], [1, 2])}, **labels())
    corners = {tuple(point) for point in ax.collections[0].get_paths()[0].vertices.tolist()}
    assert {(0, 4), (0, 6), (1, 4), (1, 8)} <= corners


@pytest.mark.parametrize(
    ("log", "scales"),
    [("", ("linear", "linear")), ("x", ("log", "linear")), ("y", ("linear", "log")), ("xy", ("log", "log"))],
)
def test_curves_sets_logarithmic_axes(log, scales):
    ax = plots.curves({"loss": ([1, 10], [1, 10])}, log=log, **labels())
    assert (ax.get_xscale(), ax.get_yscale()) == scales


def test_curves_writes_steps_with_thousands_separators():
    ax = plots.curves({"loss": ([0, 50_000], [1, 0])}, **labels())
    ax.figure.canvas.draw()
    assert "50,000" in [tick.get_text() for tick in ax.get_xticklabels()]


def test_curves_draws_on_the_axes_given():
    _, (left, right) = plt.subplots(1, 2)
    assert plots.curves({"loss": ([0, 1], [1, 0])}, ax=right, **labels()) is right
    assert (len(left.lines), len(right.lines)) == (0, 1)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_curves_keeps_title_legend_and_lines_apart(count):
    series = {f"a rather long label {i}": (range(9), range(9)) for i in range(count)}
    ax = plots.curves(series, title="Title", **labels())
    ax.figure.canvas.draw()
    title, box = ax._left_title.get_window_extent(), ax.get_window_extent()
    above = ax.get_legend().get_window_extent() if count > 1 else box
    assert box.y1 <= above.y1 <= title.y0
    assert title.y1 <= ax.figure.bbox.y1
    assert above.x1 <= ax.figure.bbox.x1


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        ({}, {}, "curves needs a series"),
        ({"loss": ([0, 1], [1])}, {}, "series 'loss' must be"),
        ({"loss": ([0, 1],)}, {}, "must be .x, y. or .x, y, sd."),
        ({"loss": ([], [])}, {}, "must be .x, y."),
        ({"loss": (np.ones((2, 2)), np.ones((2, 2)))}, {}, "must be .x, y."),
        ({"loss": ([0, 1], [1, 0])}, {"smooth": 3}, "has 2 points: smooth=3"),
        ({"loss": ([0, 1], [1, 0])}, {"smooth": -1}, "smooth=-1"),
        ({"loss": ([0, 1], [1, 0])}, {"log": "z"}, "got .'loss'., 'z'"),
    ],
)
def test_curves_rejects_bad_input(series, options, message):
    with pytest.raises(ValueError, match=message):
        plots.curves(series, **labels(), **options)


# ---- image_grid


def pixels(ax):
    return [np.asarray(image.get_array()) for image in ax.images]


def test_image_grid_shows_every_picture_in_reading_order():
    images = torch.arange(5 * 4 * 6, dtype=torch.uint8).reshape(5, 1, 4, 6)
    ax = plots.image_grid(images, columns=3)
    np.testing.assert_allclose(pixels(ax), images[:, 0].numpy() / 255)
    tops = [image.get_extent()[3] for image in ax.images]
    lefts = [image.get_extent()[0] for image in ax.images]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4]
    assert lefts[0] == lefts[3] < lefts[1] == lefts[4] < lefts[2]
    left, right, bottom, top = ax.images[0].get_extent()
    assert (bottom - top) / (right - left) == pytest.approx(4 / 6)


def test_image_grid_turns_channels_first_into_colours():
    images = torch.zeros(1, 3, 4, 4)
    images[:, 0] = 1
    assert np.array_equal(pixels(plots.image_grid(images))[0], np.tile((1.0, 0.0, 0.0), (4, 4, 1)))


def test_image_grid_takes_pictures_without_channels():
    images = np.random.default_rng(0).random((2, 5, 5))
    np.testing.assert_allclose(pixels(plots.image_grid(images)), images)


def test_image_grid_stretches_floats_only_outside_0_to_1():
    np.testing.assert_allclose(pixels(plots.image_grid(torch.tensor([[[0.25, 0.5]]])))[0], [[0.25, 0.5]])
    np.testing.assert_allclose(pixels(plots.image_grid(torch.tensor([[[-1.0, 0.0, 1.0]]])))[0], [[0, 0.5, 1]])
    assert np.isfinite(pixels(plots.image_grid(torch.full((1, 2, 2), 7.0)))[0]).all()


def test_image_grid_shows_one_grey_scale_for_all_pictures():
    limits = {
        image.get_clim() for image in plots.image_grid(torch.rand(3, 4, 4) * torch.ones(3, 1, 1)).images
    }
    assert limits == {(0, 1)}


def test_image_grid_marks_wrong_pictures_by_frame_and_bold_title():
    ax = plots.image_grid(torch.zeros(3, 4, 4), ["7", "4 → 9", "1"], wrong=torch.tensor([False, True, False]))
    assert [text.get_text() for text in ax.texts] == ["7", "4 → 9", "1"]
    assert [text.get_weight() for text in ax.texts] == ["normal", "bold", "normal"]
    (frame,) = ax.patches
    assert frame.get_x() == ax.images[1].get_extent()[0]
    assert frame.get_linewidth() >= 3


def test_image_grid_leaves_room_for_titles_of_two_lines():
    ax = plots.image_grid(torch.zeros(4, 4, 4), ["cassette\nplayer"] * 4, columns=2)
    ax.figure.canvas.draw()
    for text, image in zip(ax.texts, ax.images, strict=True):
        box = text.get_window_extent()
        assert box.y0 >= image.get_window_extent().y1
        assert not any(box.overlaps(other.get_window_extent()) for other in ax.images)
        assert box.y1 <= ax.figure.bbox.y1


def test_image_grid_is_never_wider_than_a_page():
    for count in (1, 3, 8, 20):
        width, _ = plots.image_grid(torch.zeros(count, 4, 4)).figure.get_size_inches()
        assert width <= plots.WIDTH


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 4), {}, r"images must be \(N, 1 or 3, H, W\) or \(N, H, W\): got \(4, 4\)"),
        ((1, 2, 4, 4), {}, r"got \(1, 2, 4, 4\)"),
        ((0, 1, 4, 4), {}, r"got \(0, 1, 4, 4\)"),
        ((2, 4, 4), {"titles": ["a"]}, "2 pictures go with 2 titles"),
        ((2, 4, 4), {"wrong": [True]}, "2 pictures go with 2 titles and marks"),
        ((2, 4, 4), {"columns": 0}, "columns ≥ 1"),
    ],
)
def test_image_grid_rejects_bad_input(shape, options, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(torch.zeros(shape), **options)


def test_image_grid_rejects_values_that_are_not_finite():
    with pytest.raises(ValueError, match="images must be finite"):
        plots.image_grid(torch.full((1, 4, 4), float("nan")))


# ---- filters, feature_maps


def test_filters_scales_each_filter_by_its_own_peak_around_zero():
    weight = torch.tensor([[[[1.0, -2.0]]], [[[0.1, 0.0]]], [[[0.0, 0.0]]]], requires_grad=True)
    ax = plots.filters(weight)
    np.testing.assert_allclose(pixels(ax), [[[0.5, -1]], [[1, 0]], [[0, 0]]], rtol=1e-6)
    assert {image.get_clim() for image in ax.images} == {(-1, 1)}
    red, _, blue, _ = ax.images[0].cmap(1.0)
    assert red > blue  # red is positive
    assert min(ax.images[0].cmap(0.5)) > 0.95  # white is 0


def test_filters_shows_three_channels_as_colours_around_grey():
    weight = torch.zeros(1, 3, 1, 2)
    weight[0, :, 0, 1] = torch.tensor([4.0, -4.0, 2.0])
    np.testing.assert_allclose(pixels(plots.filters(weight))[0], [[[0.5, 0.5, 0.5], [1, 0, 0.75]]])


@pytest.mark.parametrize("shape", [(16, 6, 5, 5), (6, 5, 5), (0, 1, 5, 5)])
def test_filters_rejects_other_shapes(shape):
    with pytest.raises(ValueError, match=r"weight must be \(O, 1 or 3, kH, kW\)"):
        plots.filters(torch.zeros(shape))


def test_feature_maps_shows_every_channel_on_one_scale():
    maps = torch.tensor([[[0.0, 1.0]], [[-3.0, 5.0]]])
    ax = plots.feature_maps(maps, ["map 0", "map 1"])
    np.testing.assert_allclose(pixels(ax), maps.numpy())
    assert {image.get_clim() for image in ax.images} == {(-3, 5)}
    assert [text.get_text() for text in ax.texts] == ["map 0", "map 1"]


def test_feature_maps_shows_maps_of_one_pixel():
    assert len(plots.feature_maps(torch.rand(120, 1, 1), columns=20).images) == 120


@pytest.mark.parametrize("shape", [(1, 6, 14, 14), (14, 14), (6, 0, 14)])
def test_feature_maps_rejects_other_shapes(shape):
    with pytest.raises(ValueError, match=r"maps must be \(C, H, W\), a layer's output for one image"):
        plots.feature_maps(torch.zeros(shape))


# ---- confusion


def test_confusion_writes_counts_with_true_classes_as_rows():
    matrix = torch.tensor([[90, 10, 0], [0, 1200, 0], [1, 2, 3]])
    ax = plots.confusion(matrix, ("cat", "dog", "owl"), title="Animals")
    assert [text.get_text() for text in ax.texts] == ["90", "10", "0", "0", "1200", "0", "1", "2", "3"]
    assert ax.texts[1].get_position() == (1, 0)  # column 1, row 0: a cat taken for a dog
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["cat", "dog", "owl"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("predicted", "true", "Animals")
    assert ax.yaxis_inverted()  # the first class on top


def test_confusion_shades_by_share_of_the_true_class():
    ax = plots.confusion([[90, 10], [0, 0]], ("a", "b"))
    np.testing.assert_allclose(pixels(ax)[0], [[0.9, 0.1], [0, 0]])


@pytest.mark.parametrize("thousandths", range(0, 1001, 50))
def test_confusion_counts_stand_out_from_their_shade(thousandths):
    ax = plots.confusion([[thousandths, 1000 - thousandths], [0, 1]], ("a", "b"))
    image = ax.images[0]
    shade = luminance(image.cmap(image.norm(thousandths / 1000)))
    ink = luminance(ax.texts[0].get_color())
    assert (max(shade, ink) + 0.05) / (min(shade, ink) + 0.05) > 3


def test_confusion_draws_on_the_axes_given():
    _, ax = plt.subplots()
    assert plots.confusion([[1]], ("a",), ax=ax) is ax


@pytest.mark.parametrize(
    "matrix", [[[1, 2]], [[1, 0], [0, -1]], [[0.5, 0.5], [1, 0]], [[float("nan"), 0], [0, 1]], [[1]]]
)
def test_confusion_rejects_what_is_no_matrix_of_counts(matrix):
    with pytest.raises(ValueError, match=r"matrix must be \(2, 2\), one class each way, of whole counts"):
        plots.confusion(matrix, ("a", "b"))


# ---- all


@pytest.mark.filterwarnings("error")
def test_figures_save_small_and_without_a_warning():
    noise = np.random.default_rng(0).normal(0, 0.1, 50_000)
    distance = np.hypot(*np.mgrid[-14:14, -14:14])
    digits = [np.exp(-((distance - radius) ** 2) / 4) for radius in np.linspace(0, 12, 64)]  # soft rings
    photographs = torch.rand(16, 3, 14, 14).repeat_interleave(16, 2).repeat_interleave(16, 3)
    counts = np.full((10, 10), 7) + 1000 * np.eye(10, dtype=int)
    axes = [
        plots.curves({"loss": (range(50_000), 2 + noise)}, smooth=500, title="Loss", **labels()),
        plots.image_grid(np.stack(digits), ["4 → 9"] * 64, wrong=[True] * 64),
        plots.image_grid(photographs),
        plots.filters(torch.randn(96, 3, 11, 11), columns=12),
        plots.feature_maps(torch.rand(16, 10, 10)),
        plots.confusion(counts, [f"class number {i}" for i in range(10)]),
    ]
    for ax in axes:
        png = io.BytesIO()
        ax.figure.savefig(png, bbox_inches="tight")
        assert len(png.getvalue()) < 120_000


def test_figures_are_left_for_the_notebook_to_show(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("shown"))
    plots.curves({"loss": ([0, 1], [1, 0])}, **labels())
    plots.filters(torch.ones(1, 1, 3, 3))
    plots.confusion([[1]], ("a",))
    assert len(plt.get_fignums()) == 3
