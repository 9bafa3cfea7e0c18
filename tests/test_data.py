import dataclasses
import functools
import gzip
import hashlib
import os
import re
import shutil
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import center_of_mass
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST, Imagenette

from helpers import data, decoded, download, drawings, runtime
from helpers.data import ImageSet, digits, imagenette, mnist, shapes

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


def alike(one, other):
    """Whether two `Splits` hold the same images and labels under the same names."""
    pairs = [(getattr(one, part), getattr(other, part)) for part in ("train", "val", "test")]
    same = all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)
    names = [[splits.name, splits.embedded, splits.train.name] for splits in (one, other)]
    return same and names[0] == names[1]


@pytest.mark.parametrize("load", [digits, lambda: shapes(10, 10, 10), lambda: mnist("embedded")])
def test_what_a_reader_writes_into_a_set_is_not_met_at_the_next_call(load):
    expected = load().train.images.clone()
    spoilt = load()
    for part in (spoilt.train, spoilt.val, spoilt.test):
        part.images.zero_()
        part.labels.zero_()
    assert torch.equal(load().train.images, expected)
    assert load().test.labels.any()
    assert load().val.images.any()


def test_digits_are_the_same_every_time():
    assert alike(digits(), digits())
    again = data._load_digits.__wrapped__()
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
    assert alike(mnist(), digits())


@pytest.mark.parametrize("name", ["with spaces", "Übungen und 数字", "[ab]*"])
def test_mnist_reads_from_folders_of_any_name(tiny, mirror, monkeypatch, name):
    monkeypatch.setattr(data, "MNIST_MIRRORS", (mirror,))
    monkeypatch.setenv("COURSE_DATA_ROOT", str(tiny / name))
    assert mnist("real").test.labels.tolist() == [7, 2, 1]
    assert len(list((tiny / name / "MNIST" / "raw").iterdir())) >= 4


def test_mnist_auto_goes_on_with_digits_where_the_root_is_read_only(tiny, unwritable, capsys):
    folder, protect = unwritable
    with protect(folder):
        assert alike(mnist("auto", folder), digits())
    assert "can't write to the data folder: Permission denied" in capsys.readouterr().out


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


def test_mnist_unpacks_what_somebody_fetched_by_hand(tiny):
    raw = tiny / "MNIST" / "raw"
    expected = mnist("real", tiny)
    data._load_mnist.cache_clear()
    for file in list(raw.iterdir()):
        (raw / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert alike(mnist("real", tiny), expected)
    assert set(TINY) <= {file.name for file in raw.iterdir()}


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"another file", mtime=0)], ids=["empty", "text", "other"]
)
def test_mnist_says_what_is_wrong_with_a_file_fetched_by_hand(tiny, content):
    name = next(iter(TINY))
    raw = tiny / "MNIST" / "raw"
    (raw / name).unlink()
    (raw / f"{name}.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.gz sent .*; delete it and run again"):
        mnist("real", tiny)


def test_mnist_auto_goes_on_with_digits_and_says_so_once(tiny, capsys):
    (tiny / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    assert alike(mnist("auto", tiny), digits())
    assert alike(mnist("auto", tiny), digits())
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "1,797 digits" in printed
    assert "127.0.0.1:9: " in printed
    assert str(tiny) not in printed  # the line is published in notebooks


def test_mnist_embedded_looks_nowhere(monkeypatch):
    monkeypatch.delattr(data, "missing_files")
    assert alike(mnist("embedded", "/nowhere"), digits())


@pytest.fixture
def mirror_folder(tmp_path_factory):
    """The folder that `mirror` serves."""
    return tmp_path_factory.mktemp("mirror")


@pytest.fixture
def mirror(mirror_folder, monkeypatch):
    """The address of a local server that has the four tiny files."""
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    for name, content in TINY.items():
        (mirror_folder / f"{name}.gz").write_bytes(gzip.compress(content))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=mirror_folder)
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


# --- shapes -----------------------------------------------------------------------------------------------


@pytest.fixture
def seeds_drawn(monkeypatch):
    """Drawings that are blank but for their seed; the list holds what was asked for."""
    asked = []

    def draw(count, seed, size):
        asked.append((count, seed, size))
        return torch.full((count, 3, size, size), seed, dtype=torch.uint8), torch.arange(count) % 10

    monkeypatch.setattr(drawings, "draw", draw)
    data._draw_shapes.cache_clear()
    yield asked
    data._draw_shapes.cache_clear()


