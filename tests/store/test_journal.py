from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdctl.store.journal import filesystem_of, is_network


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mounts"
    path.write_text(
        "/dev/sda1 / ext4 rw 0 0\n"
        "server:/home /nowhere/home nfs4 rw 0 0\n"
        "tmpfs /nowhere/home/scratch tmpfs rw 0 0\n"
        r"//server/share /nowhere/my\040files cifs rw 0 0" + "\n"
    )
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/nowhere/kdctl.db", "ext4"),
        ("/nowhere/home/kdctl.db", "nfs4"),
        ("/nowhere/home/scratch/runs/kdctl.db", "tmpfs"),
        ("/nowhere/my files/kdctl.db", "cifs"),
        ("/nowhere/homes/kdctl.db", "ext4"),
    ],
)
def test_the_innermost_mount_counts(mounts: Path, path: str, kind: str) -> None:
    assert filesystem_of(Path(path), mounts) == kind


def test_a_later_mount_hides_an_earlier_one(mounts: Path) -> None:
    mounts.write_text(mounts.read_text() + "server:/ / nfs rw 0 0\n")

    assert filesystem_of(Path("/nowhere/kdctl.db"), mounts) == "nfs"


def test_places_may_have_any_names(mounts: Path) -> None:
    others = b"/dev/sdb1 /media/gr\xfc\xdfe ext4 rw 0 0\n/dev/sdc1 /media/a\x0cb\xc2\x85c ext4 rw 0 0\n"
    mounts.write_bytes(others + mounts.read_bytes() + b"host:/ /nowhere/gr\xfc\xdfe nfs rw 0 0\n")
    assert filesystem_of(Path(os.fsdecode(b"/nowhere/gr\xfc\xdfe/kdctl.db")), mounts) == "nfs"
    assert filesystem_of(Path("/nowhere/home/kdctl.db"), mounts) == "nfs4"


def test_without_a_list_of_mounts_nothing_is_known(tmp_path: Path) -> None:
    assert filesystem_of(tmp_path, tmp_path / "missing") == ""


def test_networks_are_told_from_disks() -> None:
    assert all(map(is_network, ("nfs", "nfs4", "cifs", "lustre", "gpfs", "fuse.sshfs")))
    assert not any(map(is_network, ("", "ext4", "xfs", "tmpfs", "overlay", "fuse.fuse-overlayfs")))
