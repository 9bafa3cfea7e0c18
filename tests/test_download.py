"""Every mirror here is a local server that misbehaves in one way; nothing leaves 127.0.0.1."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from helpers import download
from helpers.download import DownloadError, chunks, download_archive, download_gzipped, missing_files

FILES = {"images": bytes(range(256)) * 40, "labels": b"0123456789"}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def archive(contents):
    """A .tgz file with these contents: path → bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in contents.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


ARCHIVES = {
    "set.tgz": archive({"set/train/images": FILES["images"], "set/labels": FILES["labels"]}),
    "evil.tgz": archive({"evil/labels": b"0123", "../outside": b"evil"}),
    "text.tgz": b"not an archive",
}


class Mirror(BaseHTTPRequestHandler):
    """Answers /<behaviour>/<name>.gz and <name>.tgz; the server keeps the paths asked for in `asked`."""

    def do_GET(self):
        self.server.asked.append(self.path)
        _, behaviour, file = self.path.split("/")
        packed = ARCHIVES.get(file) or gzip.compress(FILES[file.removesuffix(".gz")])
        getattr(self, behaviour)(packed)

    def good(self, packed, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(packed) if length is None else length))
        self.end_headers()
        self.wfile.write(packed)

    def forbidden(self, packed):
        self.send_error(403)

    def html(self, packed):
        self.good(b"<!DOCTYPE html><title>Please log in</title>")

    def half(self, packed):
        self.good(packed[: len(packed) // 2], length=len(packed))

    def altered(self, packed):
        self.good(gzip.compress(b"not what was promised"))

    def hang(self, packed):
        self.server.closing.wait(10)

    def drip(self, packed):
        self.send_response(200)
        self.end_headers()
        while not self.server.closing.wait(0.02):
            self.wfile.write(b"x")

    def elsewhere(self, packed):
        self.send_response(302)
        self.send_header("Location", "ftp://127.0.0.1/images.gz")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A running server; its `url(behaviour)` is a mirror's address."""
    monkeypatch.setattr(download, "SCHEMES", ("http",))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # a client that gave up is no news
    server.asked, server.closing = [], threading.Event()
    server.url = lambda behaviour: f"http://127.0.0.1:{server.server_port}/{behaviour}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, folder, behaviour="good", name="set", **options):
    """Download one of the archives."""
    packed = ARCHIVES[f"{name}.tgz"]
    sha256 = hashlib.sha256(packed).hexdigest()
    download_archive(folder, f"{server.url(behaviour)}{name}.tgz", sha256, len(packed), **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".download.lock"}


def test_download_gzipped_places_exactly_the_unpacked_files(server, tmp_path):
    download_gzipped(tmp_path / "new" / "folder", SHA256, [server.url("good")])
    assert contents(tmp_path / "new" / "folder") == FILES


def test_download_gzipped_fetches_only_what_is_missing(server, tmp_path):
    (tmp_path / "images").write_bytes(FILES["images"])
    download_gzipped(tmp_path, SHA256, [server.url("good")])
    assert server.asked == ["/good/labels.gz"]


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        ("forbidden", "HTTP Error 403: Forbidden"),
        ("html", "no whole gzip file for images but 43 bytes"),
        ("half", "no whole gzip file for images"),
        ("altered", "sent something else for images: sha256 "),
        ("hang", "no answer in 1 s"),
        ("drip", "took too long"),
        ("elsewhere", r"ftp://127\.0\.0\.1/images\.gz is refused: only http is allowed"),
    ],
)
def test_download_gzipped_names_what_a_mirror_did(server, tmp_path, behaviour, complaint):
    start = time.monotonic()
    with pytest.raises(DownloadError, match=complaint) as caught:
        download_gzipped(tmp_path, SHA256, [server.url(behaviour)], stall=1, limit=1.5)
    assert time.monotonic() - start < 8
    assert str(caught.value).startswith("127.0.0.1:")
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {}


def test_download_gzipped_gives_up_at_the_limit_although_stall_is_longer(server, tmp_path):
    start = time.monotonic()
    with pytest.raises(DownloadError, match="took too long"):
        download_gzipped(tmp_path, SHA256, [server.url("hang")], stall=60, limit=0.5)
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("behaviour", ["forbidden", "half", "hang"])
def test_download_gzipped_goes_on_to_the_next_mirror(server, tmp_path, behaviour):
    download_gzipped(tmp_path, SHA256, [server.url(behaviour), server.url("good")], stall=1)
    assert contents(tmp_path) == FILES


