from __future__ import annotations

import dataclasses
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.errors import KdctlError
from kdctl.evaluation_records import Evaluation
from kdctl.records import Artifact, Environment, EpochResult, PlannedRun, RunResult, RunState, SweepMember
from kdctl.store.leases import Owner
from kdctl.store.store import Store


def test_a_store_that_may_not_be_made_must_exist(database: Path) -> None:
    with pytest.raises(KdctlError, match="there is no database"):
        Store.open(database, create=False)

    assert not database.parent.exists()
    Store.open(database).close()
    Store.open(database, create=False).close()


def test_a_planned_run_comes_back_as_it_was(store: Store, plan_run: Callable[..., PlannedRun]) -> None:
    planned = plan_run(1, note="größer")
    store.add_runs([planned])

    run = store.run(planned.key)

    assert (run.key, run.configuration, run.seed) == (planned.key, planned.configuration, planned.seed)
    assert run.plan == planned.plan
    assert (run.state, run.epochs, run.attempts, run.reason) == (RunState.PLANNED, 0, 0, "")
    assert run.environment is None
    assert run.result is None
    assert run.created == run.updated
    assert run.created.endswith("+00:00")


def test_runs_that_differ_in_their_seed_share_the_tables_of_their_plans(
    store: Store, plan_run: Callable[..., PlannedRun]
) -> None:
    plans: list[dict[str, Any]] = [
        {"data": {"name": "digits"}, "seed": 3},
        {"data": {"name": "digits"}, "seed": 44},
        {"data": {"name": "digits"}, "seed": 3, "teachers": [{"name": "a", "seed": 3}]},
        {"data": {"name": "digits", "seed": 1}},
        {"data": {"name": '"seed":5,'}, "seed": 5},
    ]
    runs = [
        PlannedRun(key=f"{number:016x}", configuration="c", seed=number, plan=plan)
        for number, plan in enumerate(plans)
    ]
    store.add_runs(runs)

    found = [run.plan for run in store.runs()]

    assert found == plans
    assert found[0]["data"] is found[1]["data"]


def test_configurations_share_the_tables_in_which_they_are_equal(store: Store) -> None:
    plans: list[dict[str, Any]] = [
        {"data": {"size": 8}, "optimizer": {"momentum": 0}},
        {"data": {"size": 8}, "optimizer": {"momentum": 0.5}},
        {"data": {"size": 8.0}, "optimizer": {"momentum": False}},
        {"data": {"size": True}, "optimizer": {"momentum": 0.0}},
    ]
    store.add_runs(
        [
            PlannedRun(key=f"{number:016x}", configuration=str(number), seed=0, plan=plan)
            for number, plan in enumerate(plans)
        ]
    )

    found = [run.plan for run in store.runs()]

    assert repr(found) == repr(plans)
    assert found[0]["data"] is found[1]["data"]


def test_planning_known_runs_again_adds_only_the_new_ones(
    store: Store, plan_run: Callable[..., PlannedRun]
) -> None:
    assert store.add_runs([plan_run(1), plan_run(2)]) == 2
    assert store.add_runs([plan_run(1), plan_run(3), plan_run(2)]) == 1
    assert store.add_runs([]) == 0
    assert [run.seed for run in store.runs()] == [1, 2, 3]


def test_a_run_is_found_by_the_beginning_of_its_key(
    store: Store, plan_run: Callable[..., PlannedRun]
) -> None:
    runs = [plan_run(number) for number in range(50)]
    store.add_runs(runs)

    for run in runs:
        assert store.run(run.key[:8]).key == run.key
        assert store.run(run.key.upper()).key == run.key


def test_a_name_that_is_no_key_is_explained(store: Store) -> None:
    for key in ("abcd1", "abcd2", "abcd", "ffff"):
        store.add_runs([PlannedRun(key=key, configuration="c", seed=0, plan={})])

    assert store.run("abcd").key == "abcd"
    with pytest.raises(KdctlError, match="too short"):
        store.run("abc")
    with pytest.raises(KdctlError, match="there is no run '%bcd'") as unknown:
        store.run("%bcd")
    assert "kdctl list runs" in unknown.value.hint


