from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.errors import KdctlError
from kdctl.records import Artifact, PlannedRun
from kdctl.store.folder import RunFolder, run_folders
from kdctl.store.ingest import ingest
from kdctl.store.leases import LeaseConfig, Owner
from kdctl.store.removal import finish_removals, free_files, held_runs, remove_run
from kdctl.store.store import Store


@pytest.fixture
def finished(
    store: Store, tmp_path: Path, plan_run: Callable[..., PlannedRun], make_result: Any, make_epoch: Any
) -> RunFolder:
    """A run that ended, in folder and database, with a model."""
    planned = plan_run(1)
    folder = RunFolder(tmp_path / "runs", planned.key)
    folder.write_plan(planned)
    folder.append_epoch(make_epoch(1))
    (folder.path / "last.pt").write_bytes(b"weights")
    folder.write_result(make_result(), [folder.artifact("last.pt")])
    ingest(store, folder)
    return folder


def root(folder: RunFolder) -> Path:
    return folder.path.parent


def test_a_removed_run_is_gone_from_folder_and_database(store: Store, finished: RunFolder) -> None:
    remove_run(store, root(finished), finished.key)
    assert store.runs() == []
    assert (store.epochs(finished.key), store.artifacts(finished.key)) == ([], [])
    assert [path for path in root(finished).iterdir() if path.is_dir()] == []


def test_a_run_that_somebody_works_on_stays(
    store: Store, tmp_path: Path, plan_run: Callable[..., PlannedRun], stranger: Owner
) -> None:
    planned = plan_run(2)
    store.add_runs([planned])
    store.claim(planned.key, stranger, lease_seconds=60)
    assert held_runs(store, [planned.key]) == {planned.key: stranger}
    with pytest.raises(KdctlError, match=f"process 7 on elsewhere works on run {planned.key}"):
        remove_run(store, tmp_path, planned.key)
    with pytest.raises(KdctlError, match="process 7"):
        free_files(store, RunFolder(tmp_path, planned.key), ["last.pt"])
    assert [run.key for run in store.runs()] == [planned.key]


def test_a_lease_that_a_wrong_clock_wrote_keeps_no_run(
    store: Store, tmp_path: Path, plan_run: Callable[..., PlannedRun], stranger: Owner
) -> None:
    planned = plan_run(2)
    store.add_runs([planned])
    store.claim(planned.key, stranger, lease_seconds=3 * 365 * 86_400)
    assert held_runs(store, [planned.key]) == {}
    remove_run(store, tmp_path, planned.key)
    assert store.runs() == []
    with pytest.raises(ValueError, match="longer than a day"):
        LeaseConfig(seconds=1e6)


def test_a_removal_killed_before_the_row_went_is_finished(store: Store, finished: RunFolder) -> None:
    finished.path.rename(root(finished) / f".removed-{finished.key}")
    assert run_folders(root(finished)) == []
    assert finish_removals(store, root(finished)) == ([finished.key], [])
    assert store.runs() == []
    assert list(root(finished).glob(".removed*")) == []
    assert finish_removals(store, root(finished)) == ([], [])


def test_a_removal_killed_after_the_row_went_is_finished(store: Store, finished: RunFolder) -> None:
    kept = {path.name: path.read_bytes() for path in finished.path.iterdir()}
    remove_run(store, root(finished), finished.key)
    trash = root(finished) / f".removed-{finished.key}"
    trash.mkdir()
    for name, content in kept.items():
        (trash / name).write_bytes(content)
    assert finish_removals(store, root(finished)) == ([finished.key], [])
    assert not trash.exists()


def test_a_run_that_was_started_anew_is_not_taken_for_a_leftover(store: Store, finished: RunFolder) -> None:
    trash = root(finished) / f".removed-{finished.key}"
    trash.mkdir()
    finish_removals(store, root(finished))
    assert [run.key for run in store.runs()] == [finished.key]
    assert not trash.exists()
    assert finished.path.exists()


@pytest.mark.parametrize("is_taken_up", [False, True])
def test_a_run_that_was_planned_anew_and_has_no_folder_yet_is_no_leftover(
    store: Store, finished: RunFolder, stranger: Owner, is_taken_up: bool
) -> None:
    planned = finished.plan()
    remove_run(store, root(finished), finished.key)
    (root(finished) / f".removed-{finished.key}").mkdir()  # killed before all files were gone
    store.add_runs([planned])
    if is_taken_up:
        assert store.claim(planned.key, stranger, lease_seconds=60)
    assert finish_removals(store, root(finished)) == ([finished.key], [])
    assert [run.key for run in store.runs()] == [finished.key]


def test_freed_checkpoints_leave_every_number(store: Store, finished: RunFolder) -> None:
    before = store.run(finished.key)
    free_files(store, finished, ["last.pt"])
    assert store.run(finished.key) == before
    assert finished.result() == before.result
    assert not (finished.path / "last.pt").exists()
    assert (store.artifacts(finished.key), finished.artifacts()) == ([], ())


def test_freeing_killed_before_the_file_went_can_be_done_again(store: Store, finished: RunFolder) -> None:
    free_files(store, finished, ["last.pt"])
    (finished.path / "last.pt").write_bytes(b"weights")
    free_files(store, finished, ["last.pt", "gone.pt"])
    assert not (finished.path / "last.pt").exists()


def test_files_that_are_not_named_stay_on_record(store: Store, finished: RunFolder) -> None:
    free_files(store, finished, ["best-test.pt"])
    (artifact,) = store.artifacts(finished.key)
    assert isinstance(artifact, Artifact)
    assert artifact == finished.artifact("last.pt")