def test_download_gzipped_reports_every_mirror(server, tmp_path):
    with pytest.raises(DownloadError, match=r"403: Forbidden; 127.0.0.1:\d+: sent no whole gzip"):
        download_gzipped(tmp_path, SHA256, [server.url("forbidden"), server.url("html")])


def test_download_gzipped_refuses_plain_http(tmp_path):
    with pytest.raises(
        DownloadError, match=r"http://127\.0\.0\.1/images\.gz is refused: only https is allowed"
    ):
        download_gzipped(tmp_path, SHA256, ["http://127.0.0.1/"])


def test_download_gzipped_never_replaces_an_altered_file(server, tmp_path):
    (tmp_path / "labels").write_bytes(b"mine")
    with pytest.raises(ValueError, match="labels is truncated or altered"):
        download_gzipped(tmp_path, SHA256, [server.url("good")])
    assert contents(tmp_path) == {"labels": b"mine"}
    assert server.asked == []


def test_download_gzipped_outlives_the_rest_of_a_killed_download(server, tmp_path):
    (tmp_path / "images.part").write_bytes(FILES["images"][:9])
    download_gzipped(tmp_path, SHA256, [server.url("good")])
    assert contents(tmp_path) == FILES


def test_download_gzipped_leaves_nothing_when_the_disk_is_full(server, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DownloadError, match="can't write to the data folder: No space left on device"):
        download_gzipped(tmp_path, SHA256, [server.url("good")])
    assert contents(tmp_path) == {}


def test_download_gzipped_says_when_the_folder_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="can't write to the data folder: Not a directory"):
        download_gzipped(tmp_path / "file" / "raw", SHA256, [server.url("good")])


