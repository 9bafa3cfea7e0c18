"""Downloads that end: HTTPS only, every mirror on the clock, nothing kept whose checksum is wrong."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import queue
import shutil
import tarfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

SCHEMES = ("https",)
MOST_BYTES = 2**26  # 64 MB, packed or unpacked: these files are held in memory


class DownloadError(RuntimeError):
    """Nothing could be downloaded; the message says in one line why, without any local path."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def missing_files(folder: Path, sha256: Mapping[str, str]) -> list[str]:
    """Which of the named files a folder lacks, after checking those that it has.

    Args:
        folder: where the files lie; need not exist.
        sha256: file name → checksum in hexadecimal.

    Raises:
        ValueError: a file that is there has another checksum, that is, it is truncated or altered.
    """
    for name in sha256:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256[name]:
                raise ValueError(
                    f"{folder / name} is truncated or altered: its sha256 is {found[:12]}…, "
                    f"not {sha256[name][:12]}…; delete it and run again"
                )
    return [name for name in sha256 if not (folder / name).is_file()]


def unpack_at_hand(folder: Path, sha256: Mapping[str, str]) -> None:
    """Unpack `<name>.gz` where a folder has it and lacks `<name>`: somebody fetched it by hand.

    Args:
        folder: where both lie.
        sha256: file name → checksum of the unpacked file in hexadecimal.

    Raises:
        ValueError: a `.gz` is truncated, altered, or something else.
        DownloadError: the folder can't be written.
    """
    for name in missing_files(folder, sha256):
        packed = folder / f"{name}.gz"
        if packed.is_file():
            try:
                content = _unpack(packed.read_bytes(), name, sha256[name])
            except DownloadError as error:
                raise ValueError(f"{packed} {error}; delete it and run again") from None
            with _locked(folder, timeout=60):
                _store(content, folder / name)


def download_gzipped(
    folder: Path, sha256: Mapping[str, str], mirrors: Sequence[str], *, stall: float = 10, limit: float = 300
) -> None:
    """Fetch the files that a folder lacks as `<mirror><name>.gz`, and unpack, check and then place each.

    Args:
        folder: where the unpacked files go; made if need be, and locked meanwhile against other processes.
        sha256: file name → checksum of the unpacked file in hexadecimal.
        mirrors: addresses that end in "/", tried in this order; the next one fetches what is still missing.
        stall: seconds without a byte, connecting included, after which a mirror is given up.
        limit: seconds that each mirror gets in all.

    Raises:
        DownloadError: every mirror failed, or the folder can't be written.
        ValueError: a file that is there already is truncated or altered.
    """
    failures = []
    with _locked(folder, timeout=limit * len(mirrors)):
        for mirror in mirrors:
            deadline = time.monotonic() + limit
            try:
                for name in missing_files(folder, sha256):
                    packed = b"".join(chunks(f"{mirror}{name}.gz", stall, deadline))
                    _store(_unpack(packed, name, sha256[name]), folder / name)
                return
            except DownloadError as error:
                failures.append(f"{urlsplit(mirror).netloc}: {error}")
    raise DownloadError("; ".join(failures) or "no mirror is known")


