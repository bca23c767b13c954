from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from kdctl.errors import KdctlError
from kdctl.records import PlannedRun, RunState, SplitMetrics, SweepMember
from kdctl.store.leases import Owner
from kdctl.store.store import Store

PLAN: dict[str, Any] = {
    "student": {"name": "resnet8"},
    "method": {"name": "kd"},
    "optimizer": {"learning_rate": 0.05},
    "schedule": {"epochs": 240},
    "teachers": [{"name": "resnet20", "run": "f" * 16}],
}

PlanRun = Callable[..., PlannedRun]


def test_a_brief_says_what_the_whole_run_says(
    store: Store, plan_run: PlanRun, me: Owner, make_result: Any
) -> None:
    planned = plan_run(1, **PLAN)
    store.add_runs([planned])
    store.claim(planned.key, me, lease_seconds=60)
    store.settle(planned.key, me, result=make_result())
    (brief,) = store.briefs()
    run = store.run(planned.key)
    assert (brief.key, brief.seed, brief.state) == (run.key, run.seed, RunState.FINISHED)
    assert (brief.student, brief.method, brief.teachers) == ("resnet8", "kd", ("resnet20",))
    assert (brief.learning_rate, brief.planned_epochs, brief.top1) == (0.05, 240, 71.25)
    assert (brief.created, brief.updated) == (run.created, run.updated)


def test_a_run_that_is_still_training_tells_its_accuracy_so_far(
    store: Store, plan_run: PlanRun, me: Owner, make_epoch: Any
) -> None:
    planned = plan_run(1, **PLAN)
    store.add_runs([planned])
    store.claim(planned.key, me, lease_seconds=60)
    for number in (1, 2):
        store.record_epoch(planned.key, make_epoch(number))
    (brief,) = store.briefs()
    assert (brief.state, brief.epochs, brief.top1) == (RunState.RUNNING, 2, 40.0)
    wrong = dataclasses.replace(make_epoch(3), test=SplitMetrics(top1=math.nan, top5=0.0, loss=math.nan))
    store.record_epoch(planned.key, wrong)
    assert [brief.top1 for brief in store.briefs()] == [None], "no number, which a list could not sort"


def test_a_plan_that_lacks_a_field_is_listed_without_it(store: Store, plan_run: PlanRun) -> None:
    store.add_runs([plan_run()])
    (brief,) = store.briefs()
    assert (brief.method, brief.teachers, brief.planned_epochs, brief.top1) == ("", (), None, None)


def test_briefs_keep_the_planned_order_and_can_be_narrowed(
    store: Store, plan_run: PlanRun, record_sweep: Callable[..., None]
) -> None:
    runs = [plan_run(number) for number in range(5)]
    store.add_runs(runs)
    record_sweep("some", {}, [SweepMember(run_key=runs[3].key, role="student")])
    assert [brief.key for brief in store.briefs()] == [run.key for run in runs]
    assert [brief.key for brief in store.briefs(keys=[runs[4].key, runs[1].key])] == [
        runs[1].key,
        runs[4].key,
    ]
    assert [brief.key for brief in store.briefs(sweep="some")] == [runs[3].key]
    assert store.briefs(since="9999-01-01") == []
    with pytest.raises(KdctlError, match="no sweep 'sum'"):
        store.briefs(sweep="sum")


def test_students_are_found_by_the_teacher_that_their_plans_name(store: Store, plan_run: PlanRun) -> None:
    teacher, alone = plan_run(0), plan_run(1)
    students = [plan_run(number, teachers=[{"name": "t", "run": teacher.key}]) for number in (2, 3)]
    store.add_runs([teacher, alone, *students])
    assert store.students_of([teacher.key, alone.key]) == {teacher.key: [run.key for run in students]}
    assert store.students_of([]) == {}


def test_the_sweeps_of_a_run_are_named(
    store: Store, plan_run: PlanRun, record_sweep: Callable[..., None]
) -> None:
    run, other = plan_run(0), plan_run(1)
    store.add_runs([run, other])
    for name in ("one", "two"):
        record_sweep(name, {}, [SweepMember(run_key=run.key, role="student")])
    assert store.sweeps_of([run.key, other.key]) == {run.key: ["one", "two"]}
