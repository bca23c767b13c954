"""What a scheduler tells its workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdctl.assembly.data import DataLibrary
from kdctl.assembly.run_context import RunContext
from kdctl.errors import KdctlError
from kdctl.execution.messages import WorkerSetup
from kdctl.store.json_files import from_json, to_json
from kdctl.store.leases import LeaseConfig


def setup_in(place: Path) -> WorkerSetup:
    context = RunContext(
        runs=place / "runs",
        open_library=lambda: DataLibrary(place / "data"),
        device="cpu",
        num_threads=1,
        num_workers=0,
        graphs="off",
        teacher_cache="off",
    )
    return WorkerSetup.of(context, plugins=[place / "mine.py"], lease=LeaseConfig())


def test_folders_of_any_letters_arrive_as_they_are(tmp_path: Path) -> None:
    setup = setup_in(tmp_path / "ä 数\n'\"$(x)")
    assert from_json(WorkerSetup, to_json(setup)) == setup
    assert Path(setup.runs).is_absolute()


def test_a_folder_that_is_no_text_is_refused_before_a_worker_waits_for_it(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"\xff\xfe")
    with pytest.raises(KdctlError, match=r"\\xff\\xfe.*, which is not in UTF-8") as caught:
        setup_in(place)
    assert "without --slots" in caught.value.hint
