"""Jobs of a SLURM cluster as an executor: one array for all gangs that wait, several gangs in each job.

Compute nodes read orders and write run folders and a file of events; they never open the database.
What became of a job is decided from run folders and from whether the queue still knows it, so that
accounting is not needed. A job that SLURM puts back into its queue keeps its runs and goes on with
them; a job that is gone gives them back.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kdctl.assembly.run_context import RunContext
from kdctl.errors import KdctlError
from kdctl.execution.claims import is_process_alive
from kdctl.execution.executor import Capacity, Executor, ReleasedRun
from kdctl.execution.messages import Event, JobOrder, Order, WorkerSetup
from kdctl.execution.recorders import ABORTED, IndexRecorder
from kdctl.execution.slurm import EVENTS, JOB, ORDER, Slurm, require_slurm
from kdctl.execution.slurm_options import num_tasks, require_options, require_time
from kdctl.execution.worker_state import WorkerState
from kdctl.machine_errors import GOES_ON, MachineFault
from kdctl.plugins import loaded_plugin_files
from kdctl.recipe.plan import RunPlan
from kdctl.store.atomic import write_atomically
from kdctl.store.json_files import from_json, to_json
from kdctl.store.leases import LeaseConfig, Owner

HOST = "slurm"
"""Stands for the host of a job's owner: which node it will run on is not known when its runs are claimed."""

ORDERS = ".slurm"
"""Folder beside the run folders."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Gangs as jobs of a cluster."""

    slots: int = 64
    """Jobs that run at once, at most."""
    gangs_per_job: int = 1
    """Short gangs are better packed: a job takes a while to start."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """Options of `sbatch`, '_' for '-': partition, time (minutes), gpus_per_node, account, ..."""
    lease: LeaseConfig = LeaseConfig()

    def __post_init__(self) -> None:
        """Refuse what can be no option, before anything is planned with it."""
        require_options(self.options)

    @property
    def num_tasks(self) -> int:
        """Return how many tasks each job has, which train each of its runs together."""
        return num_tasks(self.options)

    def capacity(self, context: RunContext) -> Capacity:
        """Return how many jobs may run at once; how many do is the cluster's decision."""
        return Capacity(
            slots=self.slots, unshared_slots=self.slots, num_threads=context.num_threads, queued=True
        )

    def require_startable(self) -> None:
        """Raise a KdctlError if SLURM or submitit is missing, or nobody said how long a job may take."""
        require_time(self.options)
        require_slurm()

    @contextmanager
    def start(self, recorder: IndexRecorder, stop: Callable[[], bool]) -> Generator[Executor]:
        """Return the executor. Its jobs outlive a scheduler that is killed, and the next one waits for them.

        Raises:
            KdctlError: as `require_startable`.
        """
        del stop  # the scheduler tells the executor
        self.require_startable()
        executor = SlurmExecutor(config=self, recorder=recorder)
        try:
            yield executor
        finally:
            executor.withdraw(ABORTED)
            executor.stop()


class _Job(WorkerState):
    """One job: its order, and what it has said so far."""

    def __init__(self, recorder: IndexRecorder, folder: Path) -> None:
        super().__init__(recorder)
        self.folder = folder
        self.owner = _owner(folder)
        self.gangs: list[Order] = []
        self.pauses: dict[str, int | None] = {}
        """After which epoch its runs are to pause, by run key."""
        self.number = ""
        """What SLURM calls it; empty until it is submitted."""
        self.saved: set[str] = set()
        """Keys of runs whose states it saved before it released them."""
        self._read = 0

    def add(self, plans: Sequence[RunPlan], until: int | None) -> None:
        """Let it train another gang."""
        self.gangs.append(Order.of(plans, until=until))
        self.pauses |= {plan.key: until for plan in plans}
        self.plans |= {plan.key: plan for plan in plans}

    def events(self) -> Iterator[Event]:
        """Return what it has said since the last time."""
        path = self.folder / EVENTS
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._read)
            *lines, _torn = file.read().split(b"\n")
        for line in lines:
            self._read += len(line) + 1
            try:
                yield from [from_json(Event, line)] if line else []
            except ValueError:  # the job was killed while it wrote this
                continue


