"""What a workflow tells while it works; the command line shows it, a notebook may ignore it."""

# ruff: noqa: D102 - what the methods of `Silent` do is said by their class and by the protocol

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunResult, RunState


class Progress(Protocol):
    """What a workflow calls while it works."""

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None:
        """Called when runs are planned, teachers first; in a search once for each of its batches.

        Args:
            plans: to be trained now.
            settled: how many more runs need no training.
            later: how many runs will be planned when these have ended.
        """
        ...

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Called when runs begin to train together."""
        ...

    def stepped(self, key: str, position: float) -> None:
        """Called after a step: the run stands at `position` epochs."""
        ...

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Called with an epoch's numbers."""
        ...

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Called when a run has ended or paused; `reason` says why, if it did not finish."""
        ...

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Called when other processes train these runs, and this one waits for them."""
        ...


class Silent:
    """Shows nothing."""

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None: ...
    def started(self, plans: Sequence[RunPlan]) -> None: ...
    def stepped(self, key: str, position: float) -> None: ...
    def epoch(self, plan: RunPlan, result: EpochResult) -> None: ...
    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None: ...
    def waiting(self, plans: Sequence[RunPlan]) -> None: ...
