"""Bad input that readers meet or that somebody plants: what the course says to each, and what is lost.

`tests/test_bad_inputs.py` compares each outcome with book/reliability.json, which the page on reliability
shows. After a message has changed on purpose:

    python tests/bad_inputs.py
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import re
import struct
import sys
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from conftest import nobody
from test_data import TINY
from test_decoded import encoded, picture
from test_download import ARCHIVES, FILES, SHA256, Mirror

from helpers import checkpoints, data, decoded, download, notebooks, runtime
from helpers.data import ImageSet, scale
from helpers.training import evaluate, fit

RESULTS = PROJECT / "book" / "reliability.json"
STALL = 0.5


@dataclass(frozen=True)
class Case:
    """A bad input: what it is, and how it comes to the course in a folder of its own."""

    group: str
    name: str
    attempt: Callable[[Path], None]


@dataclass(frozen=True)
class Outcome:
    """What came of it: `refused` with an error, `left out` or `made anew` with a line, or `read` as it is."""

    group: str
    name: str
    happened: str
    message: str
    lost: int  # files of the reader's that are gone or changed


CASES: list[Case] = []


def case(
    group: str, name: str, *, posix: bool = False
) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Add a function to the cases, or not where it needs what Windows has not."""

    def add(attempt: Callable[[Path], None]) -> Callable[[Path], None]:
        if os.name == "posix" or not posix:
            CASES.append(Case(group, name, attempt))
        return attempt

    return add


REFUSALS = (
    ValueError,
    OSError,
    FloatingPointError,
    torch.OutOfMemoryError,
    download.DownloadError,
    decoded.DecodeError,
)


def outcome(case: Case, folder: Path) -> Outcome:
    """Try a case in an empty folder.

    Files in its `mine` are the reader's; a case puts them there before it begins by calling `mine`.
    """
    MINE.clear()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            case.attempt(folder)
        lines = [line for line in said.getvalue().splitlines() if not re.search(r"\d images, \d+ s$", line)]
        message = " ".join(lines)
        happened = "made anew" if " again: " in message else "left out" if "left out" in message else "read"
    except REFUSALS as error:
        message, happened = str(error), "refused"
    lost = sum(not path.exists() or path.read_bytes() != content for path, content in MINE.items())
    return Outcome(case.group, case.name, happened, plain(message, folder), lost)


MINE: dict[Path, bytes] = {}


def mine(path: Path, content: bytes) -> Path:
    """Write a file that is the reader's: nothing may change it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    MINE[path] = content
    return path


def plain(message: str, folder: Path) -> str:
    """A message without what differs from run to run: folder, ports, free space."""
    message = re.sub(rf"{re.escape(tempfile.gettempdir())}/tmp\w+", "…", message.replace(str(folder), "…"))
    message = message.replace(str(Path.home()), "~")
    message = re.sub(r"(\)|code) [0-9a-f]{8}", r"\1 …", message)  # a function's code, as this Python has it
    message = re.sub(r"127\.0\.0\.1:\d+", "mirror", message)
    return re.sub(r"[\d.e+-]+ GB (left|are free)", r"… GB \1", message)


# --- MNIST's files ----------------------------------------------------------------------------------------


def tiny_mnist(folder: Path, name: str | None = None, content: bytes | None = None) -> Path:
    """A folder with a tiny MNIST, one of its files replaced, or missing if its content is None."""
    for own, whole in TINY.items():
        if own != name:
            mine(folder / "MNIST" / "raw" / own, whole)
        elif content is not None:
            mine(folder / "MNIST" / "raw" / own, content)
    return folder


def read_mnist(
    root: Path, source: str = "real", mirrors: tuple[str, ...] = ("https://127.0.0.1:9/",)
) -> None:
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in TINY.items()}
    changes = {"MNIST_SHA256": checksums, "MNIST_VALIDATION": 2, "MNIST_MIRRORS": mirrors}
    with patch.multiple(data, **changes), patch.dict(os.environ, {"no_proxy": "127.0.0.1"}):
        data._load_mnist.cache_clear()
        data.mnist(source, root)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


for name, damaged in {
    "half of the images": (IMAGES, TINY[IMAGES][: len(TINY[IMAGES]) // 2]),
    "the last byte missing": (IMAGES, TINY[IMAGES][:-1]),
    "a byte too many": (IMAGES, TINY[IMAGES] + b"\0"),
    "one bit flipped in a pixel": (IMAGES, flipped(TINY[IMAGES], 3000)),
    "wrong magic number": (IMAGES, b"\0\0\x0d" + TINY[IMAGES][3:]),
    "more images claimed than there are": (
        IMAGES,
        TINY[IMAGES][:4] + struct.pack(">i", 2**31 - 1) + TINY[IMAGES][8:],
    ),
    "zero bytes": (LABELS, b""),
    "a label out of range": (LABELS, TINY[LABELS][:-1] + b"\x0b"),
    "one bit flipped in a label": (LABELS, flipped(TINY[LABELS], 9)),
    "a log-in page under the file's name": (LABELS, b"<!DOCTYPE html><title>Please log in</title>"),
    "a pickle that runs code": (LABELS, pickle.dumps(print)),
}.items():
    CASES.append(
        Case("MNIST file", name, lambda folder, damaged=damaged: read_mnist(tiny_mnist(folder, *damaged)))
    )


@case("MNIST file", "missing, and no network")
def _(folder):
    read_mnist(tiny_mnist(folder, LABELS))


# --- places -----------------------------------------------------------------------------------------------


@case("place", "a file where the data folder should be")
def _(folder):
    read_mnist(mine(folder / "data", b"my notes"))


@contextlib.contextmanager
def read_only() -> Iterator[Path]:
    """A folder that can be read by everybody and written by nobody but the superuser."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        try:
            yield Path(name)
        finally:
            os.chmod(name, 0o755)


