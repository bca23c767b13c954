"""Faults of the machine in the middle of a sweep: it stops, no run fails, and the same command goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.execution.executor import ExecutorConfig, InProcessConfig
from kdctl.execution.local_executor import LocalConfig
from kdctl.machine_errors import MachineError
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunState
from kdctl.serialization import to_tree

RecipeWriter = Callable[..., Path]

GRID = "method = 'ce'\n[grid]\noptimizer.learning_rate = [0.05, 0.1, 0.2, 0.3]"
ALONE = {"teacher": "", "schedule": "schedule = {name = 'cosine', epochs = 4}"}

TWO = LocalConfig(slots=2)

ENDED_OR_WAITS = {RunState.FINISHED, RunState.INTERRUPTED, RunState.PLANNED}


class Disturbance(Silent):
    """Does something to the machine once a run has had so many epochs; counts starts from then on."""

    def __init__(self, act: Callable[[], None], *, after_epochs: int) -> None:
        self.act = act
        self.epochs_left = after_epochs
        self.started_later: list[str] = []

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        self.epochs_left -= 1
        if self.epochs_left == 0:
            self.act()

    def started(self, plans: list[RunPlan]) -> None:  # type: ignore[override]
        if self.epochs_left <= 0:
            self.started_later.extend(plan.key for plan in plans)


class Unplugs(Silent):
    """Takes files away between planning and the first gang."""

    def __init__(self, path: Path, place: Path) -> None:
        self.path = path
        self.place = place

    def planned(self, plans: list[RunPlan], settled: int, later: int) -> None:  # type: ignore[override]
        if not self.place.exists():
            self.path.rename(self.place)


def fill(disk: Path, *, room: int) -> None:
    """Leave so many bytes free."""
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize - room))


def outcome_of(workspace: Workspace, key: str) -> tuple[object, ...]:
    """Return what a run came to, without its times."""
    run = workspace.store.run(key)
    assert run.result is not None
    epochs = [
        {name: value for name, value in to_tree(epoch).items() if "second" not in name and name != "ended"}
        for epoch in workspace.store.epochs(key)
    ]
    return run.state, run.result.selected, epochs, workspace.folder(key).artifacts()


def assert_goes_on_like_undisturbed(
    path: Path, workspace: Workspace, executor: ExecutorConfig, tmp_path: Path
) -> None:
    finished = workflows.sweep(path, workspace, executor=executor)
    assert finished.complete
    assert {run.state for run in finished.runs} == {RunState.FINISHED}
    with workflows.open_workspace(tmp_path / "calm", workspace.library, num_threads=1) as calm:
        for run in workflows.sweep(path, calm).runs:
            assert outcome_of(workspace, run.key) == outcome_of(calm, run.key)


@pytest.mark.parametrize("room", [0, 30_000], ids=["full", "nearly full"])
@pytest.mark.parametrize("gang_size", [1, 4])
@pytest.mark.extended
def test_a_disk_that_fills_up_stops_the_sweep_and_fails_no_run(
    small_disk: Path, recipe: RecipeWriter, tmp_path: Path, room: int, gang_size: int
) -> None:
    path = recipe(GRID, **ALONE)
    seen = Disturbance(lambda: fill(small_disk, room=room), after_epochs=6)
    with workflows.open_workspace(small_disk / "runs", tmp_path / "data", num_threads=1) as workspace:
        stopped = workflows.sweep(path, workspace, progress=seen, gang_size=gang_size)
        assert not stopped.complete
        assert stopped.failures == ()
        assert stopped.fault is not None
        assert stopped.fault.needs_room
        assert stopped.missing_bytes > 0
        assert {run.state for run in stopped.runs} <= ENDED_OR_WAITS
        assert seen.started_later == []
        assert [workspace.folder(run.key).lease() for run in stopped.runs] == [None] * 4
    (small_disk / "ballast").unlink()
    with workflows.open_workspace(small_disk / "runs", tmp_path / "data", num_threads=1) as workspace:
        assert_goes_on_like_undisturbed(path, workspace, InProcessConfig(), tmp_path)


@pytest.mark.parametrize("room", [0, 40_000])
@pytest.mark.slow
def test_a_disk_that_is_full_at_the_start_is_named_and_with_room_the_sweep_goes_on(
    small_disk: Path, recipe: RecipeWriter, tmp_path: Path, room: int
) -> None:
    first, more = recipe("method = 'ce'", **ALONE), recipe(GRID, **ALONE)
    with workflows.open_workspace(small_disk / "runs", tmp_path / "data", num_threads=1) as workspace:
        workflows.sweep(first, workspace)
        fill(small_disk, room=room)
        assert re.search("no room|No space left|disk is full", fault_of(more, workspace))
    (small_disk / "ballast").unlink()
    with workflows.open_workspace(small_disk / "runs", tmp_path / "data", num_threads=1) as workspace:
        finished = workflows.sweep(more, workspace, gang_size=1, replace=True)
        assert {run.state for run in finished.runs} == {RunState.FINISHED}
        assert len(finished.runs) == 4


def fault_of(path: Path, workspace: Workspace) -> str:
    """Sweep, and return what the machine refused, before runs were started or after."""
    try:
        outcome = workflows.sweep(path, workspace, replace=True)
    except MachineError as error:
        return error.problem
    assert outcome.fault is not None
    return outcome.fault.problem


@pytest.mark.slow
def test_workers_whose_disk_fills_up_leave_and_fail_no_run(
    small_disk: Path, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path = recipe(GRID, teacher="", schedule="schedule = {name = 'cosine', epochs = 12}")
    seen = Disturbance(lambda: fill(small_disk, room=0), after_epochs=3)
    with workflows.open_workspace(small_disk / "runs", tmp_path / "data", num_threads=1) as workspace:
        stopped = workflows.sweep(path, workspace, executor=TWO, progress=seen, gang_size=1)
        assert (stopped.complete, stopped.failures) == (False, ())
        assert stopped.fault is not None
        assert stopped.fault.needs_room
        assert {run.state for run in stopped.runs} <= ENDED_OR_WAITS
        assert RunState.INTERRUPTED in {run.state for run in stopped.runs}
        assert [workspace.folder(run.key).lease() for run in stopped.runs] == [None] * 4
    (small_disk / "ballast").unlink()
    with workflows.open_workspace(small_disk / "runs", tmp_path / "data", num_threads=1) as workspace:
        assert_goes_on_like_undisturbed(path, workspace, TWO, tmp_path)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a folder of sixteen images in two classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place in range(16):
        split, name = ("train", "test")[place % 2], ("ant", "bee")[place // 2 % 2]
        path = tmp_path / "data" / "pets" / split / name / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (16 * place, 0, 255 - 16 * place)).save(path)
    return tmp_path / "data"


PETS = {"data": "data = {name = 'imagefolder', path = 'pets', size = 8, batch_size = 4}"}


@pytest.mark.extended
def test_data_that_are_unplugged_in_the_middle_of_a_sweep_are_in_memory(
    images: Path, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path, pets = recipe(GRID, **ALONE, **PETS), images / "pets"
    seen = Disturbance(lambda: pets.rename(tmp_path / "unplugged") and None, after_epochs=2)
    with workflows.open_workspace(tmp_path / "runs", images, num_threads=1) as workspace:
        finished = workflows.sweep(path, workspace, progress=seen, gang_size=1)
        assert finished.complete
        assert len(set(seen.started_later)) == 3
        (tmp_path / "unplugged").rename(pets)
        assert_goes_on_like_undisturbed(path, workspace, InProcessConfig(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["all", "one image"])
def test_workers_that_find_the_data_gone_leave_and_fail_no_run(
    images: Path, recipe: RecipeWriter, tmp_path: Path, lost: str
) -> None:
    path = recipe(GRID, **ALONE, **PETS)
    taken = images / "pets" if lost == "all" else images / "pets/train/ant/0.png"
    seen = Unplugs(taken, tmp_path / "unplugged")
    with workflows.open_workspace(tmp_path / "runs", images, num_threads=1) as workspace:
        stopped = workflows.sweep(path, workspace, executor=TWO, progress=seen)
        assert (stopped.complete, stopped.failures) == (False, ())
        assert stopped.fault is not None
        assert "the data set 'imagefolder'" in stopped.fault.problem
        assert "bring" in stopped.fault.hint
        assert {run.state for run in stopped.runs} <= {RunState.INTERRUPTED, RunState.PLANNED}
        (tmp_path / "unplugged").rename(taken)
        assert_goes_on_like_undisturbed(path, workspace, TWO, tmp_path)


BREAKS = '''
from pathlib import Path

import torch

from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.distiller import methods


@methods.register("bound to break", label="Bound to break")
class BoundToBreak(CrossEntropy):
    """Trains until the device breaks."""

    def losses(self, step):
        if Path({broken!r}).exists():
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return super().losses(step)
'''


@pytest.mark.usefixtures("forget_plugins")
@pytest.mark.parametrize("gang_size", [1, 4])
@pytest.mark.extended
def test_a_device_that_breaks_stops_the_sweep_and_fails_no_run(
    recipe: RecipeWriter, workspace: Workspace, tmp_path: Path, gang_size: int
) -> None:
    broken = tmp_path / "broken"
    (tmp_path / "breaks.py").write_text(BREAKS.format(broken=str(broken)))
    grid = GRID.replace("'ce'", "'bound to break'")
    path = recipe(grid, **ALONE, schema="schema = 1\nplugins = ['breaks.py']")
    seen = Disturbance(broken.touch, after_epochs=6)
    stopped = workflows.sweep(path, workspace, progress=seen, gang_size=gang_size)
    assert stopped.fault is not None
    assert "unspecified launch failure" in stopped.fault.problem
    assert stopped.failures == ()
    assert {run.state for run in stopped.runs} <= ENDED_OR_WAITS
    broken.unlink()
    assert_goes_on_like_undisturbed(path, workspace, InProcessConfig(), tmp_path)
