import dataclasses
import functools
import gzip
import hashlib
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST

from helpers import data, download
from helpers.data import ImageSet, digits, mnist

REFUSED = "http://127.0.0.1:9/"  # nobody listens there

PIXELS = torch.arange(6 * 2 * 2, dtype=torch.uint8).reshape(6, 1, 2, 2)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def image_set(**changes):
    return ImageSet(
        **{"images": PIXELS, "labels": LABELS, "classes": ("a", "b", "c"), "name": "six"} | changes
    )


# --- ImageSet ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"images": PIXELS.float()},
            r"must be uint8 \(N, C, H, W\), in ImageSet\('six', images torch.float32",
        ),
        ({"images": PIXELS[:, 0]}, "images must be uint8"),
        ({"images": PIXELS.transpose(0, 3)}, "images must be contiguous"),
        ({"labels": LABELS.int()}, "labels must be int64"),
        ({"labels": LABELS[:, None]}, "labels must be int64"),
        ({"labels": LABELS[:5]}, "one label per image"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "an image at least"),
        ({"images": PIXELS.to("meta")}, "must lie on one device"),
        ({"classes": ("a", "b")}, "labels run from 0 to 2, in .* 2 classes"),
        ({"labels": LABELS - 1}, "labels run from -1 to 1"),
    ],
)
def test_image_set_rejects_fields_that_do_not_fit(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        image_set(**changes)


def test_image_set_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        image_set().labels = LABELS


@pytest.mark.parametrize("indices", [[4, 0, 4], torch.tensor([4, 0, 4]), np.array([4, 0, 4], dtype=np.int32)])
def test_image_set_subset_picks_in_the_given_order(indices):
    chosen = image_set().subset(indices)
    assert chosen.images.flatten(1).tolist() == [[16, 17, 18, 19], [0, 1, 2, 3], [16, 17, 18, 19]]
    assert chosen.labels.tolist() == [1, 0, 1]
    assert len(chosen) == 3


@pytest.mark.parametrize("indices", [[6], [-1], [], [0.5], [True, False], [[0]]])
def test_image_set_subset_rejects_indices_that_do_not_fit(indices):
    with pytest.raises(ValueError, match="whole numbers from 0 to 5"):
        image_set().subset(indices)


def test_image_set_join_appends():
    joined = image_set().join(image_set(images=PIXELS + 100, labels=LABELS.flip(0), name="more"))
    assert joined.images[:, 0, 0, 0].tolist() == [0, 4, 8, 12, 16, 20, 100, 104, 108, 112, 116, 120]
    assert joined.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0, 2, 1, 0]
    assert joined.name == "six + more"


@pytest.mark.parametrize("changes", [{"classes": ("x", "b", "c")}, {"images": PIXELS.reshape(6, 1, 1, 4)}])
def test_image_set_join_rejects_another_kind_of_set(changes):
    with pytest.raises(ValueError, match="classes, image size or device differ"):
        image_set().join(image_set(**changes))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_image_set_to_moves_images_and_labels():
    moved = image_set().to("cuda")
    assert moved.images.is_cuda
    assert torch.equal(moved.subset([5]).labels.cpu(), LABELS[5:])


# --- digits -----------------------------------------------------------------------------------------------


def keys_bicubic(size, target):
    """The (target, size) matrix of cubic interpolation, a = −0.75, with the border repeated."""
    matrix = np.zeros((target, size))
    for row in range(target):
        centre = (row + 0.5) * size / target - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - tap)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(tap, 0), size - 1)] += near if x <= 1 else far
    return matrix


def mnist_form_by_hand(scan):
    enlarge = keys_bicubic(8, 20)
    drawn = np.clip(enlarge @ (scan * 255 / 16) @ enlarge.T, 0, 255)
    top, left = (round(14 - centre) for centre in center_of_mass(drawn))
    canvas = np.zeros((28, 28))
    canvas[top : top + 20, left : left + 20] = drawn
    return canvas


def test_digits_are_each_scan_once_in_mnist_form_with_its_label():
    scans = load_digits()
    by_hand = torch.from_numpy(np.stack([mnist_form_by_hand(scan) for scan in scans.images])).float()
    everything = digits().train.join(digits().val).join(digits().test)
    distance, scan = torch.cdist(everything.images.flatten(1).float(), by_hand.flatten(1)).min(1)
    assert distance.max() <= 0.6 * 28  # rounding to whole grey levels moves each of the 28² pixels by 0.5
    assert sorted(scan.tolist()) == list(range(1797))  # so the three parts have no image in common
    assert everything.labels.tolist() == scans.target[scan].tolist()


def test_digits_are_centred_by_mass():
    centres = [center_of_mass(image[0].numpy()) for image in digits().test.images]
    assert np.abs(np.array(centres) - 14).max() <= 0.51


def test_digits_split_is_stratified():
    scans = np.bincount(load_digits().target)
    for part, size in ((digits().train, 1297), (digits().val, 200), (digits().test, 300)):
        assert part.images.shape == (size, 1, 28, 28)
        counts = torch.bincount(part.labels, minlength=10).numpy()
        assert np.abs(counts - scans * size / 1797).max() <= 1


def test_digits_are_the_same_every_time():
    assert digits() is digits()
    again = digits.__wrapped__()
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(again, part).images, getattr(digits(), part).images)


def test_digits_say_what_they_are():
    assert digits().embedded
    assert (digits().name, digits().val.name) == ("embedded digits", "embedded digits validation")
    assert digits().test.classes == tuple("0123456789")


