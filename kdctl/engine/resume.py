"""States to resume from, bit for bit, and the thread that writes files in order."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdctl.engine.checkpoint import (
    DamagedCheckpointError,
    MisfitCheckpointError,
    host_copy,
    load_weights,
    read,
    write,
)
from kdctl.engine.member import Member
from kdctl.engine.optim import restore_optimizer
from kdctl.records import ModelMetrics, Selected
from kdctl.serialization import from_tree, to_tree

CAPACITY = 8
"""Files that may wait to be written. More would take memory: each waits as a copy of its content."""


class BackgroundWriter:
    """Writes one file after the other in a thread, in the order in which they were handed in.

    A state to resume from is only good with the checkpoints that were written before it. So the first
    write that fails is the last: what waits is dropped, and the error comes up at the next call.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Let up to `capacity` writes wait; whoever hands in more waits too."""
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue(capacity)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="kdctl-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits; an error that ended the work inside counts more than one in here."""
        self._waiting.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def write(self, write: Callable[[], object]) -> None:
        """Hand in a write, which must not look at anything that still changes.

        Raises:
            Exception: what an earlier write raised.
        """
        self._raise()
        self._waiting.put(write)

    def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            Exception: what a write raised.
        """
        self._waiting.join()
        self._raise()

    def _work(self) -> None:
        while (write := self._waiting.get()) is not None:
            try:
                if self._error is None:
                    write()
            except Exception as error:  # noqa: BLE001 - raised again in the thread that trains
                self._error = error
            finally:
                self._waiting.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


RESUME_FILE = "resume.pt"
"""In the run's folder, until the run ends."""

PREVIOUS_FILE = "resume.prev.pt"
"""The state that was saved before it, should it turn out to be damaged."""

FORMAT = "kdctl-state-2"

_FORMAT_1 = "kdctl-state-1"
"""Of version 0.1, which had one optimizer for each run."""

_log = logging.getLogger(__name__)


def state_of(member: Member) -> dict[str, Any]:
    """Return a copy of everything that is needed to go on from here, for `write_state`."""
    member.counters.flush()
    return host_copy(
        {
            "format": FORMAT,
            "epoch": member.epoch,
            "step": member.step,
            "distiller": dict(member.distiller.state_dict()),
            "optimizers": {part.name: part.optimizer.state_dict() for part in member.optimizers},
            "prepared_epochs": member.prepared_epochs,
            "models_before": to_tree(member.models_before),
            "sums": member.sums.state(),
            "epoch_seconds": member.epoch_seconds,
            "train_seconds": member.train_seconds,
            "selected": to_tree(member.selected),
        }
    )


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state into the folder of its run; the one before it is kept.

    Raises:
        MachineError: there is no room, or no permission.
    """
    write(folder / RESUME_FILE, state, previous=folder / PREVIOUS_FILE)


def load_state(member: Member) -> bool:
    """Put a new member where its saved state left it; False when there is none that can be used.

    A state that is torn, or that another version of kdctl wrote in another form, is as good as none:
    the run goes on from the state before it, or starts over, rather than fail for ever.

    Raises:
        KdctlError: the file is there but may not be read.
    """
    latest, previous = member.folder / RESUME_FILE, member.folder / PREVIOUS_FILE
    if latest.is_file():
        if _load(member, latest):
            return True
        _log.warning("%s is damaged or of another version: it is not used", latest)
    if not (previous.is_file() and _load(member, previous)):
        return False
    previous.replace(latest)  # else the next state would be written over the only good one
    return True


def has_state(folder: Path) -> bool:
    """Whether a run's folder holds a saved state, be it one that can be used or not."""
    return any((folder / name).is_file() for name in (RESUME_FILE, PREVIOUS_FILE))


def discard_state(folder: Path) -> None:
    """Remove the saved states of a run that has come to its end from its folder."""
    for name in (RESUME_FILE, PREVIOUS_FILE):
        (folder / name).unlink(missing_ok=True)


def _load(member: Member, path: Path) -> bool:
    try:
        state, _ = read(path)
        if state.get("format") == _FORMAT_1:
            state = _upgraded(member, state)
        if state.get("format") != FORMAT:
            return False
        load_weights(member.distiller, state["distiller"], path)
    except (DamagedCheckpointError, MisfitCheckpointError):
        return False
    _restore(member, state)
    return True


def _restore(member: Member, state: Mapping[str, Any]) -> None:
    member.stand_at(state["epoch"], state["step"])
    for part in member.optimizers:
        restore_optimizer(part.optimizer, state["optimizers"][part.name])
    member.prepared_epochs = state["prepared_epochs"]
    member.models_before = {
        name: from_tree(ModelMetrics, tree) for name, tree in state["models_before"].items()
    }
    member.sums.restore(state["sums"])
    member.epoch_seconds, member.train_seconds = state["epoch_seconds"], state["train_seconds"]
    member.selected = {rule: from_tree(Selected, tree) for rule, tree in state["selected"].items()}


def _upgraded(member: Member, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of version 0.1 in today's format."""
    (only,) = (part.name for part in member.optimizers)
    added = {"optimizers": {only: state["optimizer"]}, "prepared_epochs": 0, "models_before": {}}
    return {**state, **added, "format": FORMAT}
