"""Ctrl-C, SIGTERM and a closed terminal: finish the step, save, and say how to go on. A second one aborts."""

from __future__ import annotations

import math
import signal
import time
from types import FrameType, TracebackType
from typing import Any

import typer

from kdctl.cli.console import say
from kdctl.errors import AbortedError

EXIT_CODES = {
    getattr(signal, name): 128 + getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
}
"""By signal. `SIGHUP` is what a terminal sends that was closed, where there are terminals."""

_ALWAYS_MEANT = (signal.SIGINT, signal.SIGTERM)
"""Shells start programs in the background with SIGINT ignored, and who sends it all the same means it."""

GIVING_BACK_SECONDS = 5.0
"""After a signal that aborts, others are not heard for so long: fingers rest on Ctrl-C."""


class StopSignals:
    """While active, turns the first signal into a wish to stop."""

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self.exit_code = 0
        self._told = False
        self._aborted = -math.inf
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Return whether work should stop after the running step; say so when it is noticed."""
        if self.exit_code and not self._told:
            self._told = True
            say("stopping after this step; once more to abort without saving")
        return self.exit_code != 0

    def __enter__(self) -> StopSignals:
        """Start listening, but to a terminal that is to be outlived: `nohup` has that signal ignored."""
        for number in EXIT_CODES:
            if number in _ALWAYS_MEANT or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def exit_if_heard(self) -> None:
        """Say how to go on and leave with the signal's exit code, if there was a signal."""
        if self.exit_code:
            say("state saved; the same command goes on from here")
            raise typer.Exit(self.exit_code)

    def _abort(self, code: int) -> None:
        """Raise what ends the work at once; who gives its runs back for that is not disturbed by a third."""
        now = time.monotonic()
        if now - self._aborted > GIVING_BACK_SECONDS:
            self._aborted = now
            raise AbortedError(code)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        code = EXIT_CODES[signal.Signals(number)]
        if self.exit_code:
            self._abort(code)
        self.exit_code = code  # no output here: a write may be what the signal interrupted
