"""What holds for every recipe that comes with kdctl."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState, Selection, StoredRun
from kdctl.report.fields import known_fields
from kdctl.report.layout import Layout
from kdctl.report.replicates import group_by_configuration
from kdctl.report.reported import find_reported, read_reported, without_row
from kdctl.report.statistics import Spread
from kdctl.workflows.sweep_plan import SweepPlan

Plan = Callable[..., SweepPlan]


def as_stored(plan: RunPlan) -> StoredRun:
    return StoredRun(
        key=plan.key,
        configuration=plan.configuration,
        seed=plan.seed,
        plan=plan.tree(),
        state=RunState.PLANNED,
        epochs=0,
        attempts=0,
        reason="",
        created="",
        updated="",
        environment=None,
        result=None,
    )


@pytest.mark.extended
def test_it_can_be_planned_and_says_what_it_is(recipe: str, plan: Plan) -> None:
    planned = plan(recipe)
    assert planned.runs
    assert planned.recipe.description


@pytest.mark.extended
def test_its_smoke_form_has_the_same_pairs_and_methods_in_little(any_recipe: str, plan: Plan) -> None:
    whole, small = plan(any_recipe), plan(any_recipe, smoke=True)
    pairs = [{(run.pair(), run.method.name) for run in each.runs} for each in (whole, small)]
    assert pairs[0] == pairs[1]
    for run in (*small.teachers, *small.runs):
        options = run.data.options
        assert (run.epochs, options.num_classes, options.samples_per_class) == (2, 4, 16)
    assert not {run.key for run in small.runs} & {run.key for run in whole.runs}


@pytest.mark.extended
def test_every_published_number_has_a_row_of_its_protocol(recipe: str, plan: Plan) -> None:
    planned = plan(recipe)
    runs = [as_stored(run) for run in planned.runs if run.seed == planned.recipe.seeds[0]]
    select = Selection(planned.recipe.tree.get("report", {}).get("select", "last"))
    known = known_fields(run.plan for run in runs)
    reported = read_reported(planned.recipe.tree)
    rows = group_by_configuration(runs, ["method.name"], select)
    layout = Layout(rows=("method.name",), columns=(), select=select, spread=Spread.SAMPLE)
    matches = [find_reported(row, reported, known, layout) for row in rows]
    used = [number for number in matches if number]
    assert without_row(reported, used, rows, known) == []
    for row, number in zip(rows, matches, strict=True):
        # What has a doubt in its protocol is shown and not tested; selections may differ, and are marked.
        if number and "probably" not in (number.protocol or ""):
            assert number.protocol in (None, row.plan["protocol"])
