"""The two tables of the CRD paper: methods with a first phase keep the schedule of the second."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from kdctl.engine.phases import divide
from kdctl.protocols.distiller import Phase
from kdctl.recipe.optimization import Schedule
from kdctl.recipe.plan import RunPlan
from kdctl.workflows.sweep_plan import SweepPlan

Plan = Callable[..., SweepPlan]

STEPS = 10
"""Of an epoch."""


def drops(run: RunPlan, first_share: float) -> list[float]:
    """Return after how many epochs of the second phase the learning rate of a run drops."""
    schedule = cast(Schedule, run.schedule.options)
    phases = (Phase(name="first", share=first_share), Phase(name="second", share=1 - first_share))
    first, second = divide(phases, run.epochs)
    assert (first.epochs, second.epochs) == (30, 240)
    steps = range(second.epochs * STEPS)
    rates = [second.rate_factor(schedule, second.first + step / STEPS) for step in steps]
    return [step / STEPS for step in steps[1:] if rates[step] < rates[step - 1]]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.slow
def test_after_a_first_phase_of_30_epochs_the_rate_drops_as_it_does_without_one(
    number: int, plan: Plan
) -> None:
    runs = plan(f"crd/table{number}.toml").runs
    shares = {"ab": "init_share", "fsp": "init_share", "ft": "paraphrase_share"}
    seen: set[str] = set()
    for run in runs:
        if run.method.name in shares:
            first_share = getattr(run.method.options, shares[run.method.name])
            assert drops(run, first_share) == pytest.approx([150, 180, 210], abs=0.5)
            seen.add(run.method.name)
        else:
            assert (run.epochs, run.schedule.tree()["milestones"]) == (240, [150, 180, 210])
    assert seen == ({"ab", "fsp", "ft"} if number == 1 else {"ab", "ft"})
