"""Verbs that write into a disk without room: it is said, and nothing half-written stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdctl.protocols.backbone import models

Kdctl = Callable[..., Any]

ROOM = 16 * 1024
"""Bytes that are left: enough to begin, and not to end."""


@pytest.fixture
def full(small_disk: Path) -> Path:
    """A disk that is full but for a little."""
    status = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"\1" * (status.f_bavail * status.f_frsize - ROOM))
    return small_disk


@pytest.mark.parametrize(
    "words",
    [
        "db backup {disk}/copy.db",
        "db export {disk}/tables",
        "eval {run} --threads 1 --export {disk}/model.pt2",
        "eval {run} --threads 1 --features {disk}/features.npz",
        "report --all --format html -o {disk}/report.html",
        pytest.param("export {disk}/logs --to wandb", marks=pytest.mark.slow),
        "import-weights weights.pth --dataset digits -o data.size=8 -o data.samples_per_class=2 --threads 1 "
        "--runs {disk}/runs",
    ],
)
@pytest.mark.extended
def test_nothing_half_written_stays(
    kdctl: Kdctl,
    two_runs: Path,
    tmp_path: Path,
    full: Path,
    publish: Callable[..., dict[str, torch.Tensor]],
    words: str,
) -> None:
    shutil.copytree(two_runs, tmp_path / "runs")
    torch.save(publish("resnet8", models.get("resnet8").item(10, 8)), tmp_path / "weights.pth")
    run = next(two_runs.glob("*/plan.json")).parent.name
    answer = kdctl(words.format(disk=full, run=run))
    assert answer.code == 1, answer
    assert "error: " in answer.err
    assert "this is a bug" not in answer.err
    assert "Traceback" not in answer.err
    left = {
        path.relative_to(full).as_posix(): path.stat().st_size for path in full.rglob("*") if path.is_file()
    }
    assert set(left) <= {"ballast", "runs/kdctl.db"}
    assert left.get("runs/kdctl.db", 0) == 0  # SQLite begins there when there is room
