import errno
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torchvision.transforms.functional import center_crop, resize

from helpers import decoded
from helpers.decoded import DecodeError, decode

SIZE = 16


def picture(seed, width=SIZE, height=SIZE, mode="RGB"):
    """A smooth random PIL image, as JPEG keeps it well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image, form="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def rgb(file):
    """The oracle: what Pillow reads, as (3, H, W)."""
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def write(folder, contents):
    """Files with these contents, in this order, in two folders in turn."""
    files = [folder / "ab"[i % 2] / f"{i:03}.JPEG" for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return files


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Ten JPEG files of 16×16, decoded in chunks of three."""
    monkeypatch.setattr(decoded, "CHUNK", 3)
    return write(tmp_path / "source", [encoded(picture(i)) for i in range(10)])


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "tiny.bin"


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that get decoded, as they come."""
    names, pixels = [], decoded._pixels
    monkeypatch.setattr(decoded, "_pixels", lambda file, size: names.append(file.name) or pixels(file, size))
    return names


def on_disk(cache):
    return {path.name for path in cache.parent.iterdir()} - {"tiny.lock"}


WHOLE = {"tiny.bin", "tiny.jsonl"}


# --- pixels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decode_takes_images_of_the_size_as_they_are(tmp_path, cache, mode):
    files = write(tmp_path, [encoded(picture(i, mode=mode)) for i in range(4)])
    found = decode(files, SIZE, cache)
    assert found.images.shape == (4, 3, SIZE, SIZE)
    assert (found.images.dtype, found.images.is_contiguous()) == (torch.uint8, True)
    assert (found.kept.tolist(), found.skipped) == ([0, 1, 2, 3], {})
    for image, file in zip(found.images, files, strict=True):
        assert (image.int() - rgb(file).int()).abs().max() <= 2


def test_decode_turns_ink_into_light(tmp_path, cache):
    cyan = Image.new("CMYK", (SIZE, SIZE), (255, 0, 0, 0))
    (image,) = decode(write(tmp_path, [encoded(cyan)]), SIZE, cache).images
    assert (image.float().mean((1, 2)) - torch.tensor([0.0, 255.0, 255.0])).abs().max() <= 3


@pytest.mark.parametrize(("mode", "extension"), [("RGB", "JPEG"), ("RGBA", "JPEG"), ("P", "png")])
def test_decode_reads_png_whatever_it_is_called(tmp_path, cache, mode, extension):
    file = tmp_path / f"picture.{extension}"
    file.write_bytes(encoded(picture(0, mode=mode), "PNG"))
    assert torch.equal(decode([file], SIZE, cache).images[0], rgb(file))


@pytest.mark.parametrize(("width", "height"), [(320, 240), (241, 500), (224, 300), (100, 120), (300, 300)])
def test_decode_resizes_the_shorter_side_and_cuts_to_the_centre(tmp_path, cache, width, height):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    (file,) = write(tmp_path, [encoded(noise, "PNG")])
    expected = np.array(center_crop(resize(noise, 224), 224)).transpose(2, 0, 1).astype(int)
    (image,) = decode([file], 224, cache).images.numpy().astype(int)
    assert np.abs(image - expected).max() <= 2
    assert expected.std() > 30


def test_decode_gives_each_thread_one_of_torchs_and_restores_them(files, cache, monkeypatch):
    seen, pixels = [], decoded._pixels
    note = lambda file, size: seen.append(torch.get_num_threads()) or pixels(file, size)  # noqa: E731
    monkeypatch.setattr(decoded, "_pixels", note)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        decode(files, SIZE, cache)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1] * 10


# --- what is no image -------------------------------------------------------------------------------------


def damaged():
    """Contents of files that are no image, with the reason that is given for each."""
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 256)
    jpeg = encoded(picture(0, 64, 64))
    return {
        b"": "empty file",
        b"no image at all\n": "no image",
        jpeg[: len(jpeg) // 2]: "truncated",
        encoded(deep, "PNG"): "16 bits a channel or more",
    }


def test_decode_leaves_out_what_is_no_image_and_says_so_in_one_line(files, cache, capsys):
    for file, content in zip(files[1:5], damaged(), strict=True):
        file.write_bytes(content)
    found = decode(files, SIZE, cache, label="tiny set")
    assert found.kept.tolist() == [0, 5, 6, 7, 8, 9]
    assert found.skipped == dict(zip(range(1, 5), damaged().values(), strict=True))
    assert torch.equal(found.images, torch.stack([rgb(files[place]) for place in found.kept]))
    assert cache.stat().st_size == found.images.nbytes  # no holes
    *progress, line = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"tiny set: 10 images, \d+ s", *progress)
    assert line == (
        "tiny set: 4 of 10 files left out: b/001.JPEG (empty file), a/002.JPEG (no image), "
        "b/003.JPEG (truncated), a/004.JPEG (16 bits a channel or more)."
    )


def test_decode_names_five_files_at_most_at_every_start(files, cache, capsys):
    for file in files[2:9]:
        file.write_bytes(b"")
    first, second = (decode(files, SIZE, cache) for _ in range(2))
    assert first.skipped == second.skipped == dict.fromkeys(range(2, 9), "empty file")
    assert torch.equal(first.images, second.images)
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(lines) == 2
    for line in lines:
        assert line.count("empty file") == 5
        assert line.endswith("a/006.JPEG (empty file) and 2 more.")


def test_decode_with_nothing_but_damaged_files_says_so_and_leaves_nothing(files, cache):
    for file in files:
        file.write_bytes(b"text")
    complaint = r"decoding: none of the 10 files is an image \(a/000.JPEG: no image\)"
    with pytest.raises(ValueError, match=complaint):
        decode(files, SIZE, cache)
    assert on_disk(cache) == set()


def test_decode_without_files_is_an_error(cache):
    with pytest.raises(ValueError, match="decoding: there are no image files"):
        decode([], SIZE, cache)
    assert not cache.parent.exists()


def test_decode_names_a_file_that_is_gone(files, cache):
    files[7].unlink()
    with pytest.raises(DecodeError, match=r"can't read .*b.007\.JPEG: \w+"):
        decode(files, SIZE, cache)


def test_decode_never_takes_a_file_that_cannot_be_read_for_a_damaged_one(files, cache):
    files[7].unlink()
    files[7].mkdir()
    with pytest.raises(DecodeError, match=r"can't read .*b.007\.JPEG: \w+"):
        decode(files, SIZE, cache)
    assert not WHOLE & on_disk(cache)


# --- the cache --------------------------------------------------------------------------------------------


def test_decode_opens_no_file_again(files, cache, opened, capsys):
    first = decode(files, SIZE, cache)
    assert sorted(opened) == [file.name for file in files]
    assert on_disk(cache) == WHOLE
    opened.clear()
    capsys.readouterr()
    second = decode(files, SIZE, cache)
    assert opened == []
    assert capsys.readouterr().out == ""
    assert torch.equal(first.images, second.images)
    assert torch.equal(second.images, torch.stack([rgb(file) for file in files]))


def test_decode_maps_the_file_and_never_writes_to_it(files, cache):
    found = decode(files, SIZE, cache)
    content = cache.read_bytes()
    found.images.zero_()
    assert cache.read_bytes() == content
    assert decode(files, SIZE, cache).images.any()


def test_decode_uses_a_cache_that_was_moved_together_with_its_files(files, cache, tmp_path, opened):
    decode(files, SIZE, cache)
    opened.clear()
    (tmp_path / "source").rename(tmp_path / "moved")
    decode([tmp_path / "moved" / file.relative_to(tmp_path / "source") for file in files], SIZE, cache)
    assert opened == []


def other_size(files, cache, monkeypatch):
    decode(files, 8, cache)


def other_version(files, cache, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(decoded, "FORMAT", 0)
        decode(files, SIZE, cache)


def longer_file(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    files[4].write_bytes(files[5].read_bytes() + b"x")


def renamed_file(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    files[4] = files[4].rename(files[4].with_name("other.JPEG"))


def other_order(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    files.reverse()


def one_file_more(files, cache, monkeypatch):
    decode(files[:9], SIZE, cache)


def altered_pixel(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    with cache.open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 1]))


def truncated(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    os.truncate(cache, cache.stat().st_size - 1)


def lengthened(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    with cache.open("ab") as file:
        file.write(b"x")


def no_pixels(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    cache.unlink()


def no_index(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    cache.with_suffix(".jsonl").unlink()


def altered_record(files, cache, monkeypatch):
    files[0].write_bytes(b"")
    decode(files, SIZE, cache)
    index = cache.with_suffix(".jsonl")
    index.write_text(index.read_text().replace('[[0, "empty', '[[1, "empty'))


def text_for_an_index(files, cache, monkeypatch):
    decode(files, SIZE, cache)
    cache.with_suffix(".jsonl").write_text('"text"\n')


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (other_size, "has images of 8×8 pixels"),
        (other_version, "is of another version of this course"),
        (longer_file, "was made from other image files"),
        (renamed_file, "was made from other image files"),
        (other_order, "was made from other image files"),
        (one_file_more, "was made from other image files"),
        (altered_pixel, "is truncated or altered"),
        (truncated, "is truncated or altered"),
        (lengthened, "is truncated or altered"),
        (no_pixels, "is truncated or altered"),
        (altered_record, "is truncated or altered"),
        (no_index, "has no index that can be read"),
        (text_for_an_index, "has no index that can be read"),
    ],
)
def test_decode_again_with_one_line_that_says_why(files, cache, monkeypatch, capsys, change, complaint):
    change(files, cache, monkeypatch)
    capsys.readouterr()
    found = decode(files, SIZE, cache)
    line, progress, *skipped = capsys.readouterr().out.splitlines()
    assert line == f"decoding again: tiny.bin {complaint}."
    assert progress.startswith("decoding: 10 images, ")
    assert len(skipped) == len(found.skipped)
    assert torch.equal(found.images, torch.stack([rgb(files[place]) for place in found.kept]))
    assert on_disk(cache) == WHOLE
    assert torch.equal(decode(files, SIZE, cache).images, found.images)
    assert capsys.readouterr().out.splitlines() == skipped


def test_decode_finds_an_altered_byte_anywhere_in_the_index(files, cache, monkeypatch):
    files[4].write_bytes(b"")
    decode(files, SIZE, cache)
    index, header = cache.with_suffix(".jsonl"), decoded._header(files, SIZE)
    content = index.read_bytes()
    assert len(decoded._checked(cache, header)) == 4
    for place in range(0, len(content), 3):
        index.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(decoded._Unusable, match=r"index that can be read|truncated or altered"):
            decoded._checked(cache, header)


def test_decode_keeps_the_old_cache_until_the_new_one_is_whole(files, cache, monkeypatch):
    decode(files, 8, cache)
    old = {name: (cache.parent / name).read_bytes() for name in WHOLE}
    interrupt(monkeypatch, after=7)
    with pytest.raises(KeyboardInterrupt):
        decode(files, SIZE, cache)
    assert {name: (cache.parent / name).read_bytes() for name in WHOLE} == old
    monkeypatch.undo()
    assert decode(files, 8, cache).images.shape == (10, 3, 8, 8)


# --- interruptions ----------------------------------------------------------------------------------------


def interrupt(monkeypatch, after):
    """Ctrl-C at the file with this number."""
    pixels = decoded._pixels

    def press(file, size):
        if file.name.startswith(f"{after:03}"):
            raise KeyboardInterrupt
        return pixels(file, size)

    monkeypatch.setattr(decoded, "_pixels", press)


def test_decode_goes_on_where_it_was_interrupted(files, cache, monkeypatch, opened, capsys):
    files[1].write_bytes(b"")
    with monkeypatch.context() as first:
        interrupt(first, after=7)
        with pytest.raises(KeyboardInterrupt):
            decode(files, SIZE, cache)
    assert "decoding: stopped at step 0 of 4 (KeyboardInterrupt)" in capsys.readouterr().out
    assert on_disk(cache) == {"tiny.part", "tiny.part.jsonl"}
    opened.clear()
    found = decode(files, SIZE, cache)
    assert sorted(opened) == ["006.JPEG", "007.JPEG", "008.JPEG", "009.JPEG"]
    assert found.skipped == {1: "empty file"}
    assert torch.equal(found.images, torch.stack([rgb(files[place]) for place in found.kept]))
    assert on_disk(cache) == WHOLE


def damage_pixels(part, index):
    content = bytearray(part.read_bytes())
    content[3 * 3 * SIZE**2] ^= 1  # the first byte of the second chunk
    part.write_bytes(content)


def cut_pixels(part, index):
    os.truncate(part, 6 * 3 * SIZE**2 - 1)


def cut_index(part, index):
    index.write_bytes(index.read_bytes()[:-1])


def add_half_a_chunk(part, index):
    with part.open("ab") as file:
        file.write(b"x" * 1000)


def lose_index(part, index):
    index.unlink()


def lose_pixels(part, index):
    part.unlink()


@pytest.mark.parametrize(
    ("damage", "first"),
    [
        (damage_pixels, 3),
        (cut_pixels, 3),
        (cut_index, 3),
        (add_half_a_chunk, 6),
        (lose_index, 0),
        (lose_pixels, 0),
    ],
)
def test_decode_goes_on_after_the_last_chunk_that_is_whole(files, cache, monkeypatch, opened, damage, first):
    with monkeypatch.context() as earlier:
        interrupt(earlier, after=7)
        with pytest.raises(KeyboardInterrupt):
            decode(files, SIZE, cache)
    damage(*decoded._unfinished(cache))
    opened.clear()
    found = decode(files, SIZE, cache)
    assert sorted(opened) == [file.name for file in files[first:]]
    assert torch.equal(found.images, torch.stack([rgb(file) for file in files]))


def test_decode_starts_anew_where_the_interrupted_call_had_other_files(files, cache, monkeypatch, opened):
    with monkeypatch.context() as earlier:
        interrupt(earlier, after=7)
        with pytest.raises(KeyboardInterrupt):
            decode(files, SIZE, cache)
    opened.clear()
    found = decode(files[::-1], SIZE, cache)
    assert len(opened) == 10
    assert torch.equal(found.images, torch.stack([rgb(file) for file in files[::-1]]))


CHILD = """
    import os, signal, sys
    from pathlib import Path
    from helpers import decoded

    decoded.CHUNK, pixels = 3, decoded._pixels
    cache = Path(sys.argv[1])
    _, index = decoded._unfinished(cache)

    def until_nine_are_written(file, size):
        if len(decoded._read_index(index)[1]) >= 3:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return pixels(file, size)

    decoded._pixels = until_nine_are_written
    decoded.decode([Path(file) for file in sys.argv[2:]], 16, cache)