def test_shapes_draw_each_part_with_a_seed_of_its_own(seeds_drawn):
    splits = shapes(30, 10, 20)
    assert seeds_drawn == [(30, 0, 224), (10, 1, 224), (20, 2, 224)]
    for seed, (part, role) in enumerate(
        ((splits.train, "train"), (splits.val, "validation"), (splits.test, "test"))
    ):
        assert part.images.unique().tolist() == [seed]
        assert (part.name, part.classes) == (f"embedded shapes {role}", tuple(drawings.CLASSES))
    assert (splits.name, splits.embedded) == ("embedded shapes", True)


def test_shapes_take_their_counts_from_the_budget_where_none_is_given(seeds_drawn, monkeypatch):
    monkeypatch.setattr(data, "IMAGENETTE_SIZE", 2)  # 4,500 images of 224×224 would take 680 MB
    usual = [3000, 500, 1000]
    for budget, counts in (("quick", [200, 50, 100]), ("cpu", usual), ("full", usual)):
        monkeypatch.setenv("COURSE_BUDGET", budget)
        assert [len(part) for part in (shapes().train, shapes().val, shapes().test)] == counts
        assert len(shapes(val=10).val) == 10
        assert len(shapes(val=10).test) == counts[2]


def test_shapes_are_drawn_once(seeds_drawn):
    assert alike(shapes(10, 10, 10), shapes(10, 10, 10))
    assert len(seeds_drawn) == 3


def test_shapes_have_imagenettes_form():
    splits = shapes(20, 10, 10)
    for part, count in ((splits.train, 20), (splits.val, 10), (splits.test, 10)):
        assert part.images.shape == (count, 3, 224, 224)
        assert len(part.classes) == 10
        assert part.images.float().std() > 10
    assert not torch.equal(splits.val.images, splits.test.images)


# --- imagenette -------------------------------------------------------------------------------------------


def photograph(seed, width=64, height=64):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_imagenette(folder, train, test, **size):
    """Ten class folders of `train` and `test` random JPEG files each."""
    for part, count in (("train", train), ("val", test)):
        for label, wnid in enumerate(data.IMAGENETTE_CLASSES):
            (folder / part / wnid).mkdir(parents=True)
            for i in range(count):
                seed = [label, i, part == "train"]
                photograph(seed, **size).save(folder / part / wnid / f"{wnid}_{i}.JPEG")
    return folder


@pytest.fixture
def ette(tmp_path, monkeypatch):
    """A root with a tiny imagenette2-320 of 64×64 pixels, and no download; a class has 5 + 2 images."""
    monkeypatch.setattr(runtime, "PROJECT_ROOT", tmp_path / "project")
    monkeypatch.setattr(data, "IMAGENETTE_ARCHIVE", (f"{REFUSED}imagenette2-320.tgz", "sha256", 1000))
    monkeypatch.setattr(data, "shapes", digits)  # quicker
    monkeypatch.setattr(download, "SCHEMES", ("http",))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "IMAGENETTE_SIZE", 64)
    write_imagenette(tmp_path / "root" / "imagenette2-320", train=5, test=2)
    loaded = data._load_imagenette
    yield tmp_path / "root"
    loaded.cache_clear()


def torchvisions(root, split):
    """Images (N, 3, H, W) and labels as torchvision's own class reads them from imagenette2-320."""
    images, labels = zip(*Imagenette(root, split, "320px"), strict=True)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)


def places_in(images, part):
    """Where the images of a part lie among others; each must be there once."""
    match = (images[None] == part.images[:, None]).flatten(2).all(2)
    assert match.sum(1).tolist() == [1] * len(part)
    return match.int().argmax(1)


def test_imagenette_equals_torchvisions(ette):
    splits = imagenette("real", ette)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [40, 10, 20]
    all_places = []
    for split, parts in {"val": [splits.test], "train": [splits.train, splits.val]}.items():
        images, labels = torchvisions(ette, split)
        for part in parts:
            all_places.append(places_in(images, part))
            assert torch.equal(part.labels, labels[all_places[-1]])
    test, train, val = all_places
    assert sorted(test.tolist()) == list(range(20))
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(50))
    assert sorted(splits.val.labels.tolist()) == list(range(10))


