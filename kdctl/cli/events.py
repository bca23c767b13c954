"""`--json`: what happens, as JSON lines on stdout, for programs that watch a training or a sweep.

Every line is an object with `schema`, `event` and `time` (UTC), and by its event:

    planned    runs (each with run, what, epochs), settled, later     what there is to do
    started    runs                                                   keys of runs that now train together
    epoch      run, epochs, result                                    an epoch's numbers
    ended      run, state, reason, result                             how a run ended, or that it paused
    waiting    runs                                                   keys of runs that other processes train
    finished   complete, states, budget, trouble                      the last line

Numbers that JSON lacks are spelled 'nan', 'inf' and '-inf'.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kdctl.cli.console import JSON_SCHEMA
from kdctl.cli.formatting import describe
from kdctl.cli.live import Display, display
from kdctl.cli.options import Format
from kdctl.cli.standard_streams import write_nowhere
from kdctl.cli.titles import told_apart
from kdctl.errors import UsageError
from kdctl.records import EpochResult, RunResult, RunState, StoredRun
from kdctl.serialization import to_tree
from kdctl.store.clock import utc_now
from kdctl.store.json_files import to_json

if TYPE_CHECKING:
    from kdctl.recipe.plan import RunPlan


class Events(AbstractContextManager["Events"]):
    """Listens to a workflow and writes a line for each event but single steps."""

    def __init__(self) -> None:
        """Write to stdout as long as somebody reads it."""
        self._is_read = True
        self._told: dict[str, str] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave stdout as it is."""

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None:
        """Write what there is to do."""
        told = told_apart(plans) | self._told
        runs = [
            {"run": plan.key, "what": describe(plan, told.get(plan.key, "")), "epochs": plan.epochs}
            for plan in plans
        ]
        self._write("planned", runs=runs, settled=settled, later=later)

    def expect(self, plans: Sequence[RunPlan], states: Mapping[str, RunState]) -> None:
        """Write nothing, but tell runs apart as before: a run's first epoch tells whether it goes on."""
        self._told = told_apart(plans)

    def expect_pace(self, epoch_seconds: Mapping[str, float]) -> None:
        """Write nothing: who reads keeps a clock of their own."""

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Write who trains together now."""
        self._write("started", runs=[plan.key for plan in plans])

    def stepped(self, key: str, position: float) -> None:
        """Write nothing: there are too many steps."""

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Write an epoch's numbers."""
        self._write("epoch", run=plan.key, epochs=plan.epochs, result=to_tree(result))

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Write how a run ended."""
        self._write("ended", run=plan.key, state=state.value, reason=reason, result=to_tree(result))

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Write whom we wait for."""
        self._write("waiting", runs=[plan.key for plan in plans])

    def finished(
        self, runs: Iterable[StoredRun], *, complete: bool, budget: str = "", trouble: str = ""
    ) -> None:
        """Write what it all came to."""
        states = Counter(run.state.value for run in runs)
        self._write("finished", complete=complete, states=dict(states), budget=budget, trouble=trouble)

    def _write(self, event: str, **content: Any) -> None:
        """Write a line; a reader that has gone (`| head`) must not be taken for a failing run."""
        if not self._is_read:
            return
        line = to_json({"schema": JSON_SCHEMA, "event": event, "time": utc_now(), **content})
        try:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            self._is_read = False
            write_nowhere(sys.stdout)


def listener(*, json: bool, quiet: bool, form: Format, dry_run: bool = False) -> Events | Display:
    """Return what shows progress: JSON lines, or the display that fits stderr.

    Raises:
        UsageError: `--json` and another form of output want stdout.
    """
    if not json:
        return display(quiet=quiet)
    if dry_run:
        raise UsageError("--dry-run has no events.", "say --format json for the plan as JSON.")
    if form is Format.JSON:
        raise UsageError(
            "--json and --format json both write to stdout.", "leave one out: --json ends with 'finished'."
        )
    return Events()
