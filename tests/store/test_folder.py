from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl.errors import KdctlError
from kdctl.evaluation_records import Evaluation
from kdctl.records import Artifact, Environment, EpochResult, PlannedRun, RunResult
from kdctl.store.folder import RunFolder, run_folders


@pytest.fixture
def run(plan_run: Callable[..., PlannedRun]) -> PlannedRun:
    return plan_run(1)


@pytest.fixture
def folder(tmp_path: Path, run: PlannedRun) -> RunFolder:
    return RunFolder(tmp_path, run.key)


def test_looking_into_a_folder_does_not_make_it(folder: RunFolder) -> None:
    assert folder.epochs() == []
    assert folder.evaluations() == []
    assert folder.environment() is None
    assert folder.result() is None
    assert folder.artifacts() == ()
    assert not folder.path.exists()


def test_everything_about_a_run_comes_back_as_it_was(
    folder: RunFolder,
    run: PlannedRun,
    environment: Environment,
    make_result: Callable[..., RunResult],
    make_evaluation: Callable[..., Evaluation],
    artifact: Artifact,
) -> None:
    folder.write_plan(run)
    folder.write_environment(environment)
    folder.write_result(make_result(), [artifact])
    folder.append_evaluation(make_evaluation(run.key))

    again = RunFolder(folder.path.parent, run.key)
    assert again.plan() == run
    assert again.environment() == environment
    assert again.result() == make_result()
    assert again.artifacts() == (artifact,)
    assert again.evaluations() == [make_evaluation(run.key)]


def test_a_resumed_run_goes_on_from_its_checkpoint(
    folder: RunFolder, make_epoch: Callable[..., EpochResult]
) -> None:
    for number in (1, 2, 3, 4):
        folder.append_epoch(make_epoch(number))

    folder.truncate_epochs(after_epoch=2)
    assert folder.epochs() == [make_epoch(1), make_epoch(2)]
    folder.append_epoch(make_epoch(3))
    assert [epoch.epoch for epoch in folder.epochs()] == [1, 2, 3]


def test_cutting_off_nothing_makes_no_file(folder: RunFolder) -> None:
    folder.truncate_epochs(after_epoch=0)

    assert not folder.path.exists()


def test_of_a_repeated_epoch_the_latest_counts(
    folder: RunFolder, make_epoch: Callable[..., EpochResult]
) -> None:
    for number, loss in ((1, 9.0), (2, 9.0), (1, 1.0)):
        folder.append_epoch(make_epoch(number, test_loss=loss))

    assert [(epoch.epoch, epoch.test.loss) for epoch in folder.epochs()] == [(1, 1.0), (2, 9.0)]


def test_an_artifact_is_known_by_its_content(folder: RunFolder, run: PlannedRun) -> None:
    folder.write_plan(run)
    (folder.path / "last.pt").write_bytes(b"weights")

    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert folder.artifact("last.pt") == Artifact(name="last.pt", sha256=sha256, num_bytes=7)


def test_a_missing_artifact_is_named(folder: RunFolder) -> None:
    with pytest.raises(KdctlError, match=r"there is no file .*last\.pt"):
        folder.artifact("last.pt")


def test_a_folder_without_a_plan_is_no_run(folder: RunFolder) -> None:
    with pytest.raises(KdctlError, match=r"has no plan\.json"):
        folder.plan()


def test_a_renamed_folder_is_noticed(folder: RunFolder, run: PlannedRun) -> None:
    folder.write_plan(run)
    folder.path.rename(folder.path.with_name("renamed"))

    with pytest.raises(KdctlError, match="plan of another run") as caught:
        RunFolder(folder.path.parent, "renamed").plan()
    assert run.key in caught.value.hint


def test_a_damaged_result_is_named(folder: RunFolder, make_result: Callable[..., RunResult]) -> None:
    folder.write_result(make_result())
    path = folder.path / "result.json"
    path.write_bytes(path.read_bytes()[:50])

    with pytest.raises(KdctlError, match=r"result\.json is damaged"):
        folder.result()


def test_only_folders_with_a_plan_are_run_folders(
    tmp_path: Path, plan_run: Callable[..., PlannedRun]
) -> None:
    runs = [plan_run(number) for number in range(3)]
    for run in runs:
        RunFolder(tmp_path, run.key).write_plan(run)
    (tmp_path / "something else").mkdir()

    assert [folder.key for folder in run_folders(tmp_path)] == sorted(run.key for run in runs)


def test_a_compute_node_needs_no_database_to_write_a_folder() -> None:
    code = "import sys, kdctl.store.folder; print({'sqlalchemy', 'torch', 'sqlite3'} & set(sys.modules))"

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "set()"
