"""The commands and jobs of SLURM that kdctl needs."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from kdctl.engine.ranks import LOCAL_RANK, RANK, WORLD_SIZE, Ranks, is_follower
from kdctl.errors import KdctlError
from kdctl.execution.distributed import follow, processes
from kdctl.execution.messages import Event, EventKind, JobOrder
from kdctl.execution.worker import SAVED, EventSender, LogForwarder, StopRequest, Worker
from kdctl.machine_errors import MachineError
from kdctl.store.json_files import from_json

_log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""At most so often the queue is looked at."""

GONE_SECONDS = 5.0
"""A job that `squeue` has not listed for so long is gone; between two states a job may be missing from it."""

PATIENCE_SECONDS = 60.0
"""How long a command of SLURM may take to answer."""

FIRST_PORT, NUM_PORTS = 20_000, 10_000
"""Tasks of a job meet at one of these, below those that systems give to outgoing connections."""

_STUCK = re.compile(
    r"held|never|down|failure|invalid|bad|not ?avail|not ?allowed"
    r"|partition(nodelimit|timelimit|inactive)|maxwall|perjob|pernode",
    re.IGNORECASE,
)
"""Reasons to wait that do not go by, as time or other jobs' ends make most go by (see `man squeue`)."""

ORDER = "order.json"
EVENTS = "events.jsonl"
JOB = "job"
"""Files of an order's folder; the last holds the number that SLURM gave the job."""


class Slurm:
    """Submits jobs and looks at the queue. Accounting (`sacct`) is not needed."""

    def __init__(self) -> None:
        """Nothing was looked at yet."""
        self._jobs: Mapping[str, str] | None = None
        self._looked = -LOOK_SECONDS
        self._missing: dict[str, float] = {}
        """Since when jobs that were asked for are not listed, by number."""
        self._told: set[tuple[str, str]] = set()
        """Of which jobs the user was told that they do not start, and why."""

    def submit(self, orders: Sequence[Path], logs: Path, parameters: Mapping[str, Any]) -> list[str]:
        """Submit one job for each order's folder, several as one array; return their numbers.

        Raises:
            KdctlError: SLURM refuses them.
        """
        from submitit.slurm.slurm import SlurmExecutor  # noqa: PLC0415 - an optional dependency

        known = SlurmExecutor._valid_parameters()  # pyright: ignore[reportPrivateUsage]
        direct = {name: value for name, value in parameters.items() if name in known}
        others = {name.replace("_", "-"): value for name, value in parameters.items() if name not in known}
        try:
            executor = SlurmExecutor(folder=logs / "%j")
            executor.update_parameters(**direct, additional_parameters={"requeue": True, **others})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with executor.batch():
                    jobs = [executor.submit(work, str(order.resolve())) for order in orders]
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            lines = [line for line in lines if not line.startswith("Try ")]  # says only how to see the help
            raise KdctlError(
                f"SLURM refused the jobs: {lines[-1] if lines else type(error).__name__}",
                "mend the --slurm-option it names; `sinfo` shows the partitions.",
            ) from error
        self._looked = -LOOK_SECONDS
        return [str(job.job_id) for job in jobs]

    def jobs(self) -> Mapping[str, str] | None:
        """Return our jobs that wait or run: why each waits, by number. None when SLURM does not answer."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            user = f"--user={os.getuid()}"
            answer = ask_slurm("squeue", "--noheader", "--array", "--format=%i %r", user)
            self._jobs = None if answer is None else dict(map(_job_and_reason, answer.splitlines()))
        return self._jobs

    def is_listed(self, job: str) -> bool | None:
        """Return whether one of our jobs waits or runs; None when nobody can tell, as between two states."""
        jobs = self.jobs()
        if jobs is None:
            return None
        if job in jobs:
            self._missing.pop(job, None)
            return True
        since = self._missing.setdefault(job, time.monotonic())
        return False if time.monotonic() - since >= GONE_SECONDS else None

    def warn_of_stuck(self, jobs: Sequence[str]) -> None:
        """Say once of each of our jobs that it will not start by itself, with the reason that SLURM gives."""
        listed = self.jobs() or {}
        stuck: dict[str, list[str]] = {}
        for job in jobs:
            reason = listed.get(job, "")
            if _STUCK.search(reason) and (job, reason) not in self._told:
                self._told.add((job, reason))
                stuck.setdefault(reason, []).append(job)
        for reason, numbers in stuck.items():
            _log.warning(
                "SLURM does not start %s until somebody acts: %s (`man squeue` explains it, `scontrol "
                "show job %s` tells what was asked for). Ctrl-C takes what waits out of the queue.",
                f"job {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} jobs",
                reason,
                numbers[0],
            )

    def cancel(self, jobs: Sequence[str]) -> None:
        """End jobs: waiting ones at once, running ones with SIGINT, so that they save."""
        if jobs:
            ask_slurm("scancel", "--state=PENDING", *jobs)
            ask_slurm("scancel", "--signal=INT", *jobs)


def require_slurm() -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        KdctlError: SLURM or submitit is missing.
    """
    missing = [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]
    if missing:
        raise KdctlError(
            f"SLURM is not here: there is no {missing[0]} on this machine.",
            "start the sweep on a submit host of the cluster, or leave out --executor slurm.",
        )
    if importlib.util.find_spec("submitit") is None:
        raise KdctlError(
            "jobs are submitted by the package submitit, which is not installed.",
            "pip install 'kdctl[slurm]'",
        )