def download_archive(
    folder: Path, url: str, sha256: str, size: int, *, stall: float = 10, limit: float = 1800
) -> None:
    """Fetch `<name>.tgz`, check it, and unpack its one folder `<name>`, which is placed when it is whole.

    Nothing is left of a download that fails. If `<name>` is there, or another process makes it meanwhile,
    there is nothing to do.

    Args:
        folder: where `<name>` goes; made if need be, and locked meanwhile against other processes.
        url: address of the archive.
        sha256: checksum of the archive in hexadecimal.
        size: bytes of the archive, of which three times as many must be free.
        stall: seconds without a byte, connecting included, after which it is given up.
        limit: seconds that the download gets in all.

    Raises:
        DownloadError: it failed, sent something else, or the folder can't be written or is short of space.
    """
    host, name = urlsplit(url).netloc, Path(urlsplit(url).path).stem
    archive, unpacked = folder / f"{name}.tgz.part", folder / f"{name}.unpacked"
    with _locked(folder, timeout=limit):
        if (folder / name).exists():
            return
        _require_space(folder, 3 * size)
        try:
            _stream(url, archive, sha256, stall, time.monotonic() + limit)
            shutil.rmtree(unpacked, ignore_errors=True)  # what a killed process has left
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            if not (unpacked / name).is_dir():
                raise DownloadError(f"sent a {name}.tgz without the folder {name}")
            os.replace(unpacked / name, folder / name)
        except DownloadError as error:
            raise DownloadError(f"{host}: {error}") from error
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DownloadError(f"{host}: can't unpack {name}.tgz ({type(error).__name__})") from error
        finally:
            archive.unlink(missing_ok=True)
            shutil.rmtree(unpacked, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, timeout: float) -> Iterator[None]:
    """Make the folder and keep other processes out of it; what the disk refuses becomes a DownloadError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock", timeout=timeout):
            yield
    except Timeout:
        raise DownloadError(f"another process has been downloading for {timeout:g} s") from None
    except OSError as error:
        raise DownloadError(f"can't write to the data folder: {error.strerror or error}") from error


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(f"needs {needed / 1e9:.2g} GB in the data folder, {free / 1e9:.2g} GB are free")


def _stream(url: str, path: Path, sha256: str, stall: float, deadline: float) -> None:
    """Write what an address sends into a file, or a DownloadError if it is not the one wanted."""
    checksum = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks(url, stall, deadline):
            if not file.tell():
                print(f"Downloading {path.stem} from {urlsplit(url).netloc}: this takes minutes.")
            file.write(chunk)
            checksum.update(chunk)
        if checksum.hexdigest() != sha256:
            found = f"{file.tell():,} bytes, sha256 {checksum.hexdigest()[:12]}…"
            raise DownloadError(f"sent something else for {path.stem}: {found}, not {sha256[:12]}…")


def chunks(url: str, stall: float, deadline: float) -> Iterator[bytes]:
    """The bytes behind an address, as they come in.

    A thread reads them, since no socket time-out covers name look-up, a server with many addresses, or one
    that sends a byte now and then.

    Args:
        url: what to fetch; redirects are followed within `SCHEMES`.
        stall: seconds to wait for the next bytes.
        deadline: the `time.monotonic()` at which to give up.

    Raises:
        DownloadError: it failed, stalled, took too long, or is not HTTPS.
    """
    _require_scheme(url)
    arrived: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(url, stall, deadline, arrived), daemon=True).start()
    while True:
        left = deadline - time.monotonic()
        try:
            chunk = arrived.get(timeout=max(0, min(stall, left)))
        except queue.Empty:
            raise DownloadError(f"no answer in {stall:g} s" if left > stall else "took too long") from None
        if isinstance(chunk, Exception):
            raise DownloadError(" ".join(str(chunk).split()) or type(chunk).__name__) from chunk
        if not chunk:
            return
        yield chunk


def _read(url: str, stall: float, deadline: float, arrived: queue.SimpleQueue[bytes | Exception]) -> None:
    """Put what comes from `url` into a queue, and an empty chunk, or what went wrong, at the end."""
    try:
        # A second more than `chunks` waits: the time-out here only ends this thread.
        with urllib.request.build_opener(_SafeRedirects).open(url, timeout=stall + 1) as response:
            while chunk := response.read1(2**16):
                if time.monotonic() > deadline:
                    raise TimeoutError("took too long")
                arrived.put(chunk)
        arrived.put(b"")
    except Exception as error:
        arrived.put(error)


def _require_scheme(url: str) -> None:
    if urlsplit(url).scheme not in SCHEMES:
        raise DownloadError(f"{url} is refused: only {', '.join(SCHEMES)} is allowed")


def _unpack(packed: bytes, name: str, sha256: str) -> bytes:
    """The unpacked file, or a DownloadError if it is not the one wanted."""
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(packed)).read(MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DownloadError(f"sent no whole gzip file for {name} but {len(packed):,} bytes") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DownloadError(f"sent something else for {name}: sha256 {found[:12]}…, not {sha256[:12]}…")
    return content


def _store(content: bytes, path: Path) -> None:
    """Write a whole file or none: under another name first, in the same folder."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