def test_download_gzipped_by_two_at_once_fetches_each_file_once(server, tmp_path):
    arguments = (tmp_path, SHA256, [server.url("good")])
    threads = [threading.Thread(target=download_gzipped, args=arguments) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(server.asked) == ["/good/images.gz", "/good/labels.gz"]
    assert contents(tmp_path) == FILES


def unpacked(folder):
    """Path → bytes of all files below a folder, apart from the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".download.lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


SET = {"set/train/images": FILES["images"], "set/labels": FILES["labels"]}


def test_download_archive_places_exactly_the_unpacked_folder(server, tmp_path, capsys):
    fetch(server, tmp_path / "new")
    assert unpacked(tmp_path / "new") == SET
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [".download.lock", "set"]
    line = f"Downloading set.tgz from 127.0.0.1:{server.server_port}: this takes minutes.\n"
    assert capsys.readouterr().out == line


def test_download_archive_does_nothing_where_the_folder_is(server, tmp_path):
    (tmp_path / "set").mkdir()
    fetch(server, tmp_path)
    assert server.asked == []
    assert unpacked(tmp_path) == {}


@pytest.mark.parametrize(
    ("behaviour", "name", "complaint"),
    [
        ("forbidden", "set", "HTTP Error 403: Forbidden"),
        ("html", "set", "sent something else for set.tgz: 43 bytes, sha256 [0-9a-f]{12}…, not [0-9a-f]{12}…"),
        ("half", "set", r"sent something else for set\.tgz: \d+ bytes"),
        ("altered", "set", r"sent something else for set\.tgz: \d+ bytes"),
        ("hang", "set", "no answer in 1 s"),
        ("drip", "set", "took too long"),
        ("elsewhere", "set", r"ftp://127\.0\.0\.1/images\.gz is refused: only http is allowed"),
        ("good", "text", r"can't unpack text\.tgz \(ReadError\)"),
        ("good", "evil", r"can't unpack evil\.tgz \(OutsideDestinationError\)"),
    ],
)
def test_download_archive_names_what_went_wrong_and_leaves_nothing(
    server, tmp_path, behaviour, name, complaint
):
    start = time.monotonic()
    with pytest.raises(DownloadError, match=complaint) as caught:
        fetch(server, tmp_path / "root", behaviour, name, stall=1, limit=1.5)
    assert time.monotonic() - start < 8
    assert str(caught.value).startswith("127.0.0.1:")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert unpacked(tmp_path) == {}
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".download.lock"]


def test_download_archive_says_nothing_before_the_first_byte(server, tmp_path, capsys):
    with pytest.raises(DownloadError, match="403"):
        fetch(server, tmp_path, "forbidden")
    assert capsys.readouterr().out == ""


def test_download_archive_outlives_the_rest_of_a_killed_download(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(ARCHIVES["set.tgz"][:9])
    (tmp_path / "set.unpacked" / "set").mkdir(parents=True)
    (tmp_path / "set.unpacked" / "set" / "old").touch()
    fetch(server, tmp_path)
    assert unpacked(tmp_path) == SET


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_download_archive_leaves_nothing_of_a_folder_that_it_could_not_finish(
    server, tmp_path, monkeypatch, interruption
):
    def fail(tar, folder, filter):
        (folder / "set").mkdir(parents=True)
        (folder / "set" / "labels").write_bytes(b"01")
        raise interruption

    monkeypatch.setattr(tarfile.TarFile, "extractall", fail)
    expected = KeyboardInterrupt if isinstance(interruption, KeyboardInterrupt) else DownloadError
    with pytest.raises(expected) as caught:
        fetch(server, tmp_path)
    if expected is DownloadError:
        assert str(caught.value) == "can't write to the data folder: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == [".download.lock"]


def test_download_archive_asks_for_space_before_it_starts(server, tmp_path, monkeypatch):
    size = len(ARCHIVES["set.tgz"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * size - 1))
    with pytest.raises(DownloadError, match=r"needs .* GB in the data folder, .* GB are free"):
        fetch(server, tmp_path)
    assert server.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * size))
    fetch(server, tmp_path)
    assert unpacked(tmp_path) == SET


def test_download_archive_by_two_at_once_fetches_it_once(server, tmp_path):
    threads = [threading.Thread(target=fetch, args=(server, tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == ["/good/set.tgz"]
    assert unpacked(tmp_path) == SET


def test_download_archive_does_not_wait_for_another_process_for_ever(server, tmp_path):
    complaint = "^another process has been downloading for 0.05 s$"
    with FileLock(tmp_path / ".download.lock"), pytest.raises(DownloadError, match=complaint):
        fetch(server, tmp_path, limit=0.05)


def test_chunks_add_up_to_the_file(server):
    packed = b"".join(chunks(server.url("good") + "images.gz", stall=5, deadline=time.monotonic() + 5))
    assert gzip.decompress(packed) == FILES["images"]


def test_missing_files_lists_what_a_folder_lacks(tmp_path):
    assert missing_files(tmp_path / "nowhere", SHA256) == ["images", "labels"]
    (tmp_path / "images").write_bytes(FILES["images"])
    assert missing_files(tmp_path, SHA256) == ["labels"]


@pytest.mark.parametrize("content", [FILES["labels"][:-1], b"0123456780", b""])
def test_missing_files_names_a_truncated_or_altered_file(tmp_path, content):
    (tmp_path / "labels").write_bytes(content)
    found, expected = hashlib.sha256(content).hexdigest()[:12], SHA256["labels"][:12]
    with pytest.raises(ValueError, match=f"labels is truncated .* is {found}…, not {expected}…; delete it"):
        missing_files(tmp_path, SHA256)


CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers import download
download.SCHEMES = ("http",)
download.download_gzipped(Path(sys.argv[2]), json.loads(sys.argv[3]), [sys.argv[4]])
"""


@pytest.mark.parametrize("name", ["empty root", "Übungen und 数字", "[ab]*"])
def test_download_gzipped_by_two_processes_at_once_fetches_each_file_once(server, tmp_path, name):
    project = str(Path(download.__file__).parent.parent)
    arguments = [project, str(tmp_path / name / "raw"), json.dumps(SHA256), server.url("good")]
    both = [subprocess.Popen([sys.executable, "-c", CHILD, *arguments]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(server.asked) == ["/good/images.gz", "/good/labels.gz"]
    assert contents(tmp_path / name / "raw") == FILES


def test_download_says_when_the_folder_is_read_only(server, unwritable):
    folder, protect = unwritable
    with protect(folder), pytest.raises(DownloadError, match=r"data folder: Permission denied$"):
        download_gzipped(folder / "raw", SHA256, [server.url("good")])
    assert server.asked == []


def test_download_archive_names_a_folder_that_is_not_in_it(server, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHIVES, "set.tgz", archive({"other/labels": b"0123"}))
    with pytest.raises(DownloadError, match=r"sent a set\.tgz without the folder set$"):
        fetch(server, tmp_path)
    assert unpacked(tmp_path) == {}


def test_downloads_follow_no_redirect_from_https_to_anything_else():
    handler, request = download._SafeRedirects(), download.urllib.request.Request("https://127.0.0.1/a.gz")
    for address in ("http://127.0.0.1/a.gz", "ftp://127.0.0.1/a.gz", "file:///etc/hostname"):
        with pytest.raises(DownloadError, match="is refused: only https is allowed"):
            handler.redirect_request(request, None, 302, "Found", {}, address)
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://127.0.0.1/b.gz") is not None
