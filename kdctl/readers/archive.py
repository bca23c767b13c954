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

from kdctl.errors import KdctlError

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

    @property
    def name(self) -> str:
        """Return how the file is called."""
        return self.url.rpartition("/")[2]


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
    except (OSError, http.client.HTTPException, tarfile.TarError, EOFError, KeyError, ValueError) as error:
        # A ValueError is an address of a proxy that is none, as $https_proxy may have it.
        raise DownloadError(f"{archive.url}: {error}") from error
    return target


def find_archive(archive: Archive, *folders: Path) -> Path | None:
    """Return the archive if it lies in one of these folders as it was fetched by other means."""
    return next((path for folder in folders if (path := folder / archive.name).is_file()), None)


@contextlib.contextmanager
def unpacked_archive(
    packed: Path, archive: Archive, root: Path, *, folder: str, files: Sequence[str]
) -> Generator[Path]:
    """Unpack an archive that is here, like one from the network: to a folder of that name below `root`.

    Where nothing may be made there, or nothing should be (`without_network`: just to look), a temporary
    folder takes its place.

    Args:
        packed: the file.
        archive: what it should be.
        root: folder of data sets.
        folder: in the archive.
        files: of that folder; nothing else is unpacked.

    Raises:
        KdctlError: it is not the official archive, or cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            workplace = Path(stack.enter_context(_workplace(root)))
            content = workplace / folder
            with packed.open("rb") as stream:
                digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
                if digest != archive.md5:
                    raise KdctlError(
                        f"{packed} is not the official archive: its MD5 is {digest}, not {archive.md5}.",
                        f"fetch {archive.url} anew (a download may have been cut short), or remove the file.",
                    )
                stream.seek(0)
                _unpack(stream, folder, files=files, target=content)
        except (OSError, tarfile.TarError, EOFError, KeyError) as error:
            raise KdctlError(f"{packed} cannot be unpacked: {error}.", "restore the file.") from error
        if workplace.parent == root:
            with contextlib.suppress(OSError):  # then it is read where it is
                _appear(content, root / folder)
                content = root / folder
        yield content


def _workplace(root: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder: in `root` if something may stay there."""
    if _may_fetch.get():
        with contextlib.suppress(OSError):
            return tempfile.TemporaryDirectory(dir=root, prefix=".download-")
    return tempfile.TemporaryDirectory(prefix="kdctl-")


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