def test_an_ambiguous_key_lists_the_candidates(store: Store) -> None:
    for number in range(10):
        store.add_runs([PlannedRun(key=f"abcd{number}", configuration="c", seed=number, plan={})])

    with pytest.raises(KdctlError, match="begins the keys of 10 runs") as caught:
        store.run("abcd")
    assert caught.value.hint == f"give more digits: {', '.join(f'abcd{n}' for n in range(8))}, ...."


@pytest.mark.extended
def test_ten_thousand_runs_are_no_trouble(store: Store, plan_run: Callable[..., PlannedRun]) -> None:
    runs = [plan_run(number) for number in range(10_000)]
    keys = [run.key for run in runs]

    assert store.add_runs(runs) == 10_000
    assert store.add_runs(runs) == 0
    assert store.states([*keys, "unknown"]) == dict.fromkeys(keys, RunState.PLANNED)
    assert [run.key for run in store.runs(reversed(keys[500:]))] == keys[500:]


def test_runs_meet_all_conditions_at_once(
    store: Store, plan_run: Callable[..., PlannedRun], me: Owner, record_sweep: Callable[..., None]
) -> None:
    runs = [plan_run(number) for number in range(4)]
    store.add_runs(runs)
    members = [SweepMember(run_key=run.key, role="student") for run in runs[:3]]
    record_sweep("lr", {}, members)
    for run in runs[2:]:
        store.claim(run.key, me, lease_seconds=60)

    assert [run.seed for run in store.runs(sweep="lr")] == [0, 1, 2]
    assert [run.seed for run in store.runs(state=RunState.RUNNING)] == [2, 3]
    assert [run.seed for run in store.runs(sweep="lr", state=RunState.RUNNING)] == [2]
    assert store.runs([runs[0].key], sweep="lr", state=RunState.RUNNING) == []
    assert store.runs([]) == []
    with pytest.raises(KdctlError, match="there is no sweep 'rl'"):
        store.runs(sweep="rl")


def test_epochs_are_kept_in_order_and_a_repeated_one_replaces_the_earlier(
    store: Store, plan_run: Callable[..., PlannedRun], make_epoch: Callable[..., EpochResult]
) -> None:
    run = plan_run(1)
    store.add_runs([run])
    for number in (1, 2, 3, 2):
        store.record_epoch(run.key, make_epoch(number))
    store.record_epoch(run.key, make_epoch(1, test_loss=math.inf))

    assert store.epochs(run.key) == [make_epoch(1, test_loss=math.inf), make_epoch(2), make_epoch(3)]
    assert store.run(run.key).epochs == 3


def test_an_epoch_lies_behind_a_run_once_its_holder_let_go_or_went_on(
    store: Store, plan_run: Callable[..., PlannedRun], make_epoch: Callable[..., EpochResult], me: Owner
) -> None:
    begun, resting = plan_run(0), plan_run(1)
    store.add_runs([begun, resting])
    for run in (begun, resting):
        store.claim(run.key, me, lease_seconds=60)
        store.record_epoch(run.key, make_epoch(1))
    keys = [begun.key, resting.key]
    assert store.past(keys, 1) == set()  # both are still held, exactly there
    store.release(resting.key, me, state=RunState.INTERRUPTED, reason="paused")
    assert store.past(keys, 1) == {resting.key}
    store.record_epoch(begun.key, make_epoch(2))
    assert store.past(keys, 1) == {begun.key, resting.key}
    assert store.past(keys, 2) == set()
    assert store.past([begun.key], 1) == {begun.key}
    assert store.results_at(keys, 2) == {begun.key: make_epoch(2)}


def test_time_is_summed_up_as_shares_and_as_what_earlier_versions_wrote(
    store: Store, plan_run: Callable[..., PlannedRun], make_epoch: Callable[..., EpochResult]
) -> None:
    run, other = plan_run(0), plan_run(1)
    store.add_runs([run, other])
    for number, share in ((1, None), (2, 0.5), (3, 0.25)):
        epoch = dataclasses.replace(make_epoch(number), seconds=4.0, device_seconds=share)
        store.record_epoch(run.key, epoch)
    assert store.seconds_of([run.key, other.key]) == {run.key: (0.75, 4.0)}


