"""Official archives from the network: fetched once, checked, and unpacked as a whole or not at all."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import http.client
import logging
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TIMEOUT_SECONDS = 10.0
"""Of connecting and of each read: a compute node without a network should say so soon."""

_BLOCK = 1 << 20

_logger = logging.getLogger(__name__)

_may_fetch: contextvars.ContextVar[bool] = contextvars.ContextVar("may_fetch", default=True)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A .tar.gz that everybody can fetch."""

    url: str
    md5: str
    """Official checksum."""


class DownloadError(Exception):
    """The archive cannot be had from here; the message says why."""


@contextlib.contextmanager
def without_network() -> Generator[None]:
    """Refuse downloads inside: a look at the data that are here should not bring more."""
    token = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(token)


def download(archive: Archive, root: Path, *, folder: str, files: Sequence[str]) -> Path:
    """Fetch an archive and unpack `files` from the `folder` in it to a folder of that name below `root`.

    Nothing else is unpacked. The folder appears by a rename once it is complete, so two processes
    may do this at the same time and a broken connection leaves nothing behind.

    Returns:
        The folder.

    Raises:
        DownloadError: no network, a broken or altered archive, or `root` cannot be written.
    """
    if not _may_fetch.get():
        raise DownloadError("nothing is fetched just to look")
    target = root / folder
    _logger.warning("downloading %s to %s", archive.url, root)
    try:
        with urllib.request.urlopen(archive.url, timeout=TIMEOUT_SECONDS) as response:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as workplace:
                unpacked = Path(workplace) / folder
                with tempfile.TemporaryFile(dir=workplace) as packed:
                    _copy(response, packed, archive)
                    _unpack(packed, folder, files=files, target=unpacked)
                _appear(unpacked, target)
    except (OSError, http.client.HTTPException, tarfile.TarError, EOFError, KeyError) as error:
        raise DownloadError(f"{archive.url}: {error}") from error
    return target


def _appear(unpacked: Path, target: Path) -> None:
    try:
        unpacked.replace(target)
    except OSError:
        if not target.is_dir():  # it is one when another process was faster
            raise


def _copy(response: BinaryIO, packed: BinaryIO, archive: Archive) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    while block := response.read(_BLOCK):
        digest.update(block)
        packed.write(block)
    if digest.hexdigest() != archive.md5:
        raise DownloadError(f"{archive.url}: its MD5 is {digest.hexdigest()} instead of {archive.md5}")
    packed.seek(0)


def _unpack(packed: BinaryIO, folder: str, *, files: Sequence[str], target: Path) -> None:
    """Copy the named files only: no path in the archive decides where anything is written."""
    target.mkdir()
    with tarfile.open(fileobj=packed, mode="r:gz") as archive:
        for name in files:
            member = archive.extractfile(f"{folder}/{name}")
            if member is None:
                raise tarfile.TarError(f"{folder}/{name} is no file in it")
            with member, (target / name).open("wb") as file:
                shutil.copyfileobj(member, file)
