from __future__ import annotations

import dataclasses
import hashlib
import tarfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kdctl.readers.archive import Archive, DownloadError, download

if TYPE_CHECKING:
    from conftest import TinyCifar

FILES = ["batch_1", "meta"]


def test_only_the_named_files_are_unpacked(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    archive = tiny_cifar.pack(tmp_path / "server")
    folder = download(archive, tmp_path / "data", folder="tiny-python", files=FILES)
    assert folder == tmp_path / "data" / "tiny-python"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny-python"]
    original = tmp_path / "server" / "tiny-python" / "meta"
    assert (folder / "meta").read_bytes() == original.read_bytes()


def test_an_altered_archive_is_refused_and_leaves_nothing(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    archive = dataclasses.replace(tiny_cifar.pack(tmp_path / "server"), md5="0" * 32)
    with pytest.raises(DownloadError, match="instead of 0000"):
        download(archive, tmp_path / "data", folder="tiny-python", files=FILES)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    archive = Archive(url=(tmp_path / "x.tar.gz").as_uri(), md5=hashlib.md5(content).hexdigest())
    with pytest.raises(DownloadError):
        download(archive, tmp_path / "data", folder="tiny-python", files=FILES)


def test_an_archive_that_lacks_a_file_is_refused(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    archive = tiny_cifar.pack(tmp_path / "server")
    with pytest.raises(DownloadError, match="unheard-of"):
        download(archive, tmp_path / "data", folder="tiny-python", files=["unheard-of"])
    assert list((tmp_path / "data").iterdir()) == []


def test_a_link_in_the_archive_is_not_followed_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    link = tarfile.TarInfo("tiny-python/meta")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
    packed = tmp_path / "evil.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.addfile(link)
    evil = Archive(url=packed.as_uri(), md5=hashlib.md5(packed.read_bytes()).hexdigest())
    with pytest.raises(DownloadError):
        download(evil, tmp_path / "data", folder="tiny-python", files=["meta"])


def test_whoever_comes_second_uses_what_the_first_unpacked(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    archive = tiny_cifar.pack(tmp_path / "server")
    first = download(archive, tmp_path / "data", folder="tiny-python", files=FILES)
    (first / "mine").touch()
    assert download(archive, tmp_path / "data", folder="tiny-python", files=FILES) == first
    assert (first / "mine").exists()


def test_no_network_is_said_at_once(tmp_path: Path) -> None:
    nowhere = Archive(url="http://127.0.0.1:9/x.tar.gz", md5="")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9/x\.tar\.gz: "):
        download(nowhere, tmp_path, folder="tiny-python", files=FILES)


def test_a_proxy_that_is_none_is_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://.proxy:3128")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of earlier requests
    with pytest.raises(DownloadError, match=r"example\.invalid/x\.tar\.gz: .*label empty"):
        download(Archive(url="http://example.invalid/x.tar.gz", md5=""), tmp_path, folder="a", files=FILES)
