"""What runs on a compute node: the gangs of one order, in run folders, without a database."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from kdctl.store.json_text import from_json
from kdctl.workflows.messages import Event, EventKind, JobOrder
from kdctl.workflows.worker import SAVED, Notes, Voice, Wishes, Worker

ORDER = "order.json"
EVENTS = "events.jsonl"
JOB = "job"
"""Files of an order's folder; the last holds the number that SLURM gave the job."""


def work(folder: str) -> None:
    """Train what an order asks for, as far as time allows.

    SIGTERM (the job is pre-empted or cancelled) and SIGUSR2 (its time is nearly over) end it in good
    order: states are saved. A job that SLURM puts back into its queue starts here again, and goes on.
    """
    path = Path(folder)
    order = from_json(JobOrder, (path / ORDER).read_bytes())
    with (path / EVENTS).open("a", encoding="utf-8") as stream:
        stream.write("\n")  # behind a line that an earlier start may have left unfinished
        voice = Voice(stream)
        logging.getLogger("kdctl").addHandler(Notes(voice))
        wishes = Wishes()

        def hear(number: int, frame: FrameType | None) -> None:
            wishes.wish()

        signal.signal(signal.SIGUSR2, hear)
        worker = Worker(setup=order.setup, owner=order.owner, voice=voice, stop=wishes, rejoins=True)
        voice.tell(Event(kind=EventKind.READY, owner=order.owner))
        for gang in order.gangs:
            if not wishes():
                worker.train(gang)
        voice.finish()
    if wishes():
        sys.exit(SAVED)
