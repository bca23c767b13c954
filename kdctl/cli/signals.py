"""Ctrl-C and SIGTERM: finish the step, save, and say how to go on. A second one aborts."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import typer

from kdctl.cli.console import say

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopSignals:
    """While active, turns the first signal into a wish to stop."""

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self.exit_code = 0
        self._told = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Return whether work should stop after the running step; say so when it is noticed."""
        if self.exit_code and not self._told:
            self._told = True
            say("stopping after this step; once more to abort without saving")
        return self.exit_code != 0

    def __enter__(self) -> StopSignals:
        """Start listening."""
        for number in EXIT_CODES:
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

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        code = EXIT_CODES[signal.Signals(number)]
        if self.exit_code:
            raise SystemExit(code)  # no Exception, so that nothing on the way takes it for a failing run
        self.exit_code = code  # no output here: a write may be what the signal interrupted