@dataclass(kw_only=True)
class SlurmExecutor:
    """The jobs that this scheduler has submitted."""

    config: SlurmConfig
    recorder: IndexRecorder
    slurm: Slurm = field(default_factory=Slurm)
    _jobs: list[_Job] = field(default_factory=list[_Job])
    _renewed: float = field(default_factory=time.monotonic)
    _stopping: bool = False
    _faults: Counter[str] = field(default_factory=Counter[str])
    """How many jobs a run was in whose node had a fault, or that ended before they began."""
    fault: MachineFault | None = None
    """What the machine refused a job, if it concerns the run folders, or has met a run too often."""

    @property
    def slots(self) -> int:
        """How many gangs train at once."""
        return self.config.slots

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return any(job.plans for job in self._jobs)

    def idle_workers(self, wanted: int) -> Sequence[Owner]:
        """Return an owner for each place in new jobs; they wait in the cluster's queue, which has room."""
        each = self.config.gangs_per_job
        folders = [self._orders() / uuid.uuid4().hex for _ in range(-(-wanted // each))]
        return [_owner(folder) for folder in folders for _ in range(each)][:wanted]

    def train(self, owner: Owner, plans: Sequence[RunPlan], *, until: int | None = None) -> None:
        """Add a gang to a job that will be submitted with the next look at the executor."""
        job = next((job for job in self._jobs if job.owner == owner), None)
        if job is None:
            job = _Job(self.recorder, self._orders() / _name(owner))
            self._jobs.append(job)
        job.add(plans, until)

    def poll(self, seconds: float) -> list[ReleasedRun]:
        """Submit what is new, then read what jobs say and give back the runs of those that are through."""
        new = [job for job in self._jobs if not job.number]
        if self._stopping and new:
            self._jobs = [job for job in self._jobs if job.number]
            return [back for job in new for back in job.release_all("its job was not submitted")]
        if new:
            self._submit(new)
        time.sleep(seconds)
        returned = [back for job in self._jobs for back in self._handle_events(job)]
        self.slurm.warn_of_stuck([job.number for job in self._jobs])
        self._jobs = [job for job in self._jobs if job.plans]
        if time.monotonic() - self._renewed > self.config.lease.heartbeat_seconds:
            self._renewed = time.monotonic()
            for job in self._jobs:
                self.recorder.renew(list(job.plans), _owner(job.folder))
        return returned

    def is_alive(self, owner: Owner) -> bool | None:
        """Return whether a job waits or runs, or a process lives; None when nobody can tell."""
        if owner.host != HOST:
            return is_process_alive(owner)
        job = self._orders() / _name(owner) / JOB
        try:
            number, submitted_by = job.read_text(), job.stat().st_uid
        except OSError:  # its scheduler was about to submit it, or died before it could
            return None
        is_ours = submitted_by == os.getuid()  # the queue is asked for our own jobs
        return self.slurm.is_listed(number) if is_ours else None

    def stop(self) -> None:
        """Let running jobs save and end; take the others out of the queue."""
        self._stopping = True
        self.slurm.cancel([job.number for job in self._jobs if job.number])

    def withdraw(self, reason: str) -> None:
        """Give back what was not submitted; a job whose number we were not told finds nothing to do."""
        for job in (job for job in self._jobs if not job.number):
            (job.folder / ORDER).unlink(missing_ok=True)
            for back in job.release_all(reason):
                self.recorder.close(back.plan, back.owner, back.reason)

    def _submit(self, jobs: Sequence[_Job]) -> None:
        try:
            self._require_parts(jobs)
            numbers = self._order(jobs)
        except KdctlError as error:
            self.withdraw(error.problem)
            raise
        for job, number in zip(jobs, numbers, strict=True):
            job.number = number
            write_atomically(job.folder / JOB, number.encode())

    def _order(self, jobs: Sequence[_Job]) -> list[str]:
        """Write the orders of jobs and submit them; return their numbers.

        Raises:
            KdctlError: `sbatch` refuses them.
        """
        plugins, lease = loaded_plugin_files(), self.config.lease
        setup = WorkerSetup.of(self.recorder.workspace, plugins=plugins, lease=lease)
        for job in jobs:
            order = JobOrder(setup=setup, owner=_owner(job.folder), gangs=tuple(job.gangs))
            write_atomically(job.folder / ORDER, to_json(order).encode())
        options = {"job_name": "kdctl", "array_parallelism": self.config.slots, **self.config.options}
        return self.slurm.submit([job.folder for job in jobs], self._orders() / "logs", options)

    def _require_parts(self, jobs: Sequence[_Job]) -> None:
        """Refuse runs whose batches the tasks of a job cannot share."""
        num_tasks = self.config.num_tasks
        for plan in (plan for job in jobs for plan in job.plans.values()):
            if num_tasks > 1 and plan.engine.batch_parts % num_tasks:
                raise KdctlError(
                    f"a job has {num_tasks} tasks, which cannot share the parts of a batch equally: "
                    f"engine.batch_parts = {plan.engine.batch_parts}.",
                    f"-o engine.batch_parts={num_tasks} gives each task a part of every batch.",
                )

    def _handle_events(self, job: _Job) -> list[ReleasedRun]:
        """Return the runs that a job has ended, and all others once it is gone."""
        is_gone = self.slurm.is_listed(job.number) is False  # asked first: one that is gone has said all
        over: list[ReleasedRun] = []
        for event in job.events():
            for key in job.handle_event(event):
                folder = self.recorder.workspace.folder(key)
                has_ended = folder.result() is not None or folder.failure() is not None
                if has_ended or folder.is_past(job.pauses[key]):
                    over.append(job.release(key, event.text))
                else:  # saved: if SLURM has put the job back into its queue, it goes on with it
                    job.saved.add(key)
        if not is_gone:
            return over
        reason = job.exit_reason or f"job {job.number} ended before it did"
        keys = list(job.plans)
        self._consider_fault(job.fault or self._unbegun(job), keys)
        died = job.started and job.fault is None
        return over + [job.release(key, reason, worker_died=died and key not in job.saved) for key in keys]

    def _consider_fault(self, fault: MachineFault | None, keys: Sequence[str]) -> None:
        """Decide whether the fault of a job's node ends the sweep.

        A fault of the run folders does: all nodes share them. Other disks are the node's own: its runs go
        into another job, perhaps on a better node, but no run more than `max_crashes` times.
        """
        if fault is None:
            return
        self._faults.update(keys)
        shared = Path(fault.path).is_relative_to(self.recorder.workspace.runs.resolve())
        if shared or any(self._faults[key] >= self.config.lease.max_crashes for key in keys):
            self.fault = self.fault or fault

    def _unbegun(self, job: _Job) -> MachineFault | None:
        """Return what to say of a job that is gone and never trained: nobody knows why but its own output."""
        if job.started or self._stopping:
            return None
        logs = self._orders() / "logs"
        return MachineFault(
            problem=f"job {job.number} ended before it began to train, as others of its runs did before.",
            hint=f"see what it said in {logs}, or who cancelled it; {GOES_ON}",
        )

    def _orders(self) -> Path:
        return self.recorder.workspace.runs / ORDERS


def _owner(folder: Path) -> Owner:
    """Return who holds the runs of the order in `folder`."""
    return Owner(host=HOST, pid=0, token=f"::{folder.name}")


def _name(owner: Owner) -> str:
    return owner.token.rpartition(":")[2]
