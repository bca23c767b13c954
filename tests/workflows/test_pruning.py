"""Sweeps whose first round is cut at rungs: who is dropped, and that nothing else changes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError
from kdctl.execution.local_executor import LocalConfig
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunResult, RunState, StoredRun
from kdctl.serialization import to_tree
from kdctl.store.store import Store
from kdctl.workflows.metering import spent_seconds

RecipeWriter = Callable[..., Path]
Finished = Callable[[Path], Workspace]

RATES = (1e30, 1e-9, 0.05, 0.1, 0.5)
GRID = f"method = 'ce'\n[grid]\noptimizer.learning_rate = {list(RATES)}\n"
PRUNING = "[pruning]\nepochs = [1, 3]\nkeep = 0.5\nmetric = 'test'\n"
LINES = {
    "teacher": "",
    "seeds": "seeds = [0, 1]",
    "schedule": "schedule = {name = 'cosine', epochs = 5}",
}


class Seen(Silent):
    """Counts epochs, and remembers how runs ended."""

    def __init__(self) -> None:
        self.epochs: list[tuple[str, int]] = []
        self.ends: list[tuple[str, RunState, str]] = []

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        self.epochs.append((plan.key, result.epoch))

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        self.ends.append((plan.key, state, reason))


class KilledError(BaseException):
    """What a test raises where a process would be killed: nothing catches it."""


@pytest.fixture
def pruned(recipe: RecipeWriter) -> Path:
    """A sweep with rungs; the first lies as early as this schedule allows."""
    return recipe(GRID + PRUNING.replace("[1, 3]", "[3, 4]"), **LINES)


def decisions(workspace: Workspace) -> dict[str, tuple[RunState, str, int]]:
    """Return what became of each run; the reason of one that diverged or was dropped has its numbers."""
    return {run.key: (run.state, run.reason, run.epochs) for run in workspace.store.runs()}


def numbers(workspace: Workspace, key: str) -> tuple[object, ...]:
    """Return what a run came to, without its times."""
    run, folder = workspace.store.run(key), workspace.folder(key)
    trees = [to_tree(epoch) for epoch in workspace.store.epochs(key)]
    epochs = [
        {name: value for name, value in tree.items() if "second" not in name and name != "ended"}
        for tree in trees
    ]
    return run.result and run.result.selected, epochs, folder.artifacts()


def by_rate(runs: tuple[StoredRun, ...]) -> dict[float, list[StoredRun]]:
    rates: dict[float, list[StoredRun]] = {}
    for run in runs:
        rates.setdefault(run.plan["optimizer"]["learning_rate"], []).append(run)
    return rates


def expected(workspace: Workspace, rates: dict[float, list[StoredRun]]) -> dict[float, int]:
    """Decide from the curves of a sweep without rungs: by rate, after which epoch it is dropped."""
    curves = {
        rate: [epoch.test.top1 for epoch in workspace.store.epochs(runs[0].key)]
        for rate, runs in rates.items()
    }
    dropped = {1e30: 3}
    for epoch, places in ((3, 3), (4, 2)):  # half of 5, half of 3
        left = {rate: curve[epoch - 1] for rate, curve in curves.items() if rate not in dropped}
        last = sorted(left.values(), reverse=True)[min(places, len(left)) - 1]
        dropped |= {rate: epoch for rate, value in left.items() if value < last}
    return dropped


@pytest.mark.extended
def test_rungs_drop_what_does_badly_and_leave_the_bits_of_the_others(
    workspace: Workspace, finished: Finished, recipe: RecipeWriter, pruned: Path
) -> None:
    undisturbed = finished(recipe(GRID, **LINES))
    whole = by_rate(tuple(undisturbed.store.runs(sweep="tiny")))
    seen = Seen()
    outcome = workflows.sweep(pruned, workspace, progress=seen)
    assert outcome.complete
    dropped = expected(undisturbed, whole)
    assert 0 < len(dropped) < len(RATES)
    for rate, (first, second) in by_rate(outcome.runs).items():
        assert (first.seed, second.seed) == (0, 1)
        if rate not in dropped:
            assert (first.state, second.state) == (RunState.FINISHED, RunState.FINISHED)
            assert numbers(workspace, first.key) == numbers(undisturbed, first.key)
            assert numbers(workspace, second.key) == numbers(undisturbed, second.key)
            continue
        assert second.state is RunState.PRUNED
        assert second.epochs == 0
        assert f"dropped after epoch {dropped[rate]} of seed 0: it" in second.reason
        if rate != 1e30:
            assert (first.state, first.reason) == (RunState.PRUNED, second.reason)
            assert first.epochs == dropped[rate]
            theirs = numbers(undisturbed, first.key)[1][: dropped[rate]]  # type: ignore[index]
            assert numbers(workspace, first.key)[1] == theirs
    assert len(seen.epochs) == len(set(seen.epochs)), "an epoch was trained twice"
    assert {key for key, state, _ in seen.ends if state is RunState.PRUNED} == {
        run.key for run in outcome.runs if run.state is RunState.PRUNED
    }
    notes = " ".join(workflows.report(workspace).notes)
    assert "is not among the best" in notes


@pytest.mark.extended
def test_what_was_dropped_counts_among_those_that_a_winner_was_chosen_from(
    finished: Finished, pruned: Path
) -> None:
    ((winner, *_),) = workflows.plan_confirmation(finished(pruned), "tiny").candidates
    assert winner.original.top1
    assert winner.num_candidates == len(RATES)


@pytest.mark.extended
def test_what_joins_is_judged_with_all_and_what_was_trained_stays(
    workspace: Workspace, undisturbed: Workspace, recipe: RecipeWriter
) -> None:
    rungs = "[pruning]\nepochs = [3]\nkeep = 0.3\nmetric = 'test'\n"
    body = "method = 'ce'\n[grid]\noptimizer.learning_rate = [1e-30, 1e-20{}]\n" + rungs
    few, more = (body.format(rates) for rates in ("", ", 0.1"))
    assert not workflows.plan_sweep(recipe(few, **LINES), workspace).joins_decided
    first = workflows.sweep(recipe(few, **LINES), workspace)
    assert {run.state for run in first.runs} == {RunState.FINISHED}  # equals stay
    assert not workflows.plan_sweep(recipe(few, **LINES), workspace).joins_decided
    assert workflows.plan_sweep(recipe(more, **LINES), workspace).joins_decided
    extended = workflows.sweep(recipe(more, **LINES), workspace)
    assert {run.state for run in extended.runs} == {RunState.FINISHED}
    fresh = by_rate(workflows.sweep(recipe(more, **LINES), undisturbed).runs)
    assert {run.state for rate in (1e-30, 1e-20) for run in fresh[rate]} == {RunState.PRUNED}
    assert {run.state for run in fresh[0.1]} == {RunState.FINISHED}


@pytest.mark.extended
def test_a_start_after_the_end_does_nothing(copied: Finished, pruned: Path) -> None:
    workspace = copied(pruned)
    before = workspace.store.runs()
    seen = Seen()
    assert workflows.sweep(pruned, workspace, progress=seen).complete
    assert (seen.epochs, seen.ends) == ([], [])
    assert workspace.store.runs() == before


@pytest.mark.extended
def test_a_sweep_that_is_stopped_again_and_again_decides_the_same(
    workspace: Workspace, finished: Finished, pruned: Path
) -> None:
    for number in range(3, 100, 7):
        calls = iter(range(number))
        if workflows.sweep(pruned, workspace, stop=lambda calls=calls: next(calls, None) is None).complete:
            break
    assert decisions(workspace) == decisions(finished(pruned))


@pytest.mark.parametrize("state", [RunState.INTERRUPTED, RunState.PRUNED], ids=["decision", "dropping"])
@pytest.mark.extended
def test_a_sweep_that_is_killed_before_or_amid_its_decision_decides_the_same_and_repeats_nothing(
    workspace: Workspace, finished: Finished, pruned: Path, state: RunState
) -> None:
    seen = Seen()

    class Killer(Seen):
        def ended(self, plan: RunPlan, ended: RunState, result: RunResult | None, reason: str) -> None:
            super().ended(plan, ended, result, reason)
            if sum(known is state for _, known, _ in self.ends) == (
                4 if state is RunState.INTERRUPTED else 1
            ):
                raise KilledError

    killer = Killer()
    with pytest.raises(KilledError):
        workflows.sweep(pruned, workspace, progress=killer)
    assert any("paused after epoch 3" in reason for _, _, reason in killer.ends)
    assert workflows.sweep(pruned, workspace, progress=seen).complete
    assert decisions(workspace) == decisions(finished(pruned))
    assert not set(killer.epochs) & set(seen.epochs)


@pytest.mark.slow
def test_other_rungs_decide_anew_and_what_they_keep_goes_on(
    workspace: Workspace, undisturbed: Workspace, recipe: RecipeWriter
) -> None:
    late = recipe(GRID + PRUNING.replace("[1, 3]", "[4]"), **LINES)
    workflows.sweep(late, undisturbed)
    strict = recipe(GRID + PRUNING.replace("[1, 3]", "[3]").replace("0.5", "0.2"), **LINES)
    workflows.sweep(strict, workspace)
    assert decisions(workspace) != decisions(undisturbed)
    seen = Seen()
    assert workflows.sweep(late, workspace, progress=seen).complete
    assert decisions(workspace) == decisions(undisturbed)
    assert min(epoch for _, epoch in seen.epochs if epoch > 1) == 2  # second seeds
    first = {run.key for run in workspace.store.runs() if run.seed == 0}
    assert min(epoch for key, epoch in seen.epochs if key in first) == 4


@pytest.mark.extended
def test_a_lost_database_is_rebuilt_and_decides_the_same(
    copied: Finished, tmp_path: Path, pruned: Path
) -> None:
    workspace = copied(pruned)
    before = decisions(workspace)
    workspace.store.close()
    for path in workspace.runs.glob("kdctl.db*"):
        path.unlink()
    with workflows.open_workspace(workspace.runs, tmp_path / "data", num_threads=1) as again:
        seen = Seen()
        assert workflows.sweep(pruned, again, progress=seen).complete
        assert decisions(again) == before
        assert seen.epochs == []


@pytest.mark.extended
def test_what_was_dropped_is_known_to_a_database_that_is_rebuilt_from_folders(
    copied: Finished, tmp_path: Path, pruned: Path, recipe: RecipeWriter
) -> None:
    workspace = copied(pruned)
    before, (sweep,) = decisions(workspace), workspace.store.sweeps()
    plain = recipe(GRID, **LINES)
    workspace.store.close()
    for path in workspace.runs.glob("kdctl.db*"):
        path.unlink()
    with workflows.open_workspace(workspace.runs, tmp_path / "data", num_threads=1) as again:
        workflows.synchronise(again)
        assert decisions(again) == before
        assert RunState.PRUNED in {run.state for run in again.store.runs()}
        assert [known.members for known in again.store.sweeps()] == [sweep.members]
        assert not workflows.synchronise(again).changed
        workflows.sweep(plain, again, replace=True)  # what was dropped is asked for after all
        assert {run.state for run in again.store.runs()} <= {RunState.FINISHED, RunState.DIVERGED}
        assert not list(again.runs.glob("*/dropped.json"))


@pytest.mark.extended
def test_what_a_killed_sweep_was_about_to_drop_is_in_its_folder_already(
    copied: Finished, workspace: Workspace, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(workspace: Workspace) -> dict[str, bytes]:
        return {path.parent.name: path.read_bytes() for path in workspace.runs.glob("*/dropped.json")}

    def kill(store: Store, keys: Sequence[str], *, reason: str) -> int:
        raise KilledError

    expected = files(copied(pruned))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "prune", kill)
        with pytest.raises(KilledError):
            workflows.sweep(pruned, workspace)
    assert len(files(workspace)) == 1
    assert files(workspace).items() <= expected.items()
    assert workflows.sweep(pruned, workspace).complete
    assert files(workspace) == expected
    for path in workspace.runs.glob("*/dropped.json"):  # as an earlier version may have left them
        path.unlink()
    assert workflows.sweep(pruned, workspace).complete
    assert files(workspace) == expected


@pytest.mark.slow
def test_workers_come_to_the_same_decisions(
    workspace: Workspace, undisturbed: Workspace, pruned: Path
) -> None:
    workflows.sweep(pruned, undisturbed)
    seen = Seen()
    outcome = workflows.sweep(pruned, workspace, executor=LocalConfig(slots=2), progress=seen, gang_size=1)
    assert outcome.complete
    assert decisions(workspace) == decisions(undisturbed)
    assert len(seen.epochs) == len(set(seen.epochs))
    for run in outcome.runs:
        assert numbers(workspace, run.key) == numbers(undisturbed, run.key)


@pytest.mark.parametrize("collect", [False, True], ids=["saved", "collected"])
@pytest.mark.extended
def test_without_rungs_what_was_dropped_goes_on_with_or_without_its_saved_state(
    copied: Finished, finished: Finished, recipe: RecipeWriter, pruned: Path, collect: bool
) -> None:
    plain = recipe(GRID, **LINES)
    undisturbed, workspace = finished(plain), copied(pruned)
    dropped = {run.key: run.epochs for run in workspace.store.runs() if run.state is RunState.PRUNED}
    begun = {key for key, epochs in dropped.items() if epochs}
    assert begun
    if collect:
        workflows.collect(workspace, workflows.plan_collection(workspace))
    assert {key: (workspace.folder(key).path / "resume.pt").exists() for key in begun} == dict.fromkeys(
        begun, not collect
    )
    seen = Seen()
    assert {plan.key for plan in workflows.plan_sweep(plain, workspace).to_do} == set(dropped)
    workflows.sweep(plain, workspace, progress=seen)
    for key, epochs in dropped.items():
        assert numbers(workspace, key) == numbers(undisturbed, key)
        first = min((epoch for known, epoch in seen.epochs if known == key), default=1)
        assert first == (1 if collect else epochs + 1) or key not in begun


@pytest.mark.extended
def test_a_margin_drops_what_trails_the_leader(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = "[pruning]\nepochs = [3]\nmargin = 0.001\nmetric = 'test'\n"
    outcome = workflows.sweep(recipe(GRID + body, **LINES), workspace)
    left = {rate for rate, runs in by_rate(outcome.runs).items() if runs[0].state is RunState.FINISHED}
    at_rung = workspace.store.results_at([run.key for run in outcome.runs], 3)
    best = max(result.test.top1 for result in at_rung.values())
    for rate, runs in by_rate(outcome.runs).items():
        if rate in left:
            assert at_rung[runs[0].key].test.top1 == best
        elif rate != 1e30:
            assert "trails" in runs[0].reason
            assert f"({best:.2f} %)" in runs[0].reason


@pytest.mark.extended
def test_rungs_come_before_the_rounds_of_a_race(workspace: Workspace, recipe: RecipeWriter) -> None:
    lines = {**LINES, "seeds": "seeds = [0, 1, 2]"}
    racing = "[racing]\nmargin = 0.001\nmetric = 'test'\n"
    body = GRID + PRUNING.replace("[1, 3]", "[3]") + racing
    outcome = workflows.sweep(recipe(body, **lines), workspace)
    assert outcome.complete
    reasons = {run.reason for run in outcome.runs if run.state is RunState.PRUNED}
    assert any("dropped after epoch 3 of seed 0" in reason for reason in reasons)
    for runs in by_rate(outcome.runs).values():
        states = [run.state for run in runs]
        if states[2] is RunState.PRUNED and states[1] is RunState.FINISHED:
            assert "dropped after 2 seeds" in runs[2].reason
        else:
            assert states[1] == states[2]


@pytest.mark.extended
def test_a_budget_pays_for_runs_that_were_dropped_on_the_way(
    workspace: Workspace, recipe: RecipeWriter, pruned: Path
) -> None:
    body = GRID + PRUNING.replace("[1, 3]", "[3]")
    outcome = workflows.sweep(recipe(f"{body}[budget]\nmax_runs = 5\n", **LINES), workspace)
    assert outcome.budget == "max_runs = 5 were started"
    started = [run for run in outcome.runs if run.attempts]
    assert len(started) == 5
    assert RunState.PRUNED in {run.state for run in started}
    again = workflows.sweep(recipe(f"{body}[budget]\nmax_runs = 5\n", **LINES), workspace)
    assert again.runs == outcome.runs
    timed = recipe(f"{body}[budget]\ndevice_hours = 1\n", **LINES)
    spent = spent_seconds(workflows.plan_sweep(timed, workspace), workspace)
    first, *_, last = (epoch for run in started for epoch in workspace.store.epochs(run.key))
    assert first.device_seconds == pytest.approx(first.seconds / 5)  # all of them
    assert last.device_seconds == pytest.approx(last.seconds / 3)  # those that went on
    shares = [
        epoch.device_seconds
        for run in started
        for epoch in workspace.store.epochs(run.key)
        if epoch.device_seconds
    ]
    assert spent == pytest.approx(sum(shares))


TAUGHT = {"method": "method = {name = 'fitnet', hint_share = 0.5}", "teacher": "teacher = 'resnet4'"}
"""The model that is shipped is trained in the second half, in which the schedule runs anew."""


@pytest.mark.parametrize(
    ("lines", "rungs", "complaint"),
    [
        ({"schedule": "schedule = {name = 'step', epochs = 8, milestones = [4, 6]}"}, "4", "from epoch 5 on"),
        ({"schedule": "schedule = {name = 'cosine', epochs = 8}"}, "3", "from epoch 4 on"),
        ({"schedule": "schedule = {name = 'constant', epochs = 8, warmup_epochs = 2}"}, "2", "epoch 3 on"),
        (
            {"schedule": "schedule = {name = 'constant', epochs = 8}"},
            "8",
            "saves nothing, runs have 8 epochs",
        ),
        ({**TAUGHT, "schedule": "schedule = {name = 'constant', epochs = 8}"}, "4", "from epoch 5 on"),
        (
            {**TAUGHT, "schedule": "schedule = {name = 'step', epochs = 8, milestones = [4]}"},
            "6",
            "epoch 7 on",
        ),
    ],
)
def test_rungs_where_accuracies_tell_nothing_are_refused(
    workspace: Workspace, recipe: RecipeWriter, lines: dict[str, str], rungs: str, complaint: str
) -> None:
    grid = "[grid]\noptimizer.learning_rate = [0.01, 0.1]\n"
    body = f"{grid}[pruning]\nepochs = [{rungs}]\nkeep = 0.5\nmetric = 'test'\n"
    head = {"teacher": "", "method": "method = 'ce'", "schedule": "schedule = {name='constant', epochs=8}"}
    with pytest.raises(UsageError) as refusal:
        workflows.plan_sweep(recipe(body, **{**head, **lines}), workspace)
    assert complaint in refusal.value.problem
    assert refusal.value.hint


def test_runs_of_different_lengths_are_not_compared(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = "[grid]\nschedule.epochs = [6, 8]\n[pruning]\nepochs = [5]\nkeep = 0.5\nmetric = 'test'\n"
    with pytest.raises(UsageError, match="there are runs of 6 and 8 epochs"):
        workflows.plan_sweep(recipe(body, teacher="", method="method = 'ce'"), workspace)


def test_any_configuration_s_first_drop_counts(workspace: Workspace, recipe: RecipeWriter) -> None:
    schedule = "schedule = {name = 'step', epochs = 9}"
    grid = "[grid]\nschedule.milestones = [[3, 5], [5, 7]]\n"
    rungs = "[pruning]\nepochs = [6]\nmargin = 1\nmetric = 'test'\n"
    lines = {"teacher": "", "method": "method = 'ce'", "schedule": schedule}
    assert workflows.plan_sweep(recipe(grid + rungs, **lines), workspace).runs
    with pytest.raises(UsageError, match=r"5 is too early.*from epoch 6 on"):
        workflows.plan_sweep(recipe(grid + rungs.replace("6", "5"), **lines), workspace)


@pytest.mark.extended
def test_the_validation_split_decides_and_must_be_there(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = "[pruning]\nepochs = [3]\nkeep = 0.5\n"
    with pytest.raises(UsageError, match=r"\[pruning\] metric = 'val', but no validation split"):
        workflows.plan_sweep(recipe(GRID + body, **LINES), workspace)
    data = "data = {name = 'digits', size = 8, samples_per_class = 8, val_fraction = 0.2}"
    outcome = workflows.sweep(recipe(GRID + body, **LINES, data=data), workspace)
    at_rung = workspace.store.results_at([run.key for run in outcome.runs if run.seed == 0], 3)
    values = {key: result.val.top1 for key, result in at_rung.items() if result.val}
    last = sorted(values.values(), reverse=True)[2]  # half of five
    assert {key for key, value in values.items() if value < last} == {
        run.key for run in outcome.runs if run.seed == 0 and run.state is RunState.PRUNED
    }


def test_trying_a_recipe_out_knows_no_rungs(pruned: Path) -> None:
    assert not workflows.open_recipe(pruned, smoke=True).limits.drops


@pytest.mark.extended
def test_a_student_that_teaches_others_trains_to_its_end_and_they_are_pruned(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    kd = "'kd', { name = 'kd', temperature = 1.0 }, { name = 'kd', temperature = 9.0 }"
    body = (
        f"[grid]\nmethod = ['ce', {kd}]\n"
        + "[pruning]\nepochs = [3]\nkeep = 0.3\nmetric = 'test'\namong = 'methods'\n"
    )
    lines = {**LINES, "teacher": "teacher = {name = 'resnet3'}", "seeds": "seeds = [0]"}
    seen = Seen()
    outcome = workflows.sweep(recipe(body, **lines), workspace, progress=seen)
    assert outcome.complete
    teacher = outcome.runs[0]
    assert teacher.plan["method"]["name"] == "ce"
    taught = outcome.runs[1:]
    assert {run.plan["teachers"][0]["run"] for run in taught} == {teacher.key}
    paused = {key for key, _, reason in seen.ends if "paused after epoch 3" in reason}
    assert paused == {run.key for run in taught}
    assert (teacher.state, teacher.attempts) == (RunState.FINISHED, 1)
    at_rung = workspace.store.results_at([run.key for run in taught], 3)
    best = max(result.test.top1 for result in at_rung.values())
    for run in taught:  # one of three goes on, and what equals it
        assert (run.state is RunState.FINISHED) == (at_rung[run.key].test.top1 == best)


SEARCH = """method = 'ce'
[search]
sampler = 'tpe'
trials = 6
batch = {batch}
metric = 'test'
[search.space]
optimizer.learning_rate = {{ low = 0.001, high = 0.5, log = true }}
[pruning]
epochs = [3]
keep = 0.4
metric = 'test'
"""


def trials(workspace: Workspace) -> list[tuple[int, str, float | None]]:
    """Return what Optuna knows of each trial."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{workspace.store.path}")
    (name,) = optuna.get_all_study_names(storage)
    known = optuna.load_study(study_name=name, storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    return [(trial.number, trial.state.name, trial.value) for trial in known]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.extended
def test_a_search_holds_a_configuration_against_those_before_it(
    workspace: Workspace, recipe: RecipeWriter, batch: int
) -> None:
    path = recipe(SEARCH.format(batch=batch), **{**LINES, "seeds": "seeds = [0, 1]"})
    seen = Seen()
    outcome = workflows.sweep(path, workspace, progress=seen)
    assert outcome.complete
    assert len(seen.epochs) == len(set(seen.epochs))
    first = [run for run in outcome.runs if run.seed == 0]
    at_rung = workspace.store.results_at([run.key for run in first], 3)
    values = [at_rung[run.key].test.top1 for run in first]
    for place, run in enumerate(first):
        best = sorted(values[: place + 1], reverse=True)[: math.ceil(0.4 * (place + 1) - 1e-9)]
        assert (run.state is RunState.PRUNED) == (values[place] < best[-1])
    told = trials(workspace)
    dropped = [run.state is RunState.PRUNED for run in first]
    assert True in dropped
    assert [state for _, state, _ in told] == ["PRUNED" if lost else "COMPLETE" for lost in dropped]
    assert len(outcome.runs) == 12
    for run in outcome.runs:
        if run.seed == 1:
            twin = next(known for known in first if known.configuration == run.configuration)
            assert (run.state, run.reason) == (twin.state, twin.reason)


@pytest.mark.slow
def test_a_search_that_is_stopped_again_and_again_chooses_and_decides_the_same(
    workspace: Workspace, undisturbed: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe(SEARCH.format(batch=2), **{**LINES, "seeds": "seeds = [0]"})
    workflows.sweep(path, undisturbed)
    for number in range(3, 200, 11):
        calls = iter(range(number))
        if workflows.sweep(path, workspace, stop=lambda calls=calls: next(calls, None) is None).complete:
            break
    assert decisions(workspace) == decisions(undisturbed)
    assert trials(workspace) == trials(undisturbed)
    seen = Seen()
    assert workflows.sweep(path, workspace, progress=seen).complete
    assert (seen.epochs, seen.ends) == ([], [])


def test_rungs_of_a_search_are_held_against_all_that_it_may_choose(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    body = SEARCH.format(batch=1).replace("[pruning]", "schedule.epochs = [5, 6]\n[pruning]")
    with pytest.raises(UsageError, match="there are runs of 5 and 6 epochs"):
        workflows.plan_sweep(recipe(body, **LINES), workspace)


def start(path: Path, runs: Path, data: Path) -> subprocess.Popen[str]:
    """Start a sweep in a process of its own, which tells what happens."""
    places = ["--runs", str(runs), "--data", str(data)]
    command = ["sweep", str(path), *places, "--json", "--threads", "1", "--gang", "1"]
    words = [sys.executable, "-m", "kdctl", *command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events(lines: Iterable[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def trained(told: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(event["run"], event["result"]["epoch"]) for event in told if event["event"] == "epoch"]


@pytest.mark.slow
def test_schedulers_side_by_side_train_each_epoch_once_and_decide_the_same(
    workspace: Workspace, undisturbed: Workspace, pruned: Path, tmp_path: Path
) -> None:
    workflows.sweep(pruned, undisturbed)
    both = [start(pruned, workspace.runs, tmp_path / "data") for _ in range(2)]
    told = [events(process.communicate(timeout=120)[0].splitlines()) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [lines[-1]["complete"] for lines in told] == [True, True]
    epochs = [epoch for lines in told for epoch in trained(lines)]
    assert len(epochs) == len(set(epochs))
    assert decisions(workspace) == decisions(undisturbed)


@pytest.mark.slow
def test_a_process_that_is_killed_at_a_rung_is_followed_by_one_that_decides_the_same(
    workspace: Workspace, undisturbed: Workspace, pruned: Path, tmp_path: Path
) -> None:
    workflows.sweep(pruned, undisturbed)
    first = start(pruned, workspace.runs, tmp_path / "data")
    assert first.stdout is not None
    lines: list[str] = []
    for line in first.stdout:
        lines.append(line)
        if "paused after epoch" in line:
            first.kill()
            break
    first.communicate()
    seen = Seen()
    assert workflows.sweep(pruned, workspace, progress=seen).complete
    assert decisions(workspace) == decisions(undisturbed)
    for run in undisturbed.store.runs():
        assert numbers(workspace, run.key) == numbers(undisturbed, run.key)
