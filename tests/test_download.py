"""Every mirror here is a local server that misbehaves in one way; nothing leaves 127.0.0.1."""

import gzip
import hashlib
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import download
from helpers.download import DownloadError, chunks, download_gzipped, missing_files

FILES = {"images": bytes(range(256)) * 40, "labels": b"0123456789"}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


class Mirror(BaseHTTPRequestHandler):
    """Answers /<behaviour>/<name>.gz; the server keeps the paths asked for in `asked`."""

    def do_GET(self):
        self.server.asked.append(self.path)
        _, behaviour, file = self.path.split("/")
        packed = gzip.compress(FILES[file.removesuffix(".gz")])
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
        ("altered", "sent another images: sha256 "),
        ("hang", "no answer in 1 s"),
        ("drip", "took too long"),
        ("elsewhere", r"ftp://127\.0\.0\.1/images\.gz is refused: only http is safe"),
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
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1/images\.gz is refused: only https is safe"):
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
