"""Image files decoded once, to one checksummed file of pixels that every later start maps into memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from PIL import Image, UnidentifiedImageError

from helpers.progress import ProgressLine, duration

FORMAT = 3  # raise it whenever the same files would give other pixels, or records look different
CHUNK = 256  # image files that are written, and checked, together: 39 MB at 224×224
LOCK_SECONDS = 3600
THINNEST = 50  # longer side to shorter one: enlarging a line to a square would fill the memory


class DecodeError(RuntimeError):
    """The pixels can't be read or kept; the message says in one line why and what to do."""


class _Unusable(Exception):
    """Why the pixels on disk can't be used; an empty text if there are none."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """The images that could be decoded, in the order of their files.

    Args:
        cache: the file of their pixels.
        size: side of the square images.
        kept: (N,) int64 places of these images in the list of files, ascending.
        skipped: place of a file in the list → why it could not be decoded.
    """

    cache: Path
    size: int
    kept: torch.Tensor
    skipped: dict[int, str]

    @property
    def images(self) -> torch.Tensor:
        """The images (N, 3, size, size) uint8, mapped anew; writing to them leaves the file as it is."""
        return _mapped(self.cache).view(len(self.kept), 3, self.size, self.size)


def decode(files: Sequence[Path], size: int, cache: Path, *, label: str = "decoding") -> Decoded:
    """The images of these files, decoded at the first call and mapped into memory at later ones.

    Beside the cache lies its index `.jsonl`: one line on the whole, then one for each `CHUNK` of files. Both
    are written under other names first, and an interrupted call is taken up where it stopped. Every call
    checks all checksums. Files that are no whole image are left out, and named in one printed line.

    Args:
        files: JPEG or PNG files, each read as RGB.
        size: side of the square images. Others are resized to it by their shorter side (bilinear, smaller
            ones enlarged), and their centre is cut out.
        cache: the file of pixels; its folder is made if need be. It takes 3·size² bytes an image.
        label: what the progress line is called.

    Raises:
        ValueError: there are no files, or none of them is an image.
        DecodeError: a file can't be read; or the cache can't be written, as on a full disk.
    """
    if not files:
        raise ValueError(f"{label}: there are no image files")
    header = _header(files, size)
    try:
        records = _checked(cache, header)
    except _Unusable:
        with _writing(cache, need=_most_bytes(header)):
            records = _checked_or_made(files, cache, header, label)
    skipped = {place: reason for record in records for place, reason in record["skipped"]}
    _report(skipped, files, label)
    kept = torch.tensor([place for place in range(len(files)) if place not in skipped])
    return Decoded(cache, size, kept, skipped)


def _checked_or_made(
    files: Sequence[Path], cache: Path, header: dict[str, Any], label: str
) -> list[dict[str, Any]]:
    """The records of the cache, which another process may have made meanwhile, or else is made here."""
    try:
        return _checked(cache, header)
    except _Unusable as reason:
        if str(reason):
            print(f"{label} again: {cache.name} {reason}.")
        return _make(files, cache, header, label)


def _header(files: Sequence[Path], size: int) -> dict[str, Any]:
    """What a cache must agree with to be used: the format, and names, lengths and times of the files."""
    listing = hashlib.sha256()
    for file, name in zip(files, _short_names(files), strict=True):
        found = _readable(os.stat, file)
        listing.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return {
        "format": FORMAT,
        "size": size,
        "files": len(files),
        "chunk": CHUNK,
        "source": listing.hexdigest(),
    }


def _short_names(files: Sequence[Path]) -> list[str]:
    """The files' paths, relative to the folder that they share."""
    folder = os.path.commonpath([file.parent for file in files])
    return [file.relative_to(folder).as_posix() for file in files]


def _readable(read: Callable[[Path], Any], file: Path) -> Any:
    """What `read(file)` returns; a file that can't be read is an error, not a damaged image."""
    try:
        return read(file)
    except OSError as error:
        raise DecodeError(f"can't read {file}: {error.strerror}") from error


# --- what is on disk ---------------------------------------------------------------------------------------


