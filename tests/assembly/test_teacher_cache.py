from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly import teacher_cache
from kdctl.assembly.failure import RunsFailedError
from kdctl.assembly.run_context import TeacherCache
from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError
from kdctl.records import RunState, StoredRun

RecipeWriter = Callable[..., Path]
Train = Callable[..., tuple[list[StoredRun], Workspace]]

AGAIN = "again"
"""One view of each image, which comes in every epoch."""


@pytest.fixture
def train(tmp_path: Path, recipe: RecipeWriter) -> Train:
    """Train a recipe in a workspace of its own."""

    def run(choice: TeacherCache, *lines: str, epochs: int = 3) -> tuple[list[StoredRun], Workspace]:
        schedule = f'schedule = {{name = "constant", epochs = {epochs}}}'
        data = (
            'data = {name = "digits", size = 8, samples_per_class = 8, batch_size = 16, augmentation = "%s"}'
        )
        views = "none" if AGAIN in lines else "crop-flip"
        words = {line.partition(" ")[0]: line for line in lines if line != AGAIN}
        path = recipe(**words, schedule=schedule, data=data % views)
        folder = tmp_path / f"{choice}-{epochs}-{len(lines)}"
        with workflows.open_workspace(
            folder, tmp_path / "data", num_threads=1, teacher_cache=choice
        ) as workspace:
            return workflows.train(path, workspace), workspace

    return run


def without_times(run: StoredRun) -> object:
    assert run.result is not None
    return dataclasses.replace(run.result, train_seconds=0.0, images_per_second=0.0)


def kept_bytes(workspace: Workspace) -> int:
    return sum(table.num_bytes for table in workspace.tables.values())


@pytest.mark.parametrize("method", ["kd", "simkd"])
@pytest.mark.extended
def test_a_run_ends_with_the_same_bits_whether_outputs_are_kept_or_not(train: Train, method: str) -> None:
    line = f"method = '{method}'"
    (off,), without = train("off", line)
    (on,), kept = train("on", line)
    assert on.key == off.key
    assert without_times(on) == without_times(off)
    assert kept_bytes(without) == 0
    assert kept_bytes(kept) > 0
    assert [run.environment and run.environment.execution for run in (off, on)] == [
        "eager",
        "eager, teacher outputs kept",
    ]
    checkpoints = [workspace.folder(on.key).path / "last.pt" for workspace in (without, kept)]
    assert checkpoints[0].read_bytes() == checkpoints[1].read_bytes()


@pytest.mark.extended
def test_by_itself_it_keeps_what_comes_again_and_nothing_else(train: Train) -> None:
    _, few = train("auto", "method = 'kd'")
    assert kept_bytes(few) == 0  # three epochs draw hardly one of 162 views twice
    _, same = train("auto", "method = 'kd'", AGAIN)
    assert kept_bytes(same) == 80 * 10 * 4


@pytest.mark.extended
def test_gangs_of_one_process_share_what_they_read(train: Train) -> None:
    runs, workspace = train("on", "method = 'kd'", AGAIN, "seeds = [0, 1, 2]")
    assert [run.state for run in runs] == [RunState.FINISHED] * 3
    assert kept_bytes(workspace) == 80 * 10 * 4


def test_a_student_alone_has_no_table(train: Train) -> None:
    _, workspace = train("on", "method = 'ce'", AGAIN)
    assert kept_bytes(workspace) == 0


@pytest.mark.extended
def test_too_little_memory_is_said_where_a_table_is_asked_for(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_cache, "available_bytes", lambda _device: 1000)
    with pytest.raises(RunsFailedError, match=r"--teacher-cache on: they would take .* GiB") as caught:
        train("on", "method = 'kd'", AGAIN)
    assert "--teacher-cache auto" in caught.value.hint
    _, workspace = train("auto", "method = 'kd'", AGAIN)
    assert kept_bytes(workspace) == 0


def test_a_table_does_not_go_with_teachers_that_see_several_batches_at_once(train: Train) -> None:
    lines = ("method = 'kd'", AGAIN, "engine = {teacher_lookahead = 2}")
    (run,), workspace = train("auto", *lines)
    assert (run.state, kept_bytes(workspace)) == (RunState.FINISHED, 0)
    with pytest.raises(UsageError, match=r"teacher-cache on: teachers see several batches at once"):
        train("on", *lines)
