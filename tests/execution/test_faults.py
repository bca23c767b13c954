"""Disks that fill up, databases that are locked or gone, checkpoints that rot: nothing is lost."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.engine.resume import PREVIOUS_FILE, RESUME_FILE
from kdctl.errors import KdctlError
from kdctl.execution.recorders import IndexRecorder
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState
from kdctl.store.leases import LeaseConfig, Owner

RecipeWriter = Callable[..., Path]

ALONE = {"teacher": "", "schedule": "schedule = {name = 'cosine', epochs = 3}"}


class Started(Silent):
    """Counts the runs that were started."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.steps = 0

    def started(self, plans: list[RunPlan]) -> None:  # type: ignore[override]
        self.keys.extend(plan.key for plan in plans)

    def stepped(self, key: str, position: float) -> None:
        self.steps += 1


def test_a_disk_that_became_read_only_is_named_and_nothing_is_lost(
    small_disk: Path, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path = recipe("method = 'ce'", **ALONE)
    with workflows.open_workspace(small_disk / "runs", tmp_path / "data", num_threads=1) as workspace:
        before = workflows.sweep(path, workspace)
    remount = ["mount", "-o", "remount,{}", str(small_disk)]
    subprocess.run([word.format("ro") for word in remount], check=True)
    with (
        pytest.raises(KdctlError, match="read-only"),
        workflows.open_workspace(small_disk / "runs", tmp_path / "data"),
    ):
        pass
    subprocess.run([word.format("rw") for word in remount], check=True)
    with workflows.open_workspace(small_disk / "runs", tmp_path / "data", num_threads=1) as workspace:
        assert workflows.sweep(path, workspace).runs == before.runs


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
@pytest.mark.extended
def test_a_saved_state_that_rotted_is_noticed_and_the_run_ends_the_same(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path, damage: str
) -> None:
    path = recipe("method = 'ce'", **ALONE)
    seen = Started()
    workflows.sweep(path, workspace, progress=seen, stop=lambda: seen.steps >= 3)
    (state,) = workspace.runs.glob("*/resume.pt")
    content = bytearray(state.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    state.write_bytes(bytes(content))
    (run,) = workflows.sweep(path, workspace).runs
    with workflows.open_workspace(tmp_path / "calm", tmp_path / "data", num_threads=1) as calm:
        (other,) = workflows.sweep(path, calm).runs
        assert workspace.folder(run.key).artifacts() == calm.folder(other.key).artifacts()
        assert [epoch.epoch for epoch in workspace.store.epochs(run.key)] == [1, 2, 3]


@pytest.mark.extended
def test_a_database_that_another_program_locks_for_a_while_is_waited_for(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe("method = 'ce'", **ALONE)
    locked = threading.Event()

    def lock() -> None:
        connection = sqlite3.connect(workspace.store.path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        locked.set()
        time.sleep(1.5)
        connection.execute("ROLLBACK")
        connection.close()

    thread = threading.Thread(target=lock)
    thread.start()
    locked.wait()
    assert workflows.sweep(path, workspace).complete
    thread.join()


@pytest.mark.extended
def test_a_database_that_was_deleted_is_rebuilt_from_the_folders(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path = recipe("[grid]\nmethod = ['ce', 'kd']")
    before = workflows.sweep(path, workspace)
    workspace.store.close()
    for file in workspace.runs.glob("kdctl.db*"):
        file.unlink()
    seen = Started()
    with workflows.open_workspace(workspace.runs, tmp_path / "data", num_threads=1) as anew:
        after = workflows.sweep(path, anew, progress=seen)
        assert seen.keys == []
        assert {run.key: run.result for run in after.runs} == {run.key: run.result for run in before.runs}
        for run in after.runs:
            assert anew.store.epochs(run.key) == anew.folder(run.key).epochs()
            assert anew.store.artifacts(run.key)


def test_a_result_that_was_written_but_not_indexed_is_not_trained_again(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    """The process died between the two, and so before it removed what it had saved on the way."""
    path = recipe("method = 'ce'", **ALONE)
    (run,) = workflows.sweep(path, workspace).runs
    saved = save_states(workspace, run.key)
    forget_the_end(workspace, run.key, Owner(host="here", pid=1, token="::gone"))
    seen = Started()
    (again,) = workflows.sweep(path, workspace, progress=seen).runs
    assert seen.keys == []
    assert (again.state, again.result) == (RunState.FINISHED, run.result)
    assert [file for file in saved if file.exists()] == []


def test_what_a_worker_leaves_that_dies_after_its_result_is_removed(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe("method = 'ce'", **ALONE)
    (plan,) = workflows.plan_training(path, workspace).runs
    workflows.sweep(path, workspace)
    saved = save_states(workspace, plan.key)
    me = Owner.here()
    forget_the_end(workspace, plan.key, me)
    recorder = IndexRecorder(workspace=workspace, progress=Silent(), lease=LeaseConfig())
    assert recorder.close(plan, me, "its worker was killed by SIGKILL") is RunState.FINISHED
    assert [file for file in saved if file.exists()] == []


def save_states(workspace: Workspace, key: str) -> list[Path]:
    """Leave the states that a run saves on its way."""
    folder = workspace.folder(key).path
    saved = [folder / RESUME_FILE, folder / PREVIOUS_FILE]
    for file in saved:
        file.touch()
    return saved


def forget_the_end(workspace: Workspace, key: str, owner: Owner) -> None:
    """Let the database believe that `owner` still trains a run, on a lease that ran out."""
    with sqlite3.connect(workspace.store.path) as connection:
        change = "UPDATE kdctl_runs SET state = 'running', result = NULL, lease_expires = '2026-01-01',"
        connection.execute(
            f"{change} lease_host = ?, lease_pid = ?, lease_token = ? WHERE key = ?",
            (owner.host, owner.pid, owner.token, key),
        )
    connection.close()
