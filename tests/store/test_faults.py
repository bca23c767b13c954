from __future__ import annotations

import os
from pathlib import Path

from kdctl.store.faults import NUM_BYTES, keep_reserve, spend_reserve


def free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def test_what_is_put_by_comes_back(small_disk: Path) -> None:
    before = free_bytes(small_disk)
    keep_reserve(small_disk)
    keep_reserve(small_disk)
    assert free_bytes(small_disk) <= before - NUM_BYTES
    spend_reserve(small_disk)
    spend_reserve(small_disk)
    assert free_bytes(small_disk) == before


def test_where_nothing_can_be_put_by_nobody_is_stopped(tmp_path: Path) -> None:
    keep_reserve(tmp_path / "missing")
    spend_reserve(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