def test_imagenette_mixes_the_classes_the_same_way_each_time(ette):
    first = imagenette("real", ette)
    for part in (first.train, first.test):
        assert part.labels.diff().lt(0).any(), "class by class, labels never fall"
        assert len(part.labels[:10].unique()) > 4  # class by class there would be two, or five
    data._load_imagenette.cache_clear()
    assert torch.equal(imagenette("real", ette).train.labels, first.train.labels)


def test_imagenette_says_what_it_is(ette):
    splits = imagenette("real", ette)
    assert splits.test.classes == tuple(names[0] for names in Imagenette(ette, "val", "320px").classes)
    assert list(data.IMAGENETTE_CLASSES) == sorted(Imagenette._WNID_TO_CLASS)
    assert (splits.name, splits.embedded) == ("Imagenette", False)
    assert splits.val.name == "Imagenette validation"


def test_imagenette_archive_is_torchvisions_and_has_a_sha256():
    address, sha256, _ = data.IMAGENETTE_ARCHIVE
    assert address == Imagenette._ARCHIVES["320px"][0]
    assert re.fullmatch("[0-9a-f]{64}", sha256)


def test_imagenette_parts_are_slices_of_one_file(ette):
    splits = imagenette("real", ette)
    base = splits.train.images.untyped_storage().data_ptr()
    offsets = [part.images.data_ptr() - base for part in (splits.train, splits.val, splits.test)]
    assert offsets == [0, 40 * 3 * 64**2, 50 * 3 * 64**2]
    assert (ette / "decoded" / "imagenette-64.bin").stat().st_size == 70 * 3 * 64**2


def test_what_a_reader_writes_into_imagenette_or_mnist_is_not_met_at_the_next_call(ette, tiny):
    for load in (lambda: imagenette("real", ette), lambda: mnist("real", tiny)):
        expected = load().test.images.clone()
        spoilt = load().test
        spoilt.images.zero_()
        spoilt.labels.zero_()
        assert torch.equal(load().test.images, expected)
        assert load().test.labels.any()


def test_imagenette_without_one_readable_image_of_a_class_is_refused(ette):
    for part, wnid in (("train", "n02102040"), ("val", "n03888257")):
        kept = {file: file.read_bytes() for file in (ette / "imagenette2-320" / part / wnid).iterdir()}
        for file in kept:
            file.write_bytes(b"no image")
        name = data.IMAGENETTE_CLASSES[wnid]
        with pytest.raises(ValueError, match=rf"no image of .*{part}/{wnid} \({name}\) can be read: delete"):
            imagenette("real", ette)
        for file, content in kept.items():
            file.write_bytes(content)


def test_imagenette_notices_another_file_of_the_same_name_and_size(ette, capsys):
    first = imagenette("real", ette)
    file = sorted((ette / "imagenette2-320" / "val" / "n01440764").iterdir())[0]
    content = file.read_bytes()
    other = next(
        one.read_bytes() for one in sorted((ette / "imagenette2-320" / "val" / "n03888257").iterdir())
    )
    size = max(len(content), len(other))
    file.write_bytes(other.ljust(size, b"\0"))  # bytes after a JPEG's end are not read
    os.utime(file, ns=(0, 1))
    data._load_imagenette.cache_clear()
    capsys.readouterr()
    assert not alike(imagenette("real", ette), first)
    assert "was made from other image files" in capsys.readouterr().out


def test_imagenette_is_loaded_once_and_decoded_once(ette, monkeypatch):
    first = imagenette("real", ette)
    with monkeypatch.context() as without:
        without.setattr(data, "_read_imagenette", None)
        assert alike(imagenette("real", str(ette)), first)
    data._load_imagenette.cache_clear()
    monkeypatch.delattr(decoded, "_pixels")
    assert alike(imagenette("real", ette), first)


def test_imagenette_leaves_out_a_damaged_image_and_its_label(ette, capsys):
    whole = imagenette("real", ette)
    places = places_in(torchvisions(ette, "val")[0], whole.test).tolist()
    data._load_imagenette.cache_clear()
    spoilt = {"val/n02102040/n02102040_0.JPEG": 2, "val/n03888257/n03888257_1.JPEG": 19}
    for name in spoilt:
        (ette / "imagenette2-320" / name).write_bytes(b"")
    splits = imagenette("real", ette)
    rest = [i for i, place in enumerate(places) if place not in spoilt.values()]
    assert torch.equal(splits.test.images, whole.test.images[rest])
    assert torch.equal(splits.test.labels, whole.test.labels[rest])
    assert torch.equal(splits.val.images, whole.val.images)
    assert torch.equal(splits.train.labels, whole.train.labels)
    line = capsys.readouterr().out.splitlines()[-1]
    in_order = sorted(spoilt, key=lambda name: places.index(spoilt[name]))
    names = ", ".join(f"{name} (empty file)" for name in in_order)
    assert line == f"decoding Imagenette: 2 of 70 files left out: {names}."


