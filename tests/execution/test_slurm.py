"""SLURM without a cluster: which task of a job a process is, and what becomes of jobs that never begin."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.errors import AbortedError
from kdctl.execution import slurm, slurm_executor
from kdctl.execution.recorders import ABORTED, IndexRecorder
from kdctl.execution.slurm_executor import SlurmConfig, SlurmExecutor
from kdctl.records import RunState
from kdctl.store.leases import Owner

TASK = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
        "SLURM_JOB_ID": "1234567"}  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "own"),
    [
        (4, 1),  # all GPUs of the node, be CUDA_VISIBLE_DEVICES set or not
        (1, 0),  # the task's own
        (0, 0),
    ],
)
def test_a_task_takes_a_gpu_of_its_own_of_those_it_sees(
    visible: int, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(slurm, "ask_slurm", lambda *_: "n1\nn2\n")
    slurm._take_rank()
    told = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    assert told == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": str(own), "MASTER_ADDR": "n1"}
    assert os.environ["MASTER_PORT"] == "24567"


class Refusing(slurm.Slurm):
    """A cluster whose jobs end at once, as where kdctl is not installed on its nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted = 0

    def submit(self, orders: Any, logs: Path, parameters: Any) -> list[str]:
        self.submitted += len(orders)
        return [str(self.submitted)]

    def jobs(self) -> dict[str, str]:
        return {}

    def cancel(self, jobs: Any) -> None:
        """There are none."""


def test_jobs_that_never_begin_are_not_submitted_for_ever(
    recipe: Callable[..., Path], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "GONE_SECONDS", 0.0)
    plan = workflows.plan_training(recipe("method = 'ce'", teacher=""), workspace).runs[0]
    config = SlurmConfig(options={"time": 1})
    recorder = IndexRecorder(workspace=workspace, progress=Silent(), lease=config.lease)
    executor = SlurmExecutor(config=config, recorder=recorder, slurm=Refusing())
    for number in range(1, config.lease.max_crashes + 1):
        assert executor.fault is None
        (owner,) = executor.idle_workers(1)
        executor.train(owner, [plan])
        (back,) = executor.poll(0.0)
        assert (back.plan, back.worker_died) == (plan, False)
        assert back.reason == f"job {number} ended before it did"
    assert executor.fault is not None
    assert "job 3 ended before it began to train" in executor.fault.problem
    assert str(workspace.runs / ".slurm" / "logs") in executor.fault.hint


def test_runs_are_given_back_at_once_where_submitting_their_job_is_aborted(
    recipe: Callable[..., Path], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_executor, "require_slurm", lambda: None)
    folders: list[Path] = []

    def submit(self: slurm.Slurm, orders: list[Path], logs: Path, parameters: Any) -> list[str]:
        """Submit the job, but somebody presses Ctrl-C a second time while `sbatch` is at work."""
        folders.extend(orders)
        raise AbortedError(130)

    monkeypatch.setattr(slurm.Slurm, "submit", submit)
    path = recipe("method = 'ce'", teacher="")
    with pytest.raises(AbortedError):
        workflows.sweep(path, workspace, executor=SlurmConfig(options={"time": 1}))
    (run,) = workspace.store.runs()
    assert (run.state, run.reason) == (RunState.INTERRUPTED, ABORTED)
    assert workspace.store.lease(run.key) is None
    assert workspace.folder(run.key).lease() is None
    slurm.work(str(folders[0]))  # does nothing: the run may be somebody else's by now
    assert workspace.folder(run.key).lease() is None


class Queue(slurm.Slurm):
    """A cluster's queue, as it answers for one user."""

    def __init__(self, *jobs: str) -> None:
        super().__init__()
        self.listed: dict[str, str] | None = dict.fromkeys(jobs, "None")

    def jobs(self) -> dict[str, str] | None:
        return self.listed


