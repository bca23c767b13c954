"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from kdctl.cli.console import messages
from kdctl.cli.formatting import describe, describe_member, duration, outcome, pace
from kdctl.cli.remaining_time import RemainingTime
from kdctl.cli.titles import Titles, told_apart
from kdctl.records import EpochResult, RunResult, RunState
from kdctl.text import plural

if TYPE_CHECKING:
    from kdctl.recipe.plan import RunPlan

SECONDS_BETWEEN_LINES = 5.0
"""Off a terminal, a run in the middle of its epochs is mentioned at most so often."""

WIDE_TERMINAL = 120
"""Columns from which on a bar also shows the loss and the speed."""

SEEN_LETTERS = 27
"""Of a run's title, on a terminal of 80 columns."""


class Display(AbstractContextManager["Display"]):
    """Keeps the clock and shows nothing; what the others build on."""

    def __init__(self) -> None:
        """Nothing is planned yet."""
        self._remaining = RemainingTime()
        self._told: dict[str, str] = {}
        self._titles = Titles()
        self._resumed: frozenset[str] = frozenset()
        self._waiting: dict[str, RunPlan] = {}
        """Members of gangs, by run key, that begin when those are through that were stopped on their way."""

    def expect(self, plans: Sequence[RunPlan], states: Mapping[str, RunState]) -> None:
        """Hear of all runs, to name each as before; those that were stopped on their way go on."""
        self._told = told_apart(plans)
        self._titles.learn(plans)
        self._resumed = frozenset(key for key, state in states.items() if state is RunState.INTERRUPTED)

    def expect_pace(self, epoch_seconds: Mapping[str, float]) -> None:
        """Hear how long an epoch of each run should take: a teacher's takes longer than its students'."""
        self._remaining.weigh(epoch_seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the screen as it is."""

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None:
        """Count what is before us, and see what tells the runs apart."""
        self._told = told_apart(plans) | self._told
        self._remaining.expect({plan.key: plan.epochs for plan in plans}, later)
        self._titles.learn(plans)

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Start the clock, and see who waits."""
        for plan in plans:
            self._remaining.start(plan.key)
        new = {plan.key: plan for plan in plans if plan.key not in self._resumed}
        self._waiting |= new if len(new) < len(plans) else {}

    def stepped(self, key: str, position: float) -> None:
        """Move the clock."""
        self._remaining.move(key, position)
        self._waiting.pop(key, None)

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Move the clock."""
        self._remaining.move(plan.key, result.epoch)

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Move the clock."""
        if state is not RunState.INTERRUPTED:
            self._remaining.close(plan.key)

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Say that others work."""
        self.say(f"waiting for {plural(len(plans), 'run')} in training by another process")

    def say(self, text: str) -> None:
        """Show nothing."""

    def left(self) -> str:
        """Return the time that everything will still take; empty before anything is known."""
        seconds = self._remaining.seconds_left()
        return "" if seconds is None else f"{duration(seconds)} left"


class Lines(Display):
    """One plain line for each epoch, or every few seconds."""

    def __init__(self) -> None:
        """Write to stderr."""
        super().__init__()
        self._console = messages()
        self._last = 0.0

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Name the runs of a gang."""
        super().started(plans)
        for plan in plans:
            new = "waits" if plan.key in self._waiting else "start"
            self._say_of(plan, "resumed" if plan.key in self._resumed else new)

    def stepped(self, key: str, position: float) -> None:
        """Say that a run starts that has waited."""
        if key in self._waiting:
            self._say_of(self._waiting[key], "start")
        super().stepped(key, position)

    def _say_of(self, plan: RunPlan, does: str) -> None:
        self.say(f"{plan.key[:8]}  {does}  {describe(plan, self._told.get(plan.key, ''))}")

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Give the epoch's numbers."""
        super().epoch(plan, result)
        now = time.monotonic()
        if result.epoch < plan.epochs and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        val = f"val {result.val.top1:.2f} %  " if result.val else ""
        self.say(
            f"{plan.key[:8]}  epoch {result.epoch}/{plan.epochs}  loss {result.train_loss:.4g}  "
            f"test {result.test.top1:.2f} %  {val}{pace(result.images_per_second)}  {self.left()}"
        )

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Say how a run ended."""
        super().ended(plan, state, result, reason)
        self.say(f"{plan.key[:8]}  {outcome(state, result, reason)}")

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)


class _RoomyProgress(Progress):
    """Leaves the last columns free: there a terminal echoes ^C, and would start a new line."""

    def get_renderable(self) -> Constrain:
        return Constrain(super().get_renderable(), messages().width - 4)


class Bars(Display):
    """A bar for each run in training, and one for everything; finished runs stay as lines above."""

    def __init__(self) -> None:
        """Draw on stderr."""
        super().__init__()
        console = messages()
        self._wide = console.width >= WIDE_TERMINAL
        self._bars = _RoomyProgress(
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=24 if self._wide else 6),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[left]}", justify="right", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            expand=True,
        )
        self._everything = self._bars.add_task("all runs", total=1.0, numbers="", left="", visible=False)
        self._tasks: dict[str, TaskID] = {}
        self._shown: dict[str, RunPlan] = {}
        """By run key: those that have a bar."""
        self._epochs: dict[str, tuple[int, str]] = {}
        """By run key: how many epochs there are, and what the last one gave."""

    def __enter__(self) -> Bars:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away."""
        self._bars.stop()

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None:
        """Show the bar of all runs, unless there is nothing to do."""
        super().planned(plans, settled, later)
        self._bars.update(self._everything, visible=bool(plans))

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Draw a bar for each member of a gang."""
        super().started(plans)
        new = [plan for plan in plans if plan.key not in self._tasks]
        self._shown |= {plan.key: plan for plan in new}
        for plan in new:
            waits = "waits" if plan.key in self._waiting else ""
            self._tasks[plan.key] = self._bars.add_task(
                self._title(plan), total=plan.epochs, numbers=f"0/{plan.epochs}", left=waits
            )
            self._epochs[plan.key] = (plan.epochs, "")
        self._name_anew()

    def stepped(self, key: str, position: float) -> None:
        """Move the bars."""
        super().stepped(key, position)
        seconds = self._remaining.seconds_left_of(key)
        own = "" if seconds is None else duration(seconds)
        epochs, measured = self._epochs[key]
        self._bars.update(
            self._tasks[key], completed=position, left=own, numbers=f"{position:.1f}/{epochs}{measured}"
        )
        done, total = self._remaining.runs()
        self._bars.update(
            self._everything,
            completed=self._remaining.share(),
            numbers=f"{done}/{total} runs",
            left=self.left(),
        )

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Show the epoch's numbers beside the bar."""
        super().epoch(plan, result)
        measured = f"  loss {result.train_loss:.3g}  {result.test.top1:.2f} %"
        if self._wide:
            measured += f"  {pace(result.images_per_second)}"
        self._epochs[plan.key] = (plan.epochs, measured)
        numbers = f"{result.epoch}.0/{plan.epochs}{measured}"
        self._bars.update(self._tasks[plan.key], completed=result.epoch, numbers=numbers)

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Replace the bar by a line."""
        super().ended(plan, state, result, reason)
        self._shown.pop(plan.key, None)
        task = self._tasks.pop(plan.key, None)
        if task is not None:
            self._bars.remove_task(task)
        told = self._told.get(plan.key, "")
        title = describe(plan, told) if self._wide else f"{describe_member(plan, told)} · seed {plan.seed}"
        self.say(f"{plan.key[:8]}  {title}  {outcome(state, result, reason)}")

    def _name_anew(self) -> None:
        """Let each title begin with what tells its run from those that are seen with it now."""
        for key, task in self._tasks.items():
            self._bars.update(task, description=self._title(self._shown[key]))

    def _title(self, plan: RunPlan) -> str:
        """Return what tells a run from the others; with its key where that is too long to be seen whole."""
        title = self._titles.brief(plan, list(self._shown.values()))
        if self._wide:
            return f"{plan.key[:8]}  {title}"
        return title if len(title) <= SEEN_LETTERS else f"{plan.key[:6]} {title}"

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False)


def display(*, quiet: bool) -> Display:
    """Return the display that fits stderr, or one that shows nothing."""
    if quiet:
        return Display()
    return Bars() if sys.stderr.isatty() else Lines()