def test_imagenette_ignores_other_files(ette, capsys):
    folder = ette / "imagenette2-320" / "train" / "n01440764"
    for name in ("notes.txt", ".hidden.JPEG", "n01440764_0.npy", "Thumbs.db"):
        (folder / name).write_bytes(b"no image")
    photograph(7).save(folder / "n01440764_9.png")
    splits = imagenette("real", ette)
    assert int((splits.train.labels == 0).sum() + (splits.val.labels == 0).sum()) == 6
    assert len(splits.train) == 41
    assert "left out" not in capsys.readouterr().out


def test_hold_out_takes_100_of_each_class_or_a_tenth_always_the_same():
    counts = (300, 200, 199, 4)
    files = [[Path(f"{label}/{i:03}") for i in range(count)] for label, count in enumerate(counts)]
    train, val = data._hold_out(files)
    assert [len(own) for own in val] == [100, 100, 19, 1]
    for own, kept, held_out in zip(files, train, val, strict=True):
        assert sorted(kept + held_out) == own
        assert (kept, held_out) == (sorted(kept), sorted(held_out))
    assert [int(file.name) for file in val[0][:5]] == [1, 6, 14, 15, 17]
    assert data._hold_out(files) == (train, val)


@pytest.mark.parametrize("source", ["real", "auto"])
@pytest.mark.parametrize(
    ("part", "wnid", "name"), [("train", "n03000684", "chain saw"), ("val", "n03888257", "parachute")]
)
def test_imagenette_names_a_class_without_images(ette, source, part, wnid, name):
    folder = ette / "imagenette2-320" / part / wnid
    shutil.rmtree(folder)
    complaint = rf"{part}/{wnid} \({name}\) has no images: delete .*imagenette2-320 and run again to download"
    with pytest.raises(ValueError, match=complaint):
        imagenette(source, ette)
    folder.mkdir()
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=complaint):
        imagenette(source, ette)


def test_imagenette_prefers_224_then_320_then_full_then_160(ette, monkeypatch, capsys):
    folders = []
    monkeypatch.setattr(data, "_read_imagenette", lambda folder, cache: lambda: folders.append(folder.name))
    shutil.rmtree(ette)
    for name in ("imagenette2-160", "imagenette2", "imagenette2-320", "imagenette2-224"):
        (ette / name).mkdir(parents=True)
        imagenette("real", ette)
        data._load_imagenette.cache_clear()
    assert folders == ["imagenette2-160", "imagenette2", "imagenette2-320", "imagenette2-224"]
    line = "Only imagenette2-160 is here: its images are enlarged to 64×64.\n"
    assert capsys.readouterr().out == line


def test_imagenette_brings_other_sizes_to_224(ette, monkeypatch):
    monkeypatch.setattr(data, "IMAGENETTE_SIZE", 224)
    shutil.rmtree(ette / "imagenette2-320")
    write_imagenette(ette / "imagenette2-160", train=2, test=1, width=200, height=160)
    splits = imagenette("real", ette)
    assert [tuple(part.images.shape) for part in (splits.train, splits.test)] == [(10, 3, 224, 224)] * 2
    larger = photograph([0, 0, False], 200, 160).resize((280, 224), Image.Resampling.BILINEAR)
    expected = np.array(larger.crop((28, 0, 252, 224))).transpose(2, 0, 1).astype(int)
    first_of_class_0 = splits.test.images[splits.test.labels == 0][0]
    difference = np.abs(first_of_class_0.numpy().astype(int) - expected)
    assert difference.mean() < 3  # JPEG's losses