def work(folder: str) -> None:
    """Train what an order asks for, as far as time allows. A job of several tasks trains each run on all.

    SIGTERM (the job is pre-empted or cancelled), SIGUSR2 (its time is nearly over) and SIGINT (the
    scheduler wants no more) end it in good order: states are saved. After the first two it is put back
    into the queue, unless it was cancelled; when SLURM starts it again, it goes on from here. A fault of
    the node's disk or data ends it as well, and gives its runs back.
    """
    path = Path(folder)
    if not (path / ORDER).is_file():  # it was withdrawn while the job was submitted
        return
    order = from_json(JobOrder, (path / ORDER).read_bytes())
    num_tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if num_tasks > 1:
        _take_rank()
        if is_follower(os.environ):
            sys.exit(follow(order.setup.device))
    with (path / EVENTS).open("a", encoding="utf-8") as stream:
        stream.write("\n")  # behind a line that an earlier start may have left unfinished
        sender = EventSender(stream)
        logging.getLogger("kdctl").addHandler(LogForwarder(sender))
        stop = StopRequest()

        interrupted: list[int] = []

        def on_signal(number: int, frame: FrameType | None) -> None:
            interrupted.append(number)
            stop.request()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGUSR2, on_signal)
        try:
            with _ranks(num_tasks, order.setup.device) as ranks:
                worker = Worker(
                    setup=order.setup,
                    owner=order.owner,
                    sender=sender,
                    stop=stop,
                    rejoins=True,
                    ranks=ranks,
                )
                sender.send(Event(kind=EventKind.READY, owner=order.owner))
                for gang in order.gangs:
                    if not stop():
                        worker.train(gang)
        except MachineError as error:  # the other gangs would meet it too
            sender.send(Event(kind=EventKind.FAULT, fault=error.fault))
            stop.request()
        sender.finish()
    if interrupted:
        _put_back()
    if stop():
        sys.exit(SAVED)


def _ranks(num_tasks: int, device: str) -> contextlib.AbstractContextManager[Ranks | None]:
    """Return the tasks of this job that train each run together; None for one task."""
    return processes(num_tasks, device) if num_tasks > 1 else contextlib.nullcontext()


def _take_rank() -> None:
    """Tell torch which of the job's tasks this is, and where to meet the others, as torchrun would.

    Raises:
        KdctlError: SLURM does not tell which nodes the job has.
    """
    environment = os.environ
    nodes = ask_slurm("scontrol", "show", "hostnames", environment.get("SLURM_JOB_NODELIST", ""))
    if not nodes:
        raise KdctlError("SLURM does not tell which nodes this job has.", "see `scontrol show hostnames`.")
    # Where SLURM gives each task its own GPU, torch sees one; where it does not, those of the node.
    own = int(environment.get("SLURM_LOCALID", "0")) % max(torch.cuda.device_count(), 1)
    environment[RANK] = environment.get("SLURM_PROCID", "0")
    environment[WORLD_SIZE] = environment["SLURM_NTASKS"]
    environment[LOCAL_RANK] = str(own)
    environment["MASTER_ADDR"] = nodes.split()[0]
    # The same for all tasks, and another for each job: several may share a node.
    environment["MASTER_PORT"] = str(FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % NUM_PORTS)


def _put_back() -> None:
    """Put this job back into the queue if it still counts as running; a cancelled one does not."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    state = ask_slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    if state is not None and state.strip() == "RUNNING":
        ask_slurm("scontrol", "requeue", job)


def _job_and_reason(line: str) -> tuple[str, str]:
    """Take a line of `squeue` apart; a reason may have several words."""
    number, _, reason = line.strip().partition(" ")
    return number, reason.strip()


def ask_slurm(*command: str) -> str | None:
    """Return what a command prints; None if it fails, as it does while the controller restarts."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
