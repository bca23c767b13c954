"""Writing files beside the training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

CAPACITY = 8
"""Files that may wait: their contents are copies in memory."""


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