def test_what_was_measured_comes_back_as_it_was(
    store: Store,
    plan_run: Callable[..., PlannedRun],
    environment: Environment,
    make_evaluation: Callable[..., Evaluation],
) -> None:
    run = plan_run(1)
    store.add_runs([run])
    store.record_environment(run.key, environment)
    store.record_evaluation(make_evaluation(run.key, top1=1.0))
    store.record_evaluation(make_evaluation(run.key, top1=2.0))

    assert store.run(run.key).environment == environment
    assert store.evaluations(run.key) == [make_evaluation(run.key, top1=2.0)]


def test_a_run_that_the_database_lost_is_named(
    store: Store,
    environment: Environment,
    make_epoch: Callable[..., EpochResult],
    make_evaluation: Callable[..., Evaluation],
    record_sweep: Callable[..., None],
) -> None:
    member = SweepMember(run_key="abcd", role="student")
    attempts: list[Callable[[], None]] = [
        lambda: store.record_epoch("abcd", make_epoch(1)),
        lambda: store.record_environment("abcd", environment),
        lambda: store.record_evaluation(make_evaluation("abcd")),
        lambda: record_sweep("lr", {}, [member]),
    ]
    for attempt in attempts:
        with pytest.raises(KdctlError, match="the database has no run abcd"):
            attempt()
    assert store.sweeps() == []


def test_a_sweep_keeps_its_members_and_takes_the_latest_recipe(
    store: Store, plan_run: Callable[..., PlannedRun], record_sweep: Callable[..., None]
) -> None:
    runs = [plan_run(number) for number in range(3)]
    store.add_runs(runs)
    teacher, *students = [
        SweepMember(run_key=run.key, role="student" if run.seed else "teacher") for run in runs
    ]
    record_sweep("lr", {"grid": {"learning_rate": [0.1]}}, [teacher, students[0]])
    record_sweep("lr", {"grid": {"learning_rate": [0.1, 0.2]}}, [*students, teacher])

    sweep = store.sweep("lr")

    assert sweep.recipe == {"grid": {"learning_rate": [0.1, 0.2]}}
    assert sweep.members == (teacher, *students)


def test_sweeps_are_listed_newest_first(
    store: Store, plan_run: Callable[..., PlannedRun], record_sweep: Callable[..., None]
) -> None:
    run = plan_run(1)
    store.add_runs([run])
    for name in ("first", "second", "third"):
        record_sweep(name, {}, [SweepMember(run_key=run.key, role="student")])
    record_sweep("first", {"again": True}, [])

    assert [sweep.name for sweep in store.sweeps()] == ["third", "second", "first"]
    assert all(len(sweep.members) == 1 for sweep in store.sweeps())


def test_a_misspelt_sweep_is_suggested(store: Store, record_sweep: Callable[..., None]) -> None:
    record_sweep("learning_rates", {}, [])

    with pytest.raises(KdctlError, match="there is no sweep 'lerning_rates'") as caught:
        store.sweep("lerning_rates")
    assert caught.value.hint == "did you mean 'learning_rates'? Sweeps: learning_rates."


@pytest.mark.slow
def test_eight_processes_share_two_thousand_runs_and_do_none_twice(
    store: Store, plan_run: Callable[..., PlannedRun], start: Callable[..., subprocess.Popen[str]]
) -> None:
    keys = [plan_run(number).key for number in range(2000)]
    store.add_runs([plan_run(number) for number in range(2000)])
    processes = [start("claim_all.py", store.path) for _ in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate() for process in processes]

    assert [errors for _, errors in answers] == [""] * 8
    claimed = [key for output, _ in answers for key in output.split()]
    assert sorted(claimed) == sorted(keys)
    assert all(run.state is RunState.FINISHED and run.attempts == 1 for run in store.runs())


def test_settling_keeps_the_result_and_what_was_left_behind(
    store: Store,
    plan_run: Callable[..., PlannedRun],
    make_result: Callable[..., RunResult],
    artifact: Artifact,
    me: Owner,
) -> None:
    run = plan_run(1)
    store.add_runs([run])
    store.claim(run.key, me, lease_seconds=60)

    store.settle(run.key, me, result=make_result(RunState.DIVERGED, "epoch 3"), artifacts=[artifact])

    settled = store.run(run.key)
    assert settled.state is RunState.DIVERGED
    assert settled.result == make_result(RunState.DIVERGED, "epoch 3")
    assert settled.reason == "epoch 3"
    assert settled.updated > settled.created
    assert store.artifacts(run.key) == [artifact]