def _checked(cache: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of a whole cache whose bytes have all been checked, or _Unusable."""
    index = cache.with_suffix(".jsonl")
    if not cache.exists() and not index.exists():
        raise _Unusable
    found, records = _read_index(index)
    if not found:
        raise _Unusable("has no index that can be read")
    if found["format"] != header["format"]:
        raise _Unusable("is of another version of this course")
    if found["size"] != header["size"]:
        raise _Unusable(f"has images of {found['size']}×{found['size']} pixels")
    if found != header:
        raise _Unusable("was made from other image files")
    sound = _sound(cache, records, header)
    wanted = -(-header["files"] // header["chunk"])
    if len(sound) != wanted or _size_of(cache) != _length(sound, header["size"]):
        raise _Unusable("is truncated or altered")
    return sound


def _line(content: dict[str, Any]) -> str:
    """One line of the index, with a checksum of its own."""
    return json.dumps([zlib.crc32(json.dumps(content).encode()), content]) + "\n"


def _read_index(index: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and records, up to the first line that is cut off or altered; ({}, []) if that is the first."""
    contents = []
    with contextlib.suppress(OSError, ValueError, TypeError, IndexError):
        for line in index.read_text(encoding="utf-8").splitlines(keepends=True):
            content = json.loads(line)[1]
            if line != _line(content):
                break
            contents.append(content)
    return (contents[0], contents[1:]) if contents else ({}, [])


def _sound(pixels: Path, records: list[dict[str, Any]], header: dict[str, Any]) -> list[dict[str, Any]]:
    """The leading records whose pixels are in the file, with the right checksum."""
    length, everything = _size_of(pixels), memoryview(_mapped(pixels).numpy())
    ends = list(itertools.accumulate(_length([record], header["size"]) for record in records))
    there = [slice(start, end) for start, end in itertools.pairwise([0, *ends]) if end <= length]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib lets the other threads run
        found = pool.map(lambda part: hashlib.sha256(everything[part]).hexdigest(), there)
        pairs = zip(records, found, strict=False)
        return [record for record, _ in itertools.takewhile(lambda pair: pair[0]["sha256"] == pair[1], pairs)]


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _length(records: list[dict[str, Any]], size: int) -> int:
    """Bytes that the pixels of these records take."""
    return sum(record["kept"] for record in records) * 3 * size**2


def _mapped(file: Path) -> torch.Tensor:
    """All bytes of a file as a uint8 tensor, read when used; writing to it never reaches the file."""
    length = _size_of(file)
    if not length:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(str(file), shared=False, size=length, dtype=torch.uint8)


# --- writing -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writing(cache: Path, need: int) -> Iterator[None]:
    """Make the cache's folder, keep other processes out of it, and put into words what a disk refuses."""
    folder = cache.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(cache.with_suffix(".lock"), timeout=LOCK_SECONDS):
            yield
    except Timeout:
        waited = duration(LOCK_SECONDS)
        raise DecodeError(f"another process has kept {cache} locked for {waited}: end it") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            advice = "set COURSE_DATA_ROOT to a folder that can be written"
            raise DecodeError(f"can't write images to {folder} ({error.strerror}): {advice}") from error
        for file in _unfinished(cache):
            file.unlink(missing_ok=True)  # the space is worth more than the seconds that went into it
        free = shutil.disk_usage(folder).free
        raise DecodeError(
            f"the decoded images take {need / 1e9:.3g} GB, and {folder} has {free / 1e9:.3g} GB left: "
            "free some space, or set COURSE_DATA_ROOT to a folder on another disk"
        ) from error


def _unfinished(cache: Path) -> tuple[Path, Path]:
    """The names under which pixels and index are written."""
    return cache.with_suffix(".part"), cache.with_suffix(".part.jsonl")


def _make(files: Sequence[Path], cache: Path, header: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """Decode what an earlier call has not, then put pixels and index in place, the index last."""
    pixels, index = _unfinished(cache)
    records = _resume(pixels, index, header)
    if _most_bytes(header) - _size_of(pixels) > shutil.disk_usage(cache.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    records += _append(pixels, index, files, header, len(records), label)
    if not _length(records, header["size"]):
        pixels.unlink()
        index.unlink()
        first = f"{_short_names(files)[0]}: {records[0]['skipped'][0][1]}"
        raise ValueError(f"{label}: none of the {len(files):,} files is an image ({first})")
    os.replace(pixels, cache)
    os.replace(index, cache.with_suffix(".jsonl"))
    return records


def _append(
    pixels: Path, index: Path, files: Sequence[Path], header: dict[str, Any], done: int, label: str
) -> list[dict[str, Any]]:
    """Decode and write all chunks after the first `done`: first the pixels of each, then its record."""
    chunk, started, records = header["chunk"], time.perf_counter(), []
    with (
        open(pixels, "ab", buffering=0) as pixel_file,  # no fsync: checksums tell what a power cut has lost
        open(index, "a", encoding="utf-8") as index_file,
        ProgressLine(label, -(-len(files) // chunk)) as line,
        _threads() as pool,
    ):
        for number, images in enumerate(_images(pool, files[done * chunk :], header["size"], chunk), done):
            record, blocks = _record(images, number * chunk)
            for block in blocks:  # one by one: joining them would cost more than writing them
                _write(pixel_file, block)
            index_file.write(_line(record))
            index_file.flush()
            records.append(record)
            if line.due():
                count = min((number + 1) * chunk, len(files))
                line.update(number + 1, count, f"{count:,} of {len(files):,} images")
        line.finish(f"{len(files):,} images, {duration(time.perf_counter() - started)}")
    return records


def _most_bytes(header: dict[str, Any]) -> int:
    """Bytes that the pixels take if every file is an image."""
    return header["files"] * 3 * header["size"] ** 2


def _resume(pixels: Path, index: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of the chunks that an interrupted call finished; both files are cut down to them."""
    found, records = _read_index(index)
    records = _sound(pixels, records, header) if found == header else []
    with open(pixels, "ab") as file:
        file.truncate(_length(records, header["size"]))
    index.write_text("".join(map(_line, [header, *records])), encoding="utf-8")
    return records


def _write(file: Any, block: memoryview) -> None:
    """All the bytes; an unbuffered file may take them in parts."""
    while block:
        block = block[file.write(block) :]


# --- decoding ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, and meanwhile no threads of torch's own, which would multiply these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _images(
    pool: ThreadPoolExecutor, files: Sequence[Path], size: int, chunk: int
) -> Iterator[list[torch.Tensor | str]]:
    """The images of one chunk of files after another; two more chunks are being decoded meanwhile."""
    waiting: deque[list[Any]] = deque()
    for start in range(0, len(files), chunk):
        waiting.append([pool.submit(_pixels, file, size) for file in files[start : start + chunk]])
        if len(waiting) > 2:
            yield [image.result() for image in waiting.popleft()]
    for images in waiting:
        yield [image.result() for image in images]


def _record(images: list[torch.Tensor | str], start: int) -> tuple[dict[str, Any], list[memoryview]]:
    """The record of a chunk that starts at this place in the list of files, and the pixels of its images."""
    skipped = [[start + i, reason] for i, reason in enumerate(images) if isinstance(reason, str)]
    pixels = [memoryview(image.view(-1).numpy()) for image in images if not isinstance(image, str)]
    checksum = hashlib.sha256()
    for image in pixels:
        checksum.update(image)
    return {"kept": len(pixels), "skipped": skipped, "sha256": checksum.hexdigest()}, pixels


def _pixels(file: Path, size: int) -> torch.Tensor | str:
    """One image as uint8 (3, size, size), or in a few words why the file is none."""
    packed = _readable(Path.read_bytes, file)
    if not packed:
        return "empty file"
    try:
        image = _rgb(packed)
    except UnidentifiedImageError:
        return "no image"
    except Image.DecompressionBombError:
        return f"more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels"
    except (OSError, SyntaxError, ValueError) as error:
        return "truncated" if "truncated" in str(error).lower() else str(error) or type(error).__name__
    return _square(image, size).contiguous()  # Pillow stores the three channels pixel by pixel


def _rgb(packed: bytes) -> torch.Tensor:
    """The pixels (3, H, W) of an encoded image, grey or CMYK ones turned into RGB.

    By Pillow: torchvision's own decoder takes two thirds of the time, and is deprecated.
    """
    with Image.open(
        io.BytesIO(packed), formats=("JPEG", "PNG")
    ) as image:  # for others Pillow may start programs
        if image.mode.startswith(("I", "F")):
            raise ValueError("16 bits a channel or more")
        if max(image.size) > THINNEST * min(image.size):
            raise ValueError(f"{image.width}×{image.height} pixels are too thin")
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _square(image: torch.Tensor, size: int) -> torch.Tensor:
    """The centre of a uint8 image (3, H, W) whose shorter side is brought to `size`: (3, size, size)."""
    height, width = image.shape[1:]
    if height == width == size:
        return image
    shorter = min(height, width)
    scaled = (size * height // shorter, size * width // shorter)
    image = F.interpolate(image[None], size=scaled, mode="bilinear", antialias=True)[0]
    top, left = (round((side - size) / 2) for side in scaled)
    return image[:, top : top + size, left : left + size]


def _report(skipped: dict[int, str], files: Sequence[Path], label: str) -> None:
    """One line on the files that were left out, if any."""
    if skipped:
        names = _short_names(files)
        first = [f"{names[place]} ({reason})" for place, reason in list(skipped.items())[:5]]
        more = f" and {len(skipped) - 5:,} more" if len(skipped) > 5 else ""
        print(f"{label}: {len(skipped):,} of {len(files):,} files left out: {', '.join(first)}{more}.")
