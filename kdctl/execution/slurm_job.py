"""What runs on a compute node: the gangs of one order, in run folders, without a database."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from kdctl.execution.messages import Event, EventKind, JobOrder
from kdctl.execution.worker import SAVED, Notes, Voice, Wishes, Worker
from kdctl.machine_errors import MachineError
from kdctl.store.json_text import from_json

PATIENCE_SECONDS = 60.0
"""How long a command of SLURM may take to answer."""

ORDER = "order.json"
EVENTS = "events.jsonl"
JOB = "job"
"""Files of an order's folder; the last holds the number that SLURM gave the job."""


def work(folder: str) -> None:
    """Train what an order asks for, as far as time allows.

    SIGTERM (the job is pre-empted or cancelled), SIGUSR2 (its time is nearly over) and SIGINT (the
    scheduler wants no more) end it in good order: states are saved. After the first two it is put back
    into the queue, unless it was cancelled; when SLURM starts it again, it goes on from here. A fault of
    the node's disk or data ends it as well, and gives its runs back.
    """
    path = Path(folder)
    order = from_json(JobOrder, (path / ORDER).read_bytes())
    with (path / EVENTS).open("a", encoding="utf-8") as stream:
        stream.write("\n")  # behind a line that an earlier start may have left unfinished
        voice = Voice(stream)
        logging.getLogger("kdctl").addHandler(Notes(voice))
        wishes = Wishes()

        interrupted: list[int] = []

        def hear(number: int, frame: FrameType | None) -> None:
            interrupted.append(number)
            wishes.wish()

        signal.signal(signal.SIGTERM, hear)
        signal.signal(signal.SIGUSR2, hear)
        worker = Worker(setup=order.setup, owner=order.owner, voice=voice, stop=wishes, rejoins=True)
        voice.tell(Event(kind=EventKind.READY, owner=order.owner))
        try:
            for gang in order.gangs:
                if not wishes():
                    worker.train(gang)
        except MachineError:  # told; the other gangs would meet it too
            wishes.wish()
        voice.finish()
    if interrupted:
        _put_back()
    if wishes():
        sys.exit(SAVED)


def _put_back() -> None:
    """Put this job back into the queue if it still counts as running; a cancelled one does not."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    state = ask_slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    if state is not None and state.strip() == "RUNNING":
        ask_slurm("scontrol", "requeue", job)


def ask_slurm(*command: str) -> str | None:
    """Return what a command prints; None if it fails, as it does while the controller restarts."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
