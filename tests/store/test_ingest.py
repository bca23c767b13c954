from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kdctl.evaluation_records import Evaluation
from kdctl.records import Artifact, Environment, EpochResult, PlannedRun, RunResult, RunState
from kdctl.store.folder import RunFolder
from kdctl.store.ingest import ingest
from kdctl.store.leases import Owner
from kdctl.store.store import Store


@pytest.fixture
def run(plan_run: Callable[..., PlannedRun]) -> PlannedRun:
    return plan_run(1)


@pytest.fixture
def folder(tmp_path: Path, run: PlannedRun, make_epoch: Callable[..., EpochResult]) -> RunFolder:
    """The folder of a run with three epochs, and no result yet."""
    folder = RunFolder(tmp_path / "runs", run.key)
    folder.write_plan(run)
    for number in (1, 2, 3):
        folder.append_epoch(make_epoch(number))
    return folder


def _dump(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_run_that_is_read_from_its_folder_was_created_when_it_began(
    store: Store,
    run: PlannedRun,
    tmp_path: Path,
    make_epoch: Callable[..., EpochResult],
    make_result: Callable[..., RunResult],
    has_ended: bool,
) -> None:
    folder = RunFolder(tmp_path / "runs", run.key)
    folder.write_plan(run)
    for number in (1, 2):
        ended = f"2026-01-31T12:00:0{2 * number}.500+00:00"
        folder.append_epoch(dataclasses.replace(make_epoch(number), ended=ended))
    if has_ended:
        folder.write_result(make_result(), [])

    ingest(store, folder)
    ingest(store, folder)

    assert store.run(run.key).created == "2026-01-31T12:00:01.000000+00:00"


def test_a_time_that_is_none_is_no_obstacle(
    store: Store, run: PlannedRun, tmp_path: Path, make_epoch: Callable[..., EpochResult]
) -> None:
    folder = RunFolder(tmp_path / "runs", run.key)
    folder.write_plan(run)
    folder.append_epoch(dataclasses.replace(make_epoch(1), ended="yesterday"))
    ingest(store, folder)
    assert store.run(run.key).created > "2026"


def test_a_lost_database_is_rebuilt_from_the_folders(
    store: Store,
    folder: RunFolder,
    run: PlannedRun,
    environment: Environment,
    make_result: Callable[..., RunResult],
    make_evaluation: Callable[..., Evaluation],
    artifact: Artifact,
) -> None:
    folder.write_environment(environment)
    folder.write_result(make_result(), [artifact])
    folder.append_evaluation(make_evaluation(run.key))

    assert ingest(store, folder) is RunState.FINISHED

    stored = store.run(run.key)
    assert (stored.configuration, stored.seed, stored.plan) == (run.configuration, run.seed, run.plan)
    assert (stored.epochs, stored.attempts) == (3, 1)
    assert stored.environment == environment
    assert stored.result == make_result()
    assert store.epochs(run.key) == folder.epochs()
    assert store.artifacts(run.key) == [artifact]
    assert store.evaluations(run.key) == [make_evaluation(run.key)]


@pytest.mark.parametrize("state", [None, RunState.FINISHED, RunState.FAILED])
def test_reading_a_folder_again_changes_nothing(
    store: Store,
    folder: RunFolder,
    environment: Environment,
    make_result: Callable[..., RunResult],
    make_evaluation: Callable[..., Evaluation],
    state: RunState | None,
) -> None:
    folder.write_environment(environment)
    folder.append_evaluation(make_evaluation(folder.key))
    if state is not None:
        folder.write_result(make_result(state))
    ingest(store, folder)
    before = _dump(store.path)

    ingest(store, folder)

    assert _dump(store.path) == before


def test_a_run_that_was_left_is_interrupted(store: Store, folder: RunFolder) -> None:
    assert ingest(store, folder) is RunState.INTERRUPTED
    assert "no result" in store.run(folder.key).reason


def test_a_run_that_was_never_begun_is_planned(
    store: Store, tmp_path: Path, plan_run: Callable[..., PlannedRun]
) -> None:
    folder = RunFolder(tmp_path / "runs", plan_run(2).key)
    folder.write_plan(plan_run(2))

    assert ingest(store, folder) is RunState.PLANNED


def test_new_epochs_and_the_result_are_added_later(
    store: Store,
    folder: RunFolder,
    make_epoch: Callable[..., EpochResult],
    make_result: Callable[..., RunResult],
) -> None:
    ingest(store, folder)
    folder.append_epoch(make_epoch(4))
    folder.write_result(make_result())

    assert ingest(store, folder) is RunState.FINISHED
    assert store.run(folder.key).epochs == 4


def test_the_holder_of_a_run_settles_it_itself(
    store: Store, folder: RunFolder, run: PlannedRun, make_result: Callable[..., RunResult], me: Owner
) -> None:
    store.add_runs([run])
    store.claim(run.key, me, lease_seconds=60)
    folder.write_result(make_result())

    assert ingest(store, folder) is RunState.RUNNING
    assert store.run(run.key).epochs == 3
    store.settle(run.key, me, result=make_result())


def test_the_result_of_a_run_whose_holder_vanished_is_read(
    store: Store, folder: RunFolder, run: PlannedRun, make_result: Callable[..., RunResult], stranger: Owner
) -> None:
    store.add_runs([run])
    store.claim(run.key, stranger, lease_seconds=0)
    assert ingest(store, folder) is RunState.RUNNING

    folder.write_result(make_result())

    assert ingest(store, folder) is RunState.FINISHED


def test_a_settled_run_stays_as_it_is(
    store: Store, folder: RunFolder, run: PlannedRun, make_result: Callable[..., RunResult], me: Owner
) -> None:
    store.add_runs([run])
    store.claim(run.key, me, lease_seconds=60)
    store.settle(run.key, me, result=make_result())
    folder.write_result(make_result(RunState.DIVERGED, "epoch 3"))

    assert ingest(store, folder) is RunState.FINISHED
    assert store.run(run.key).result == make_result()
