"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from kdctl.cli.console import messages
from kdctl.records import EpochResult, RunResult, RunState, Selection

if TYPE_CHECKING:
    from kdctl.recipe.plan import RunPlan

SECONDS_BETWEEN_LINES = 5.0
"""Off a terminal, a run in the middle of its epochs is mentioned at most so often."""


class Clock:
    """How much is done of all runs, and how long the rest will take at the pace so far."""

    def __init__(self, epochs: dict[str, int]) -> None:
        """`epochs` is what each run still has before it."""
        self._total = epochs
        self._position: dict[str, float] = {}
        self._start: dict[str, float] = {}
        self._began = time.monotonic()

    def move(self, key: str, position: float) -> None:
        """Note that a run stands at `position` epochs."""
        self._start.setdefault(key, position)
        self._position[key] = position

    def close(self, key: str) -> None:
        """Note that a run needs no more time."""
        self._position[key] = self._total.get(key, 0)

    def share(self) -> float:
        """Return the share of all epochs that is done."""
        done = sum(self._position.get(key, 0.0) for key in self._total)
        return done / max(sum(self._total.values()), 1)

    def left(self) -> str:
        """Return the time left, for people; a dash before anything is known."""
        moved = sum(at - self._start.get(key, 0.0) for key, at in self._position.items())
        if moved <= 0:
            return "—"
        remaining = sum(self._total.values()) - sum(self._position.get(key, 0.0) for key in self._total)
        return duration((time.monotonic() - self._began) / moved * remaining)


class Display(AbstractContextManager["Display"]):
    """Keeps the clock and shows nothing; what the others build on."""

    def __init__(self) -> None:
        """Nothing is planned yet."""
        self._clock = Clock({})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the screen as it is."""

    def planned(self, plans: Sequence[RunPlan], settled: int) -> None:
        """Count what is before us."""
        self._clock = Clock({plan.key: plan.epochs for plan in plans})

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Show nothing."""

    def stepped(self, key: str, position: float) -> None:
        """Move the clock."""
        self._clock.move(key, position)

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Show nothing."""

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Move the clock."""
        self._clock.close(plan.key)

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Show nothing."""


class Lines(Display):
    """One plain line for each epoch, or every few seconds."""

    def __init__(self) -> None:
        """Write to stderr."""
        super().__init__()
        self._console = messages()
        self._last = 0.0

    def planned(self, plans: Sequence[RunPlan], settled: int) -> None:
        """Say how much there is to do."""
        super().planned(plans, settled)
        self._say(f"{len(plans) + settled} runs: {settled} done, {len(plans)} to do")

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Name the runs of a gang."""
        for plan in plans:
            self._say(f"{plan.key[:8]}  start  {describe(plan)}")

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Give the epoch's numbers."""
        self._clock.move(plan.key, result.epoch)
        now = time.monotonic()
        if result.epoch < plan.epochs and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        self._say(
            f"{plan.key[:8]}  epoch {result.epoch}/{plan.epochs}  loss {result.train_loss:.4f}  "
            f"test {result.test.top1:.2f} %  {result.images_per_second:.0f} images/s  "
            f"{self._clock.left()} left"
        )

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Say how a run ended."""
        super().ended(plan, state, result, reason)
        self._say(f"{plan.key[:8]}  {outcome(state, result, reason)}")

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Say that others work."""
        self._say(f"waiting for {len(plans)} runs that other processes train")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


class Bars(Display):
    """A bar for each run in training, and one for everything."""

    def __init__(self) -> None:
        """Draw on stderr."""
        super().__init__()
        self._console = messages()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._overall = self._bars.add_task("all runs", total=1.0, numbers="")

    def __enter__(self) -> Bars:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away; finished runs stay as lines."""
        self._bars.stop()

    def planned(self, plans: Sequence[RunPlan], settled: int) -> None:
        """Say how much there is to do."""
        super().planned(plans, settled)
        self._bars.print(f"{len(plans) + settled} runs: {settled} done, {len(plans)} to do")

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Draw a bar for each member of a gang."""
        for plan in plans:
            if plan.key not in self._tasks:
                label = f"{plan.key[:8]}  {describe(plan)}"
                self._tasks[plan.key] = self._bars.add_task(label, total=plan.epochs, numbers="")

    def stepped(self, key: str, position: float) -> None:
        """Move the bars."""
        super().stepped(key, position)
        self._bars.update(self._tasks[key], completed=position)
        self._bars.update(self._overall, completed=self._clock.share(), numbers=f"{self._clock.left()} left")

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Show the epoch's numbers beside the bar."""
        numbers = f"loss {result.train_loss:.4f}  test {result.test.top1:.2f} %  "
        numbers += f"{result.images_per_second:.0f} images/s"
        self._bars.update(self._tasks[plan.key], completed=result.epoch, numbers=numbers)

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Replace the bar by a line."""
        super().ended(plan, state, result, reason)
        task = self._tasks.pop(plan.key, None)
        if task is not None:
            self._bars.remove_task(task)
        self._bars.print(f"{plan.key[:8]}  {describe(plan)}  {outcome(state, result, reason)}", markup=False)

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Say that others work."""
        self._bars.print(f"waiting for {len(plans)} runs that other processes train")


def display(*, quiet: bool) -> Display:
    """Return the display that fits stderr, or one that shows nothing."""
    if quiet:
        return Display()
    return Bars() if sys.stderr.isatty() else Lines()


def describe(plan: RunPlan) -> str:
    """Return a run's title with its learning rate, the field a sweep varies most often."""
    return f"{plan.title()} · lr {plan.optimizer.options.learning_rate:g}"


def outcome(state: RunState, result: RunResult | None, reason: str) -> str:
    """Word how a run ended."""
    if result is None or state is not RunState.FINISHED:
        return f"{state.value}: {reason}" if reason else state.value
    last = result.selected[Selection.LAST.value].test.top1
    return f"{state.value}  test {last:.2f} %  {duration(result.train_seconds)}"


def duration(seconds: float) -> str:
    """Return a time for people: '12 s', '3 min 05 s', '2 h 10 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