# --- mnist ------------------------------------------------------------------------------------------------


def idx(array):
    """The bytes of an idx file: two zeros, 8 for uint8, the rank, the big-endian sizes, the values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


TRAIN_IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
TEST_IMAGES = np.random.default_rng(1).integers(0, 256, (3, 28, 28))
TINY = {
    "train-images-idx3-ubyte": idx(TRAIN_IMAGES),
    "train-labels-idx1-ubyte": idx(np.array([5, 0, 4, 1, 9, 2])),
    "t10k-images-idx3-ubyte": idx(TEST_IMAGES),
    "t10k-labels-idx1-ubyte": idx(np.array([7, 2, 1])),
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A root folder with six training and three test images, two of the six for validation; no mirror."""
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in TINY.items()}
    monkeypatch.setattr(data, "MNIST_SHA256", checksums)
    monkeypatch.setattr(data, "MNIST_VALIDATION", 2)
    monkeypatch.setattr(data, "MNIST_MIRRORS", (REFUSED,))
    monkeypatch.setattr(download, "SCHEMES", ("http",))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in TINY.items():
        (raw / name).write_bytes(content)
    return tmp_path


@pytest.mark.skipif(not os.environ.get("COURSE_DATA_ROOT"), reason="needs MNIST: COURSE_DATA_ROOT is not set")
def test_mnist_equals_torchvisions_with_the_first_5000_for_validation():
    splits = mnist("real")
    train, test = (MNIST(os.environ["COURSE_DATA_ROOT"], train=train) for train in (True, False))
    for part, images, labels in (
        (splits.train, train.data[5000:], train.targets[5000:]),
        (splits.val, train.data[:5000], train.targets[:5000]),
        (splits.test, test.data, test.targets),
    ):
        assert torch.equal(part.images, images[:, None])
        assert torch.equal(part.labels, labels)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [55_000, 5_000, 10_000]
    assert (splits.name, splits.embedded) == ("MNIST", False)


def test_mnist_reads_idx_files_written_by_hand(tiny):
    splits = mnist("real", tiny)
    assert np.array_equal(splits.val.images[:, 0], TRAIN_IMAGES[:2])
    assert np.array_equal(splits.train.images[:, 0], TRAIN_IMAGES[2:])
    assert np.array_equal(splits.test.images[:, 0], TEST_IMAGES)
    assert [part.labels.tolist() for part in (splits.val, splits.train, splits.test)] == [
        [5, 0],
        [4, 1, 9, 2],
        [7, 2, 1],
    ]


def test_mnist_takes_source_and_folder_from_the_dials(tiny, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_ROOT", str(tiny))
    monkeypatch.setenv("COURSE_DATA", "real")
    assert mnist().test.labels.tolist() == [7, 2, 1]
    monkeypatch.setenv("COURSE_DATA", "embedded")
    assert mnist() is digits()


def test_mnist_rejects_an_unknown_source():
    with pytest.raises(ValueError, match="source='imagenet' is unknown: use one of embedded, real, auto"):
        mnist("imagenet")


@pytest.mark.parametrize("source", ["real", "auto"])
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_mnist_names_a_damaged_file_and_never_uses_it(tiny, source, name, damage):
    file = tiny / "MNIST" / "raw" / name
    file.write_bytes(damage(TINY[name]))
    with pytest.raises(ValueError, match=f"{name} is truncated or altered.*delete it and run again"):
        mnist(source, tiny)
    assert file.read_bytes() == damage(TINY[name])


def test_mnist_with_a_damaged_and_a_missing_file_does_not_fall_back(tiny):
    (tiny / "MNIST" / "raw" / "train-images-idx3-ubyte").unlink()
    (tiny / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is truncated or altered"):
        mnist("auto", tiny)


def test_mnist_real_says_in_one_line_where_it_looked_and_what_to_do(tiny):
    with pytest.raises(FileNotFoundError) as caught:
        mnist("real", tiny / "nowhere")
    message = str(caught.value)
    for part in (
        str(tiny / "nowhere" / "MNIST" / "raw"),
        "127.0.0.1:9: ",
        "COURSE_DATA_ROOT",
        "COURSE_DATA=embedded",
    ):
        assert part in message
    assert "\n" not in message


def test_mnist_auto_goes_on_with_digits_and_says_so_once(tiny, capsys):
    (tiny / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    assert mnist("auto", tiny) is digits()
    assert mnist("auto", tiny) is digits()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "1,797 digits" in printed
    assert "127.0.0.1:9: " in printed
    assert str(tiny) not in printed  # the line is published in notebooks


def test_mnist_embedded_looks_nowhere(monkeypatch):
    monkeypatch.delattr(data, "missing_files")
    assert mnist("embedded", "/nowhere") is digits()


@pytest.fixture
def mirror(tmp_path_factory, monkeypatch):
    """The address of a local server that has the four tiny files."""
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    folder = tmp_path_factory.mktemp("mirror")
    for name, content in TINY.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("source", ["real", "auto"])
def test_mnist_downloads_what_is_missing_from_the_first_mirror_that_works(tiny, mirror, monkeypatch, source):
    monkeypatch.setattr(data, "MNIST_MIRRORS", (REFUSED, mirror))
    assert mnist(source, tiny / "new").test.labels.tolist() == [7, 2, 1]
    stored = {path.name: path.read_bytes() for path in (tiny / "new" / "MNIST" / "raw").glob("*ubyte*")}
    assert stored == TINY