def test_imagenette_takes_source_and_folder_from_the_dials(ette, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_ROOT", str(ette))
    monkeypatch.setenv("COURSE_DATA", "real")
    assert len(imagenette().test) == 20
    monkeypatch.setenv("COURSE_DATA", "embedded")
    assert alike(imagenette(), digits())


def test_imagenette_rejects_an_unknown_source():
    with pytest.raises(ValueError, match="source='imagenet' is unknown: use one of embedded, real, auto"):
        imagenette("imagenet")


def test_imagenette_embedded_looks_nowhere(ette, monkeypatch):
    monkeypatch.delattr(data, "_load_imagenette")
    assert alike(imagenette("embedded", "/nowhere"), digits())


@pytest.mark.parametrize("existing", [False, True])
def test_imagenette_decodes_into_the_project_where_the_root_is_read_only(ette, existing):
    folder = ette / "decoded" if existing else ette
    folder.mkdir(exist_ok=True)
    folder.chmod(0o500)
    try:
        assert len(imagenette("real", ette).test) == 20
        assert not any(ette.rglob("imagenette-64*"))
    finally:
        folder.chmod(0o700)
    names = {path.name for path in (ette.parent / "project" / "data" / "decoded").iterdir()}
    assert names - {"imagenette-64.lock"} == {"imagenette-64.bin", "imagenette-64.jsonl"}


def test_imagenette_real_says_in_one_line_where_it_looked_and_what_to_do(ette):
    with pytest.raises(FileNotFoundError) as caught:
        imagenette("real", ette / "nowhere")
    message = str(caught.value)
    assert message.startswith(f"no Imagenette in {ette / 'nowhere'}, no download (127.0.0.1:9: ")
    advice = "set COURSE_DATA_ROOT to the folder that holds imagenette2-320, or COURSE_DATA=embedded"
    assert message.endswith(advice)
    assert "\n" not in message


def test_imagenette_auto_goes_on_with_shapes_and_says_so_once(ette, capsys):
    for _ in range(2):
        assert alike(imagenette("auto", ette / "nowhere"), digits())  # which stand for the shapes here
    printed = capsys.readouterr().out
    assert printed.startswith("No Imagenette here, no download (127.0.0.1:9: ")
    assert printed.endswith("): going on with drawings of ten shapes.\n")
    assert printed.count("\n") == 1
    assert str(ette) not in printed  # the line is published in notebooks


@pytest.mark.parametrize("source", ["real", "auto"])
def test_imagenette_downloads_what_is_missing(ette, mirror, mirror_folder, monkeypatch, source):
    packed = mirror_folder / "imagenette2-320.tgz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(ette / "imagenette2-320", "imagenette2-320")
    sha256 = hashlib.sha256(packed.read_bytes()).hexdigest()
    monkeypatch.setattr(data, "IMAGENETTE_ARCHIVE", (f"{mirror}{packed.name}", sha256, packed.stat().st_size))
    splits = imagenette(source, ette / "new")
    assert torch.equal(splits.test.images, imagenette("real", ette).test.images)
    names = {path.name for path in (ette / "new").iterdir()}
    assert names == {".download.lock", "decoded", "imagenette2-320"}


REAL = Path(os.environ.get("COURSE_DATA_ROOT") or "nowhere") / "imagenette2-224"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs Imagenette: no imagenette2-224 in COURSE_DATA_ROOT")
def test_imagenette_is_all_there_and_equals_what_pillow_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_decoded_folder", lambda root: tmp_path)
    try:
        splits = imagenette("real")
        assert [len(part) for part in (splits.train, splits.val, splits.test)] == [8_469, 1_000, 3_925]
        assert torch.bincount(splits.val.labels).tolist() == [100] * 10
        on_disk = [len(list((REAL / "train" / wnid).iterdir())) for wnid in data.IMAGENETTE_CLASSES]
        assert (torch.bincount(splits.train.labels) + 100).tolist() == on_disk
        assert len(splits.train.labels[:100].unique()) == 10
        files = sorted((REAL / "val").rglob("*.JPEG"))
        mixed = torch.randperm(3_925, generator=torch.Generator().manual_seed(0))
        files = [files[place] for place in mixed]
        for place in range(0, 3_925, 300):
            with Image.open(files[place]) as image:
                expected = np.array(image.convert("RGB")).transpose(2, 0, 1).astype(int)
            assert np.abs(splits.test.images[place].numpy().astype(int) - expected).max() <= 2
            assert list(data.IMAGENETTE_CLASSES)[splits.test.labels[place]] == files[place].parent.name
    finally:
        (tmp_path / "imagenette-224.bin").unlink(missing_ok=True)  # pytest would keep the 2 GB of three runs
        data._load_imagenette.cache_clear()