@case("place", "a data folder that is read-only", posix=True)
def _(folder):
    with read_only() as root, nobody():
        read_mnist(root)


@case("place", "a read-only folder for decoded images", posix=True)
def _(folder):
    files = photographs(folder)
    os.chmod(folder, 0o755)
    with read_only() as root, nobody(), patch.object(decoded, "_readable", lambda read, file: os.stat("/")):
        decoded.decode(files, 16, root / "cache" / "tiny.bin")


@contextlib.contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file may grow above so many bytes: the system refuses the rest, as a full disk does."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@case("place", "a disk that is full before MNIST is there", posix=True)
def _(folder):
    with mirror(folder) as address, full_disk(100):
        download.download_gzipped(folder / "raw", SHA256, [f"{address}good/"])


@case("place", "a disk that is full before a checkpoint is there", posix=True)
def _(folder):
    path = folder / "run.pt"
    checkpoints.save(path, {"model": "a"}, {"step": 1})
    mine(path, path.read_bytes())
    with full_disk(2000):
        checkpoints.save(path, {"model": "a"}, {"weights": torch.zeros(10_000)})


@case("place", "no home folder for ~/data")
def _(folder):
    with patch.dict(os.environ, {"COURSE_DATA_ROOT": "~nobody-of-this-name/data"}):
        runtime.data_root()


# --- dials and settings -----------------------------------------------------------------------------------


def dial(name: str, value: str, read: Callable[[], object]) -> None:
    def attempt(folder: Path) -> None:
        with patch.dict(os.environ, {name: value}):
            read()

    CASES.append(Case("setting", f"{name}={value}", attempt))


dial("COURSE_BUDGET", "huge", runtime.budget_name)
dial("COURSE_DATA", "imagenet", runtime.data_source)


@case("setting", "an unknown data source")
def _(folder):
    data.mnist("imagenet")


@case("setting", "a notebook that does not exist")
def _(folder):
    notebooks.load("99_transformer")


@case("setting", "a result that is not a number, recorded")
def _(folder):
    runtime.record("accuracy", float("nan"))


# --- image sets -------------------------------------------------------------------------------------------

PIXELS = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
SIX = ImageSet(PIXELS, torch.arange(6) % 3, ("a", "b", "c"), "six")

for name, change in {
    "images as floats": {"images": PIXELS.float()},
    "images without channels": {"images": PIXELS[:, 0]},
    "images in another order of memory": {"images": PIXELS.expand(6, 2, 4, 4)},
    "a label below 0": {"labels": SIX.labels - 1},
    "a label above the last class": {"classes": ("a", "b")},
    "labels as 32-bit integers": {"labels": SIX.labels.int()},
    "a label fewer than images": {"labels": SIX.labels[:5]},
    "no image at all": {"images": PIXELS[:0], "labels": SIX.labels[:0]},
}.items():
    usual = {"images": PIXELS, "labels": SIX.labels, "classes": SIX.classes, "name": "six"}
    CASES.append(Case("image set", name, lambda folder, fields=usual | change: ImageSet(**fields) and None))


@case("image set", "a subset beyond the end")
def _(folder):
    SIX.subset([0, 6])


@case("image set", "two sets with other classes joined")
def _(folder):
    SIX.join(ImageSet(PIXELS, SIX.labels, ("x", "y", "z"), "others"))


# --- photographs ------------------------------------------------------------------------------------------


