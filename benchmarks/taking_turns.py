"""Programs that are measured in turns, each in a process of its own.

What a training code sets for its whole process (threads, determinism, how memory is kept) then concerns
nobody else's steps, just as when people run one or the other.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Protocol


class Takes(Protocol):
    """Something that trains step by step."""

    def take(self, num_steps: int) -> float:
        """Take steps and return the seconds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One way to train."""

    name: str
    subject: Takes
    steps: int
    """Of a round."""
    students: int = 1


Build = Callable[..., list[Entry]]
"""Builds what one process trains."""


@dataclass(kw_only=True)
class Contender:
    """One way to train, in another process, and what its rounds took."""

    name: str
    students: int
    steps: int
    pipe: Connection
    seconds: list[float] = field(default_factory=list)

    @property
    def student_ms(self) -> float:
        """Median time of a step, per student."""
        return 1e3 * median(self.seconds) / self.steps / self.students

    def take_turn(self) -> float:
        """Take the steps of a round; return the seconds."""
        self.pipe.send(self.name)
        return self.pipe.recv()


class Stage:
    """Processes whose contenders take turns; they end with it."""

    def __init__(self, programs: Mapping[Build, tuple[object, ...]]) -> None:
        """Start a process for each function, which is called with its arguments and builds contenders."""
        self.contenders: list[Contender] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        context = multiprocessing.get_context("spawn")
        for build, arguments in programs.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_perform, args=(theirs, build, arguments), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self.contenders += [
                Contender(name=name, students=students, steps=steps, pipe=ours)
                for name, students, steps in ours.recv()  # EOFError: its traceback stands above
            ]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def measure(self, rounds: int) -> None:
        """Let all take turns; the first round warms up and does not count."""
        for number in range(rounds + 1):
            for contender in self.contenders:
                seconds = contender.take_turn()
                if number:
                    contender.seconds.append(seconds)


def _perform(pipe: Connection, build: Build, arguments: tuple[object, ...]) -> None:
    """Build the contenders of a process and let them take their turns until the other end is closed."""
    entries = {entry.name: entry for entry in build(*arguments)}
    pipe.send([(entry.name, entry.students, entry.steps) for entry in entries.values()])
    while True:
        try:
            entry = entries[pipe.recv()]
        except EOFError:
            return
        pipe.send(entry.subject.take(entry.steps))
