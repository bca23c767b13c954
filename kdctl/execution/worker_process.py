"""A worker process as its scheduler sees it."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO

from kdctl.execution.messages import Event, Order, WorkerSetup
from kdctl.execution.recorders import IndexRecorder
from kdctl.execution.worker import SAVED
from kdctl.execution.worker_state import WorkerState
from kdctl.machine_errors import how_it_ended
from kdctl.recipe.plan import RunPlan
from kdctl.store.json_files import from_json, to_json


class WorkerProcess(WorkerState):
    """A worker process, with the pipes that orders and events go through."""

    def __init__(
        self,
        setup: WorkerSetup,
        recorder: IndexRecorder,
        events: queue.SimpleQueue[tuple[WorkerProcess, Event | None]],
    ) -> None:
        """Start it. Its events go into `events`, and None once it has ended."""
        super().__init__(recorder)
        self.is_idle = False
        """Whether it waits for a gang."""
        self.last_line = ""
        """The last line of its standard error; known when it is reaped."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "kdctl.execution.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C in a terminal is for the scheduler, which tells the workers
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()
        self._send(setup)

    def train(self, plans: Sequence[RunPlan], *, until: int | None = None) -> None:
        """Send it a gang."""
        self.plans = {plan.key: plan for plan in plans}
        self.is_idle, self.started, self.has_stepped = False, False, False
        self.last_heard = self.last_news = time.monotonic()
        self._send(Order.of(plans, until=until))

    def stop(self) -> None:
        """Ask it to save what it trains, and to leave."""
        with contextlib.suppress(OSError):  # it has ended, and what was not sent yet is lost
            self._stdin.close()

    def kill(self, exit_reason: str = "") -> None:
        """End it without asking."""
        self.exit_reason = exit_reason
        self._process.kill()

    def has_ended(self) -> bool:
        """Return whether the process is gone."""
        return self._process.poll() is not None

    def reap(self) -> int:
        """Wait for its end, however it came, and return its exit code."""
        self._process.kill()  # it may have closed its output only
        code = self._process.wait()
        self.exit_reason = self.exit_reason or f"its worker {how_it_ended(code)}"
        self.last_line = _last_line(self._errors)
        self._errors.close()
        self.stop()
        self._reader.join(1.0)
        if not self._reader.is_alive():  # a child of the worker may have kept the pipe open
            self._stdout.close()
        return code

    def _read(self, events: queue.SimpleQueue[tuple[WorkerProcess, Event | None]]) -> None:
        with contextlib.suppress(ValueError):  # a torn line: it was killed while it wrote
            for line in self._stdout:
                events.put((self, from_json(Event, line)))
        events.put((self, None))

    def _send(self, message: WorkerSetup | Order) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended: the thread that listens will tell
            self._stdin.write(to_json(message) + "\n")
            self._stdin.flush()


def saved(code: int) -> bool:
    """Return whether a worker with this exit code left in good order."""
    return code == SAVED


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(max(os.fstat(errors.fileno()).st_size - 4096, 0))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