@pytest.fixture
def submitted(workspace: Workspace) -> Owner:
    """What holds the runs of job 7, which an earlier scheduler has submitted."""
    folder = workspace.runs / ".slurm" / "0123abcd"
    folder.mkdir(parents=True)
    (folder / "job").write_text("7")
    return Owner(host="slurm", pid=0, token="::0123abcd")


def executor_of(queue: Queue, workspace: Workspace) -> SlurmExecutor:
    config = SlurmConfig(options={"time": 1})
    recorder = IndexRecorder(workspace=workspace, progress=Silent(), lease=config.lease)
    return SlurmExecutor(config=config, recorder=recorder, slurm=queue)


def test_a_job_counts_as_gone_only_after_the_queue_has_missed_it_for_a_while(
    submitted: Owner, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue("7")
    executor = executor_of(queue, workspace)
    assert executor.is_alive(submitted) is True
    now = 1000.0
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now)
    queue.listed = {}  # as between two states of a job
    assert executor.is_alive(submitted) is None
    queue.listed = {"7": "None"}
    now += slurm.GONE_SECONDS
    assert executor.is_alive(submitted) is True
    queue.listed = {}
    assert executor.is_alive(submitted) is None
    queue.listed = None  # SLURM does not answer
    now += slurm.GONE_SECONDS
    assert executor.is_alive(submitted) is None
    queue.listed = {}
    assert executor.is_alive(submitted) is False


def test_nobody_can_tell_of_a_job_that_another_user_submitted(
    submitted: Owner, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "GONE_SECONDS", 0.0)
    executor = executor_of(Queue(), workspace)
    assert executor.is_alive(submitted) is False
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert executor.is_alive(submitted) is None  # its lease decides


def test_jobs_that_will_not_start_are_told_once_with_the_reason(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [
        "12_0 Priority\n12_1 PartitionTimeLimit\n13 None\n",
        "12_0 launch failed requeued held\n12_1 PartitionTimeLimit\n13 PartitionTimeLimit\n",
        "12_0 launch failed requeued held\n12_1 Resources\n13 PartitionTimeLimit\n",
    ]
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "ask_slurm", lambda *_: answers.pop(0))
    queue = slurm.Slurm()
    told: list[list[str]] = []
    while answers:
        caplog.clear()
        queue.warn_of_stuck(["12_0", "12_1", "13"])
        told.append([message.partition(" (")[0] for message in caplog.messages])
    assert told == [
        ["SLURM does not start job 12_1 until somebody acts: PartitionTimeLimit"],
        [
            "SLURM does not start job 12_0 until somebody acts: launch failed requeued held",
            "SLURM does not start job 13 until somebody acts: PartitionTimeLimit",
        ],
        [],
    ]


@pytest.mark.parametrize(
    "reason",
    [
        "None",
        "Priority",
        "Resources",
        "BeginTime",
        "JobArrayTaskLimit",
        "AssocMaxJobsLimit",
        "QOSGrpGRES",
        "",
    ],
)
def test_a_reason_that_passes_by_itself_is_no_news(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slurm, "ask_slurm", lambda *_: f"7 {reason}\n")
    slurm.Slurm().warn_of_stuck(["7"])
    assert not caplog.messages


@pytest.mark.parametrize(
    "reason",
    [
        *(
            "JobHeldAdmin",
            "JobHeldUser",
            "JobLaunchFailure",
            "BadConstraints",
            "InvalidAccount",
            "PartitionDown",
        ),
        *("PartitionNodeLimit", "DependencyNeverSatisfied", "ReqNodeNotAvail, UnavailableNodes:n[1-4]"),
        *("AssocMaxWallDurationPerJobLimit", "QOSMaxGRESPerJob", "user env retrieval failed requeued held"),
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    ],
)
def test_a_reason_that_does_not_pass_is_told(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slurm, "ask_slurm", lambda *_: f"7 {reason}\n")
    slurm.Slurm().warn_of_stuck(["7"])
    (message,) = caplog.messages
    assert reason in message
