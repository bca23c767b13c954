"""A real SLURM of one node or two: arrays, pre-emption, time limits. Skipped where it is not installed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.execution.executor import ExecutorConfig
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunResult, RunState

pytestmark = pytest.mark.slow

RecipeWriter = Callable[[str], Path]


def jobs(**options: object) -> ExecutorConfig:
    given = {"time": 5, **options}
    return workflows.choose_executor("slurm", slots=2, slurm_options=given)


def events(workspace: Workspace) -> list[dict[str, object]]:
    """Return all that jobs have told, job by job."""
    lines = [
        line
        for path in sorted(workspace.runs.glob(".slurm/*/events.jsonl"))
        for line in path.read_text().splitlines()
        if line
    ]
    return [json.loads(line) for line in lines]


def same_bits(one: Workspace, other: Workspace) -> None:
    for run in other.store.runs():
        assert run.state is RunState.FINISHED
        ours, theirs = one.folder(run.key), other.folder(run.key)
        assert ours.artifacts() == theirs.artifacts()
        assert one.store.run(run.key).result is not None
        assert [epoch.test for epoch in one.store.epochs(run.key)] == [e.test for e in theirs.epochs()]


def nearly_the_same_losses(one: Workspace, other: Workspace) -> None:
    """Hold runs of several tasks against those of one process: they sum the same in another order."""
    for run in other.store.runs():
        ours, theirs = one.store.epochs(run.key), other.store.epochs(run.key)
        assert theirs
        assert [epoch.train_loss for epoch in ours] == pytest.approx([e.train_loss for e in theirs], rel=2e-3)


def test_an_array_of_packed_jobs_gives_the_same_bits_as_this_process(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace, undisturbed: Workspace
) -> None:
    path = recipe(
        "teacher = 'resnet4'\nschedule = {name = 'constant', epochs = 2}\n"
        "[[grid]]\nmethod = ['ce']\n[[grid]]\nmethod = ['kd']\noptimizer.learning_rate = [0.05, 0.1, 0.2]\n"
    )
    workflows.sweep(path, undisturbed)
    outcome = workflows.sweep(path, workspace, executor=jobs(gangs_per_job=2), gang_size=1)
    assert outcome.complete
    assert {run.attempts for run in outcome.runs} == {1}
    same_bits(workspace, undisturbed)
    numbers = [path.read_text() for path in workspace.runs.glob(".slurm/*/job")]
    assert any("_" in number for number in numbers)  # an array
    assert len(numbers) < len(outcome.runs)  # packed


def test_the_tasks_of_a_job_train_each_run_together(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace, undisturbed: Workspace
) -> None:
    path = recipe(
        "schedule = {name = 'constant', epochs = 3}\nengine = {batch_parts = 2}\n"
        "[grid]\nmethod = ['ce']\noptimizer.learning_rate = [0.05, 0.1]\n"
    )
    workflows.sweep(path, undisturbed)
    outcome = workflows.sweep(path, workspace, executor=jobs(ntasks=2, gangs_per_job=2), gang_size=1)
    assert outcome.complete
    assert {run.attempts for run in outcome.runs} == {1}
    nearly_the_same_losses(workspace, undisturbed)
    for run in undisturbed.store.runs():
        environment = json.loads((workspace.folder(run.key).path / "environment.json").read_text())
        assert environment["execution"] == "eager, batches in 2 parts on 2 devices"


SHARED = "engine = {batch_parts = 2}\nmethod = {name = 'slow', pause = 0.05}\n"


def test_two_nodes_train_a_run_together_and_go_on_after_a_pre_emption(
    slurm_of_two_nodes: Path, recipe: RecipeWriter, workspace: Workspace, undisturbed: Workspace
) -> None:
    path = recipe("schedule = {name = 'cosine', epochs = 12}\n" + SHARED)
    rival = Rival()
    executor = jobs(nodes=2, ntasks_per_node=1)
    outcome = workflows.sweep(path, workspace, executor=executor, progress=rival)
    assert rival.submitted
    (run,) = outcome.runs
    assert (run.state, run.attempts) == (RunState.FINISHED, 1)
    assert len([event for event in events(workspace) if event["kind"] == "ready"]) == 2
    workflows.sweep(path, undisturbed)
    nearly_the_same_losses(workspace, undisturbed)


class Destroyer(Silent):
    """Kills the second task of the job once the run has had its third epoch, as a node that fails does."""

    def __init__(self) -> None:
        self.killed = 0

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        if result.epoch >= 3 and not self.killed:
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    environment = (folder / "environ").read_bytes().split(b"\0")
                    is_task = {b"SLURM_PROCID=1", b"SLURM_NTASKS=2"} <= set(environment)
                    if is_task and b"python" in (folder / "cmdline").read_bytes():
                        os.kill(int(folder.name), signal.SIGKILL)
                        self.killed += 1


def test_a_task_that_dies_on_one_node_ends_the_other_and_the_run_goes_on(
    slurm_of_two_nodes: Path, recipe: RecipeWriter, workspace: Workspace, undisturbed: Workspace
) -> None:
    path = recipe("schedule = {name = 'cosine', epochs = 12}\n" + SHARED)
    destroyer = Destroyer()
    executor = jobs(nodes=2, ntasks_per_node=1)
    outcome = workflows.sweep(path, workspace, executor=executor, progress=destroyer)
    assert destroyer.killed
    (run,) = outcome.runs
    assert run.state is RunState.FINISHED
    workflows.sweep(path, undisturbed)
    nearly_the_same_losses(workspace, undisturbed)


def test_tasks_that_cannot_share_a_batch_are_told_before_a_job_is_submitted(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace
) -> None:
    path = recipe("schedule = {name = 'constant', epochs = 1}\nmethod = 'ce'\n")
    with pytest.raises(KdctlError, match="a job has 4 tasks, which cannot share") as caught:
        workflows.sweep(path, workspace, executor=jobs(nodes=2, ntasks_per_node=2))
    assert "engine.batch_parts=4" in caught.value.hint
    assert {run.state for run in workspace.store.runs()} == {RunState.INTERRUPTED}
    assert not list(workspace.runs.glob(".slurm/*/job"))


class Rival(Silent):
    """Submits a job of higher priority for the whole node once the run has had its third epoch."""

    def __init__(self) -> None:
        self.submitted = False

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        if result.epoch >= 3 and not self.submitted:
            self.submitted = True
            command = ["sbatch", "--partition=high", "--exclusive", "--time=1", "--output=/dev/null"]
            subprocess.run([*command, "--wrap", "sleep 3"], check=True, capture_output=True)


def test_a_job_that_is_pre_empted_goes_on_from_its_checkpoint(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace, undisturbed: Workspace
) -> None:
    body = "schedule = {{name = 'cosine', epochs = 30}}\nmethod = {{name = 'slow', pause = {}}}\n"
    rival = Rival()
    outcome = workflows.sweep(recipe(body.format(0.1)), workspace, executor=jobs(), progress=rival)
    assert rival.submitted
    (run,) = outcome.runs
    assert (run.state, run.attempts) == (RunState.FINISHED, 1)
    told = events(workspace)
    starts = [place for place, event in enumerate(told) if event["kind"] == "ready"]
    assert len(starts) == 2
    steps = [event["positions"] for event in told[starts[1] :] if event["kind"] == "stepped"]
    assert min(position for positions in steps for position in positions.values()) >= 3
    workflows.sweep(recipe(body.format(0.1)), undisturbed)
    same_bits(workspace, undisturbed)


def test_jobs_pause_at_rungs_also_when_they_are_pre_empted_on_the_way(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace, undisturbed: Workspace
) -> None:
    path = recipe(
        "schedule = {name = 'constant', epochs = 10}\nmethod = {name = 'slow', pause = 0.1}\n"
        "[grid]\noptimizer.learning_rate = [1e-9, 0.01, 0.1, 0.2]\n"
        "[pruning]\nepochs = [6]\nkeep = 0.5\nmetric = 'test'\n"
    )
    rival = Rival()
    executor = jobs(gangs_per_job=2)
    outcome = workflows.sweep(path, workspace, executor=executor, gang_size=2, progress=rival)
    assert rival.submitted
    assert outcome.complete
    told = events(workspace)
    assert len([event for event in told if event["kind"] == "ready"]) > len(
        list(workspace.runs.glob(".slurm/*/job"))
    )
    assert any("paused after epoch 6" in str(event["text"]) for event in told)
    workflows.sweep(path, undisturbed)
    for run in undisturbed.store.runs():
        ours = workspace.store.run(run.key)
        assert (ours.state, ours.reason, ours.epochs) == (run.state, run.reason, run.epochs)
        assert workspace.folder(run.key).artifacts() == undisturbed.folder(run.key).artifacts()
    assert {run.state for run in outcome.runs} == {RunState.FINISHED, RunState.PRUNED}


def test_a_job_that_is_killed_by_its_time_limit_goes_on_from_its_checkpoint(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace, undisturbed: Workspace
) -> None:
    body = "schedule = {name = 'cosine', epochs = 50}\nmethod = {name = 'slow', pause = 1.0}\n"
    outcome = workflows.sweep(recipe(body), workspace, executor=jobs(time=1, signal_delay_s=5))
    (run,) = outcome.runs
    assert (run.state, run.attempts) == (RunState.FINISHED, 1)  # the job itself went back into the queue
    assert len([event for event in events(workspace) if event["kind"] == "ready"]) >= 2
    ends = [event["text"] for event in events(workspace) if event["kind"] == "ended"]
    assert any("stopped in epoch" in str(text) for text in ends)


def test_a_wish_to_stop_lets_jobs_save_and_empties_the_queue(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace
) -> None:
    body = "schedule = {name = 'cosine', epochs = 500}\nmethod = {name = 'slow', pause = 0.1}\n"
    path = recipe(body)

    class Late(Silent):
        stop = False

        def epoch(self, plan: RunPlan, result: EpochResult) -> None:
            self.stop = True

    late = Late()
    outcome = workflows.sweep(path, workspace, executor=jobs(), progress=late, stop=lambda: late.stop)
    (run,) = outcome.runs
    assert run.state is RunState.INTERRUPTED
    assert (workspace.folder(run.key).path / "resume.pt").is_file()
    assert workspace.folder(run.key).lease() is None
    squeue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert squeue.stdout.strip() == ""


def test_what_slurm_refuses_is_said_and_nothing_stays_claimed(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace
) -> None:
    path = recipe("method = 'ce'\nschedule = {name = 'constant', epochs = 1}\n")
    with pytest.raises(KdctlError, match=r"SLURM refused the jobs: .*partition"):
        workflows.sweep(path, workspace, executor=jobs(partition="moon"))
    outcome = workflows.sweep(path, workspace, executor=jobs())
    assert [run.state for run in outcome.runs] == [RunState.FINISHED]


def test_a_job_that_its_partition_does_not_take_is_told_and_can_be_taken_back(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    path = recipe("method = 'ce'\nschedule = {name = 'constant', epochs = 1}\n")
    asks_for_more = jobs(time=120)  # of 60 minutes
    told = "SLURM does not start job 1 until somebody acts: PartitionTimeLimit"
    outcome = workflows.sweep(path, workspace, executor=asks_for_more, stop=lambda: told in caplog.text)
    (run,) = outcome.runs
    assert run.state is RunState.INTERRUPTED
    assert workspace.folder(run.key).lease() is None
    outcome = workflows.sweep(path, workspace, executor=jobs())
    assert [run.state for run in outcome.runs] == [RunState.FINISHED]


class Unplugs(Silent):
    """Takes the data away before the first job starts, and brings them back when one has complained."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = path.with_name("unplugged")
        self.reasons: list[str] = []

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None:
        self.path.rename(self.place)

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        if state is RunState.INTERRUPTED and not self.path.exists():
            self.reasons.append(reason)
            self.place.rename(self.path)