def photographs(folder: Path, *changed: bytes) -> list[Path]:
    """Six JPEG files, the first ones with other contents."""
    contents = [*changed, *(encoded(picture(i)) for i in range(len(changed), 6))]
    return [mine(folder / "photographs" / f"{i}.JPEG", content) for i, content in enumerate(contents)]


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it has so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


WHOLE = encoded(picture(0, 64, 64))
DEEP = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 256)

for name, content in {
    "zero bytes": b"",
    "text": b"no image at all\n",
    "a log-in page": b"<!DOCTYPE html><title>Please log in</title>",
    "half a JPEG": WHOLE[: len(WHOLE) // 2],
    "a JPEG without its end": WHOLE[:-40],
    "a JPEG whose first byte is altered": flipped(WHOLE, 0),
    "a PNG with an altered byte": flipped(encoded(picture(0), "PNG"), 60),
    "16 bits a channel": encoded(DEEP, "PNG"),
    "60,000×60,000 pixels claimed in a kilobyte": png_that_claims(60_000, 60_000),
    "a line of 20,000×2 pixels": encoded(Image.new("RGB", (20_000, 2)), "PNG"),
    "greyscale": encoded(picture(0, mode="L")),
    "CMYK, as printers use": encoded(picture(0, mode="CMYK")),
    "a palette with transparency": encoded(picture(0, mode="P"), "PNG"),
    "a GIF under the name .JPEG": encoded(picture(0, mode="P"), "GIF"),
}.items():
    CASES.append(
        Case(
            "photograph",
            name,
            lambda folder, content=content: decode(folder, photographs(folder, content)),
        )
    )


def decode(folder: Path, files: list[Path]) -> None:
    """Decode; images that are read must be all there."""
    found = decoded.decode(files, 16, folder / "decoded" / "tiny.bin")
    assert len(found.images) == len(files) - len(found.skipped)


@case("photograph", "deleted before it is read")
def _(folder):
    files = photographs(folder)
    MINE.pop(files[2])
    files[2].unlink()
    decode(folder, files)


@case("photograph", "a folder in its place")
def _(folder):
    files = photographs(folder)
    MINE.pop(files[2])
    files[2].unlink()
    files[2].mkdir()
    decode(folder, files)


@case("photograph", "not one of them an image")
def _(folder):
    decode(folder, photographs(folder, *[b"text"] * 6))


@case("photograph", "a class without any")
def _(folder):
    root = folder / "imagenette2-320"
    for part in ("train", "val"):
        for wnid in sorted(data.IMAGENETTE_CLASSES)[1:]:
            mine(root / part / wnid / "0.JPEG", encoded(picture(0)))
    with patch.object(runtime, "PROJECT_ROOT", folder):
        data.imagenette("real", folder)


# --- the decoded cache ------------------------------------------------------------------------------------


def damage_cache(damage: Callable[[Path, Path], None]) -> Callable[[Path], None]:
    """Decode, damage the cache or its index, and decode again."""

    def attempt(folder: Path) -> None:
        files, cache = photographs(folder), folder / "decoded" / "tiny.bin"
        with contextlib.redirect_stdout(io.StringIO()):
            before = decoded.decode(files, 16, cache).images.clone()
        damage(cache, cache.with_suffix(".jsonl"))
        assert torch.equal(decoded.decode(files, 16, cache).images, before)

    return attempt


def rewrite(change: Callable[[bytes], bytes], path: Path) -> None:
    """Replace a file; what is mapped from the old one stays as it is."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(change(content))


for name, damage in {
    "one bit flipped": lambda pixels, index: rewrite(lambda b: flipped(b, 999), pixels),
    "cut in half": lambda pixels, index: rewrite(lambda b: b[: len(b) // 2], pixels),
    "deleted": lambda pixels, index: pixels.unlink(),
    "zero bytes": lambda pixels, index: rewrite(lambda b: b"", pixels),
    "its index deleted": lambda pixels, index: index.unlink(),
    "its index altered": lambda pixels, index: rewrite(
        lambda b: b.replace(b'"kept": 6', b'"kept": 5'), index
    ),
    "its index replaced by text": lambda pixels, index: rewrite(lambda b: b"text", index),
}.items():
    CASES.append(Case("decoded images", name, damage_cache(damage)))


# --- mirrors ----------------------------------------------------------------------------------------------


class Hostile(Mirror):
    """More ways in which a mirror can go wrong."""

    def missing(self, packed):
        self.send_error(404)

    def broken(self, packed):
        self.send_error(500)

    def plain(self, packed):
        self.redirect("http://127.0.0.1:9/images.gz")

    def file(self, packed):
        self.redirect("file:///etc/hostname")

    def loop(self, packed):
        self.redirect(self.path)

    def redirect(self, address):
        self.send_response(302)
        self.send_header("Location", address)
        self.end_headers()


@contextlib.contextmanager
def mirror(folder: Path, schemes: tuple[str, ...] = ("http",)) -> Iterator[str]:
    """The address of a server on this machine; plain HTTP counts as safe meanwhile."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.daemon_threads, server.handle_error = True, lambda *args: None
    server.asked, server.closing = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with patch.object(download, "SCHEMES", schemes), patch.dict(os.environ, {"no_proxy": "127.0.0.1"}):
            yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def ask(behaviour: str, folder: Path) -> None:
    """Download from such a mirror; a reader's own file lies in the folder already."""
    mine(folder / "raw" / "labels", FILES["labels"])
    with mirror(folder) as address:
        sources = [f"{address}{behaviour}/"]
        try:
            patience = STALL if behaviour in ("hang", "drip") else 60
            download.download_gzipped(folder / "raw", SHA256, sources, stall=patience, limit=2 * patience)
        finally:
            left = {path.name for path in (folder / "raw").iterdir()} - {"labels", ".download.lock"}
            assert not left, "a half or wrong file was left"


for name, behaviour in {
    "403 Forbidden": "forbidden",
    "404 Not Found": "missing",
    "500 Internal Server Error": "broken",
    "a log-in page instead of the file": "html",
    "half of the file": "half",
    "another file": "altered",
    "no answer": "hang",
    "a byte now and then": "drip",
    "a redirect to FTP": "elsewhere",
    "a redirect to a file on this machine": "file",
    "a redirect to itself": "loop",
}.items():
    CASES.append(Case("mirror", name, functools.partial(ask, behaviour)))


@case("mirror", "not over HTTPS")
def _(folder):
    download.download_gzipped(folder, SHA256, ["http://127.0.0.1/"])


@case("mirror", "a redirect from HTTPS to HTTP")
def _(folder):
    handler, request = (
        download._SafeRedirects(),
        download.urllib.request.Request("https://127.0.0.1/images.gz"),
    )
    handler.redirect_request(request, None, 302, "Found", {}, "http://127.0.0.1/images.gz")


@case("mirror", "a port where nobody listens")
def _(folder):
    with patch.dict(os.environ, {"no_proxy": "127.0.0.1"}):
        download.download_gzipped(folder, SHA256, ["https://127.0.0.1:9/"])


# --- archives ---------------------------------------------------------------------------------------------


def member(path: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def packed(*members: tarfile.TarInfo, content: bytes = b"evil") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for info in members:
            info.size = len(content) if info.isfile() else 0
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Download an archive with the right checksum; a reader's own file lies beside the data folder."""
    mine(folder / "outside", b"my notes")
    name = "set.tgz"
    with mirror(folder) as address, patch.dict(ARCHIVES, {name: archive}):
        arguments = (f"{address}good/{name}", hashlib.sha256(archive).hexdigest(), len(archive))
        try:
            download.download_archive(folder / "root", *arguments)
        finally:
            assert not any(path.is_symlink() for path in folder.rglob("*"))
            assert {path.name for path in folder.iterdir()} == {"outside", "root"}


LINK, HARD, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
for name, archive in {
    "writes to ../../outside": packed(member("set/a"), member("../../outside")),
    "writes through a link to the folder above": packed(
        member("set/up", type=LINK, linkname="../../.."), member("set/up/outside")
    ),
    "a link to a file of the system": packed(member("set/passwords", type=LINK, linkname="/etc/passwd")),
    "a hard link to a file outside": packed(member("set/link", type=HARD, linkname="../../outside")),
    "a device": packed(member("set/null", type=DEVICE)),
    "an absolute path": packed(member("/outside")),
    "without the folder it promises": packed(member("other/a")),
    "no archive at all": b"not an archive",
    "cut in half": packed(member("set/a"), content=os.urandom(5000))[:2000],
}.items():
    CASES.append(Case("archive", name, functools.partial(unpack, archive)))


# --- checkpoints ------------------------------------------------------------------------------------------


class Planted:
    """Runs code when it is unpickled: it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


def network(units: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, units))


def train(model: nn.Module | None = None, images: ImageSet = SIX, rate: float = 0.1, **options) -> None:
    model = model or network()
    options = {"batch_size": 3, "steps": 4, "transform": scale(), "progress": False} | options
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    fit(model, images, optimizer=optimizer, hooks=[(1, lambda state: None)], **options)


def resume(change: Callable[[bytes], bytes] | None, folder: Path, **options: object) -> None:
    """Continue a run from its checkpoint, after a change of the file or of the run."""
    path = folder / "run.pt"
    train(checkpoint=path)
    mine(path, (change or (lambda whole: whole))(path.read_bytes()))
    train(checkpoint=path, **options)


def with_code(save: Callable[[object, io.BytesIO], None], folder: Path) -> None:
    """Continue from a file that makes a folder when it is trusted."""
    file = io.BytesIO()
    save({"signature": Planted(folder / "made by the file")}, file)
    try:
        train(checkpoint=mine(folder / "run.pt", file.getvalue()))
    finally:
        assert not (folder / "made by the file").exists(), "the file ran its code"


CASES.append(Case("checkpoint", "a pickle that runs code", functools.partial(with_code, pickle.dump)))
CASES.append(Case("checkpoint", "code inside a file of torch's", functools.partial(with_code, torch.save)))

for name, change in {
    "zero bytes": lambda whole: b"",
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "one bit flipped in a weight": lambda whole: flipped(whole, whole.index(weight_bytes()) + 20),
    "a log-in page": lambda whole: b"<!DOCTYPE html>",
}.items():
    CASES.append(Case("checkpoint", name, functools.partial(resume, change)))


def weight_bytes() -> bytes:
    """The bytes of the small network's weights after its four steps, as they lie in the file."""
    model = network()
    train(model)
    return model[1].weight.detach().numpy().tobytes()


class Other(nn.Sequential):
    """The same layers, called in another way: it prints as the plain one does but for its name."""


for name, options in {
    "of another network": {"model": network(units=4)},
    "of another data set": {"images": ImageSet(PIXELS + 1, SIX.labels, SIX.classes, "six")},
    "of another learning rate": {"rate": 0.2},
    "of a longer schedule": {"steps": 5},
    "of another batch size": {"batch_size": 2},
    "of another order of images": {"seed": 1},
    "of another validation set": {"val": SIX},
    "of another transform": {"transform": scale(-1, 1)},
}.items():
    CASES.append(Case("checkpoint", name, lambda folder, options=options: resume(None, folder, **options)))


# --- numbers ----------------------------------------------------------------------------------------------

NOISE = ImageSet(
    torch.randint(1, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    SIX.labels,
    SIX.classes,
    "noise",
)


def deep() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 3))


@case("numbers", "pixels that are not finite")
def _(folder):
    train(deep(), NOISE, transform=lambda images: images.float() / 0 * 0)


@case("numbers", "a learning rate far too high")
def _(folder):
    train(deep(), NOISE, rate=1e20, steps=20)


@case("numbers", "a learning rate that is infinite")
def _(folder):
    train(deep(), NOISE, rate=float("inf"), steps=1)


@case("numbers", "weights that are far too large")
def _(folder):
    model = deep()
    for layer in model[1:]:
        nn.init.constant_(layer.weight, 1e15)
    train(model, NOISE)


@case("numbers", "the logarithm of a softmax that is 0")
def _(folder):
    model = deep()
    nn.init.constant_(model[3].bias, 0)
    with torch.no_grad():
        model[3].bias[0] = 1000
    train(model, NOISE, loss_fn=lambda logits, labels: F.nll_loss(logits.softmax(1).log(), labels))


@case("numbers", "a square root at 0")
def _(folder):
    def kink(logits, labels):
        return F.cross_entropy(logits, labels) + (logits - logits.detach()).square().sum().sqrt()

    train(deep(), NOISE, loss_fn=kink)


@case("numbers", "a batch that the accelerator's memory can't hold")
def _(folder):
    def check(_, inputs):
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = deep()
    model.register_forward_pre_hook(check)
    train(model, NOISE, batch_size=6)


@case("numbers", "batches of no images")
def _(folder):
    train(batch_size=0)


@case("numbers", "a run of no steps")
def _(folder):
    train(steps=0)


@case("numbers", "steps and epochs at once")
def _(folder):
    train(epochs=2)


@case("numbers", "a network without parameters")
def _(folder):
    fit(nn.Flatten(), SIX, optimizer=None, batch_size=3, steps=1, transform=scale())


@case("numbers", "an evaluation in batches of none")
def _(folder):
    evaluate(network(), SIX, transform=scale(), batch_size=0)


def main() -> None:
    """Try every case and write the outcomes into the JSON file, beside what else is there."""
    outcomes = []
    for one in CASES:
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(asdict(outcome(one, Path(folder))))
            print(*outcomes[-1].values(), sep=" | ")
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    text = json.dumps(kept | {"inputs": outcomes}, indent=1, ensure_ascii=False)
    RESULTS.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