"""


def test_decode_goes_on_after_a_kill(tmp_path, cache, monkeypatch, opened):
    monkeypatch.setattr(decoded, "CHUNK", 3)
    files = write(tmp_path / "source", [encoded(picture(i)) for i in range(120)])
    _, index = decoded._unfinished(cache)
    command = [sys.executable, "-c", textwrap.dedent(CHILD), cache, *files]
    environment = {**os.environ, "PYTHONPATH": str(Path(decoded.__file__).parent.parent)}
    assert subprocess.run(command, env=environment).returncode != 0
    assert not WHOLE & on_disk(cache)
    done = len(decoded._read_index(index)[1])
    assert 3 <= done < 40
    resumed = decode(files, SIZE, cache)
    assert len(opened) == 120 - 3 * done
    whole = decode(files, SIZE, cache.with_name("uninterrupted.bin"))
    assert cache.read_bytes() == cache.with_name("uninterrupted.bin").read_bytes()
    assert torch.equal(resumed.images, whole.images)


def test_decode_by_two_at_once_decodes_once(files, cache, opened):
    threads = [threading.Thread(target=decode, args=(files, SIZE, cache)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 10
    assert on_disk(cache) == WHOLE


def test_decode_does_not_wait_for_another_process_for_ever(files, cache, monkeypatch):
    monkeypatch.setattr(decoded, "LOCK_SECONDS", 0.05)
    cache.parent.mkdir()
    complaint = r"another process has kept .*tiny.bin locked for 0 s: end it"
    with FileLock(cache.with_suffix(".lock")), pytest.raises(DecodeError, match=complaint):
        decode(files, SIZE, cache)


# --- disks ------------------------------------------------------------------------------------------------

NO_ROOM = (
    r"the decoded images take 7\.68e-06 GB, and .*cache has .* GB left: "
    "free some space, or set COURSE_DATA_ROOT to a folder on another disk"
)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_decode_says_what_to_do_when_the_disk_fills_up(files, cache, monkeypatch, code):
    decode(files, 8, cache)
    old = {name: (cache.parent / name).read_bytes() for name in WHOLE}
    writes, write_all = itertools.count(), decoded._write

    def fill(file, block):
        if next(writes) == 4:
            file.write(block[:100])
            raise OSError(code, os.strerror(code))
        write_all(file, block)

    monkeypatch.setattr(decoded, "_write", fill)
    with pytest.raises(DecodeError, match=NO_ROOM) as caught:
        decode(files, SIZE, cache)
    assert "\n" not in str(caught.value)
    assert {name: (cache.parent / name).read_bytes() for name in on_disk(cache)} == old


def test_decode_asks_for_space_before_it_starts(files, cache, monkeypatch, opened):
    needed = 10 * 3 * SIZE**2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(DecodeError, match=NO_ROOM):
        decode(files, SIZE, cache)
    assert opened == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert len(decode(files, SIZE, cache).images) == 10


def test_decode_needs_space_only_for_the_rest_of_an_interrupted_call(files, cache, monkeypatch):
    with monkeypatch.context() as earlier:
        interrupt(earlier, after=7)
        with pytest.raises(KeyboardInterrupt):
            decode(files, SIZE, cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4 * 3 * SIZE**2))
    assert len(decode(files, SIZE, cache).images) == 10


def test_write_goes_on_when_a_file_takes_only_a_part():
    taken = []

    class Slow:
        def write(self, block):
            taken.append(bytes(block[:4]))
            return len(taken[-1])

    decoded._write(Slow(), memoryview(b"0123456789"))
    assert taken == [b"0123", b"4567", b"89"]


def test_decode_says_when_the_folder_cannot_be_made(files, tmp_path):
    (tmp_path / "file").touch()
    complaint = r"can't write images to .*cache \(Not a directory\): set COURSE_DATA_ROOT to a folder"
    with pytest.raises(DecodeError, match=complaint):
        decode(files, SIZE, tmp_path / "file" / "cache" / "tiny.bin")


def test_decode_says_when_the_folder_is_read_only(monkeypatch, unwritable):
    folder, protect = unwritable
    files, cache = write(folder / "source", [encoded(picture(0))]), folder / "cache" / "tiny.bin"
    complaint = r"can't write images to .*cache \(Permission denied\): set COURSE_DATA_ROOT to a folder"
    with protect(folder), pytest.raises(DecodeError, match=complaint):
        decode(files, SIZE, cache)
    assert not cache.parent.exists()


def test_decode_only_reads_a_whole_cache(opened, unwritable):
    folder, protect = unwritable
    files, cache = write(folder / "source", [encoded(picture(0))]), folder / "cache" / "tiny.bin"
    decode(files, SIZE, cache)
    opened.clear()
    with protect(cache.parent):
        assert len(decode(files, SIZE, cache).images) == 1
    assert opened == []


@pytest.mark.parametrize("name", ["with spaces", "Übungen und 数字", "[ab]*"])
def test_decode_works_in_folders_of_any_name(tmp_path, name):
    files = write(tmp_path / name / "source", [encoded(picture(i)) for i in range(3)])
    cache = tmp_path / name / "cache" / f"{name}.bin"
    assert len(decode(files, SIZE, cache).images) == 3
    assert len(decode(files, SIZE, cache).images) == 3


COUNTING = """
    import sys
    from pathlib import Path
    from helpers import decoded

    here, pixels = [], decoded._pixels
    decoded._pixels = lambda file, size: here.append(file) or pixels(file, size)
    decoded.decode([Path(file) for file in sys.argv[2:]], 16, Path(sys.argv[1]))
    print(len(here))
"""


def test_decode_by_two_processes_at_once_decodes_once(tmp_path, cache):
    files = write(tmp_path / "source", [encoded(picture(i)) for i in range(30)])
    command = [sys.executable, "-c", textwrap.dedent(COUNTING), cache, *files]
    environment = {**os.environ, "PYTHONPATH": str(Path(decoded.__file__).parent.parent)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [process.communicate()[0].splitlines()[-1] for process in both]
    assert sorted(counts) == ["0", "30"]
    assert on_disk(cache) == WHOLE


def test_decode_refuses_pictures_that_would_fill_the_memory(files, cache, monkeypatch):
    line = Image.new("RGB", (51, 1))
    files[1].write_bytes(encoded(line, "PNG"))
    files[2].write_bytes(encoded(line.rotate(90, expand=True), "PNG"))
    files[3].write_bytes(encoded(Image.new("RGB", (50, 1)), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 256)  # a file of twice as many pixels is refused unread
    found = decode(files, SIZE, cache)
    assert found.skipped == {1: "51×1 pixels are too thin", 2: "1×51 pixels are too thin"}
    files[4].write_bytes(encoded(picture(4, 26, 20)))
    assert decode(files, SIZE, cache).skipped[4] == "more than 512 pixels"