def test_runs_of_a_node_without_the_data_go_into_another_job(
    slurm: Path, recipe: RecipeWriter, workspace: Workspace, undisturbed: Workspace, tmp_path: Path
) -> None:
    for place in range(16):
        split, name = ("train", "test")[place % 2], ("ant", "bee")[place // 2 % 2]
        path = workspace.library.root / "pets" / split / name / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (16 * place, 0, 0)).save(path)
    pets = recipe(
        "method = 'ce'\nschedule = {name = 'cosine', epochs = 2}\n"
        "[grid]\noptimizer.learning_rate = [0.1, 0.2]"
    )
    data = "data = {name = 'imagefolder', path = 'pets', size = 8, batch_size = 4}"
    pets.write_text(re.sub("data = .*", data, pets.read_text()))
    seen = Unplugs(workspace.library.root / "pets")
    outcome = workflows.sweep(pets, workspace, executor=jobs(), progress=seen, gang_size=1)
    assert "the data set 'imagefolder' was there when the run was planned" in seen.reasons[0]
    assert outcome.complete
    assert {run.state for run in outcome.runs} == {RunState.FINISHED}
    workflows.sweep(pets, undisturbed)
    same_bits(workspace, undisturbed)


class Fills(Silent):
    """Fills a disk once a run has had its third epoch."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        if result.epoch == 3:
            free = os.statvfs(self.disk)
            (self.disk / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize))


def test_jobs_whose_run_folders_are_on_a_full_disk_end_and_fail_no_run(
    slurm: Path, recipe: RecipeWriter, undisturbed: Workspace, small_disk: Path, tmp_path: Path
) -> None:
    path = recipe(
        "schedule = {name = 'cosine', epochs = 8}\nmethod = {name = 'slow', pause = 0.1}\n"
        "[grid]\noptimizer.learning_rate = [0.1, 0.2, 0.3]"
    )
    runs = small_disk / "runs"
    with workflows.open_workspace(runs, tmp_path / "data", num_threads=1) as workspace:
        stopped = workflows.sweep(path, workspace, executor=jobs(), progress=Fills(small_disk), gang_size=1)
        assert (stopped.complete, stopped.failures) == (False, ())
        assert stopped.fault is not None
        assert stopped.fault.needs_room
        assert {run.state for run in stopped.runs} <= {RunState.INTERRUPTED, RunState.PLANNED}
    (small_disk / "ballast").unlink()
    with workflows.open_workspace(runs, tmp_path / "data", num_threads=1) as workspace:
        assert workflows.sweep(path, workspace, executor=jobs(), gang_size=1).complete
        workflows.sweep(path, undisturbed)
        same_bits(workspace, undisturbed)
