from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.structure import Structures
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, RecipeError, UsageError
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunResult, RunState

RecipeWriter = Callable[..., Path]

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd"]
optimizer.learning_rate = [0.05, 0.1]
"""

SEARCH = """
method = "ce"
[search]
sampler = "{sampler}"
metric = "test"
trials = {trials}
[search.space]
optimizer.learning_rate = {{}}
optimizer.nesterov = [false, true]
"""


class Keys(Silent):
    """Remembers which runs were started, together."""

    def __init__(self) -> None:
        self.gangs: list[list[str]] = []
        self.later: list[int] = []

    @property
    def keys(self) -> list[str]:
        return [key for gang in self.gangs for key in gang]

    def planned(self, plans: list[RunPlan], settled: int, later: int) -> None:  # type: ignore[override]
        self.later.append(later)

    def started(self, plans: list[RunPlan]) -> None:  # type: ignore[override]
        self.gangs.append([plan.key for plan in plans])


class Positions(Silent):
    """Remembers where runs stood after each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    @property
    def last(self) -> float:
        return self.seen[-1] if self.seen else 0.0

    def stepped(self, key: str, position: float) -> None:
        self.seen.append(position)


def started(path: Path, workspace: Workspace, *, replace: bool = False) -> list[str]:
    """Sweep, and return the keys of the runs that were trained."""
    seen = Keys()
    workflows.sweep(path, workspace, progress=seen, replace=replace)
    return seen.keys


def trials(workspace: Workspace) -> list[list[optuna.trial.FrozenTrial]]:
    """Return the trials of every study in the file, as optuna-dashboard would see them."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{workspace.runs / 'kdctl.db'}")
    try:
        return [storage.get_all_trials(study._study_id) for study in storage.get_all_studies()]
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.extended
def test_a_second_sweep_trains_nothing(workspace: Workspace, recipe: RecipeWriter) -> None:
    path = recipe(GRID)
    first = workflows.sweep(path, workspace)
    assert first.complete
    assert {run.state for run in first.runs} == {RunState.FINISHED}
    seen = Keys()
    second = workflows.sweep(path, workspace, progress=seen)
    assert seen.gangs == []
    assert second == first
    assert {run.attempts for run in second.runs} == {1}


@pytest.mark.extended
def test_members_of_a_grid_train_in_gangs_that_share_their_teacher(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    seen = Keys()
    outcome = workflows.sweep(recipe(GRID), workspace, progress=seen)
    assert [len(gang) for gang in seen.gangs] == [1, 1, 2]  # teacher, student alone, two taught ones
    roles = {member.run_key: member.role for member in workspace.store.sweep("tiny").members}
    assert [roles[run.key] for run in outcome.runs] == ["teacher", "student", "student", "student"]


@pytest.mark.extended
def test_more_values_and_more_seeds_train_only_what_is_new(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.sweep(recipe(GRID), workspace)
    wider = GRID.replace("[0.05, 0.1]", "[0.2, 0.05, 0.1]")
    assert len(started(recipe(wider), workspace)) == 1
    assert len(started(recipe(wider, seeds="seeds = [0, 1]"), workspace)) == 4
    assert started(recipe(wider, seeds="seeds = [0, 1]"), workspace) == []


@pytest.mark.extended
def test_more_seeds_of_the_baseline_train_the_baseline_alone(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.sweep(recipe(GRID), workspace)
    path = recipe(GRID, seeds="seeds = 1\nbaseline_seeds = 3")
    plan = workflows.plan_sweep(path, workspace)
    assert [run.seed for run in plan.runs if run.method.name == "ce"] == [0, 1, 2]
    assert [run.seed for run in plan.runs if run.method.name == "kd"] == [0, 0]
    assert [plan.method.name for plan in plan.to_do] == ["ce", "ce"]
    assert len(started(path, workspace)) == 2
    assert started(path, workspace) == []


@pytest.mark.extended
def test_optuna_is_told_the_mean_over_seeds(workspace: Workspace, recipe: RecipeWriter) -> None:
    outcome = workflows.sweep(recipe(GRID, seeds="seeds = [0, 1]"), workspace)
    (study,) = trials(workspace)
    told = {trial.params.get("optimizer.learning_rate"): trial.value for trial in study}
    at_a_tenth = [
        run.result.selected["last"].test.top1
        for run in outcome.runs
        if run.result and run.plan["optimizer"]["learning_rate"] == 0.1
    ]
    assert len(at_a_tenth) == 2
    assert told[0.1] == pytest.approx(sum(at_a_tenth) / 2)
    assert {trial.state.name for trial in study} == {"COMPLETE"}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.extended
def test_a_search_tries_as_many_configurations_as_asked(
    workspace: Workspace, recipe: RecipeWriter, sampler: str
) -> None:
    path = recipe(SEARCH.format(sampler=sampler, trials=3), teacher="")
    seen = Keys()
    outcome = workflows.sweep(path, workspace, progress=seen)
    assert outcome.complete
    assert len({run.configuration for run in outcome.runs}) == len(outcome.runs) == 3
    assert seen.later == [2, 1, 0]
    again = Keys()
    assert workflows.sweep(path, workspace, progress=again) == outcome
    assert again.gangs == []


@pytest.mark.extended
def test_a_search_that_was_stopped_chooses_what_it_would_have_chosen(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path = recipe(SEARCH.format(sampler="random", trials=3), teacher="")
    undisturbed_keys = []
    with workflows.open_workspace(tmp_path / "undisturbed", num_threads=1) as other:
        undisturbed_keys = [run.key for run in workflows.sweep(path, other).runs]
    seen = Keys()
    stopped = workflows.sweep(path, workspace, progress=seen, stop=lambda: len(seen.gangs) == 2)
    assert not stopped.complete
    assert [run.key for run in workflows.sweep(path, workspace).runs] == undisturbed_keys


@pytest.mark.extended
def test_a_wish_to_stop_is_heard_while_optuna_is_told_and_the_next_start_tells_the_rest(
    workspace: Workspace, recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Silent):
        number = 0

        def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
            self.number += 1

    monkeypatch.setattr("kdctl.workflows.sweeping.TELLING_SECONDS", -1.0)
    path, seen = recipe("method = 'ce'\n[grid]\noptimizer.learning_rate = [0.1, 0.2]\n", teacher=""), Ended()
    stopped = workflows.sweep(path, workspace, progress=seen, stop=lambda: seen.number == 2)
    assert {run.state for run in stopped.runs} == {RunState.FINISHED}
    assert not stopped.complete
    assert started(path, workspace) == []
    assert workflows.sweep(path, workspace).complete


@pytest.mark.extended
def test_a_longer_search_goes_on_from_the_shorter_one(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.sweep(recipe(SEARCH.format(sampler="tpe", trials=2), teacher=""), workspace)
    longer = recipe(SEARCH.format(sampler="tpe", trials=3), teacher="")
    plan = workflows.plan_sweep(longer, workspace)
    assert (plan.num_done, plan.num_later, plan.num_configurations) == (2, 1, 3)
    assert len(started(longer, workspace)) == 1


@pytest.mark.extended
def test_more_seeds_of_a_search_repeat_its_configurations(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = SEARCH.format(sampler="random", trials=2)
    first = workflows.sweep(recipe(body, teacher=""), workspace)
    second = workflows.sweep(recipe(body, teacher="", seeds="seeds = [0, 1]"), workspace)
    assert {run.configuration for run in second.runs} == {run.configuration for run in first.runs}
    assert len(second.runs) == 4
    assert {run.attempts for run in second.runs} == {1}


@pytest.mark.extended
def test_a_changed_recipe_starts_another_search(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = SEARCH.format(sampler="random", trials=2)
    workflows.sweep(recipe(body, teacher=""), workspace)
    longer = recipe(body, teacher="", schedule="schedule = {name = 'constant', epochs = 2}")
    assert len(started(longer, workspace, replace=True)) == 2


def test_a_search_on_validation_needs_a_split(workspace: Workspace, recipe: RecipeWriter) -> None:
    path = recipe(SEARCH.format(sampler="tpe", trials=2).replace('metric = "test"', ""), teacher="")
    with pytest.raises(UsageError, match="no validation split") as refusal:
        workflows.sweep(path, workspace)
    assert "val_fraction" in refusal.value.hint


def test_every_choice_of_a_search_is_checked_before_the_first_trial(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    body = SEARCH.format(sampler="tpe", trials=2) + 'schedule.name = ["constant", "cosin", "stepp"]\n'
    with pytest.raises(RecipeError) as refusal:
        workflows.sweep(recipe(body, teacher=""), workspace)
    assert "cosin" in refusal.value.problem
    assert "stepp" in refusal.value.problem
    assert workspace.store.runs() == []


FRAGILE = """
from dataclasses import dataclass
from pathlib import Path
from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.distiller import methods

@methods.register("fragile")
class Fragile(CrossEntropy):
    \"\"\"Raises when its strength is 13, until the file 'mended' exists.\"\"\"
    num_teachers = (0, 1)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        strength: int = 1

    def losses(self, step):
        unlucky = step.progress.item() >= 0 and self.config.strength == 13
        if unlucky and not Path(__file__).with_name("mended").exists():
            raise ZeroDivisionError("unlucky")
        return super().losses(step)
"""


@pytest.mark.extended
def test_a_failing_run_fails_alone_and_is_tried_again_on_request(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    path = recipe(
        "[grid]\nmethod = [{name = 'fragile', strength = 1}, {name = 'fragile', strength = 13}]",
        plugins="plugins = ['fragile.py']",
        teacher="",
    )
    outcome = workflows.sweep(path, workspace)
    assert [run.state for run in outcome.runs] == [RunState.FINISHED, RunState.FAILED]
    assert outcome.complete
    (failure,) = outcome.failures
    assert "ZeroDivisionError: unlucky" in failure.problem
    assert "fragile.py" in failure.problem
    assert started(path, workspace) == []
    (tmp_path / "mended").touch()
    seen = Keys()
    mended = workflows.sweep(path, workspace, progress=seen, retry_failed=True)
    assert seen.keys == [outcome.runs[1].key]
    assert {run.state for run in mended.runs} == {RunState.FINISHED}
    assert not (workspace.folder(outcome.runs[1].key).path / "traceback.txt").exists()
    (study,) = trials(workspace)
    assert {trial.state for trial in study} == {optuna.trial.TrialState.COMPLETE}
    assert study[1].value == mended.runs[1].result.selected["last"].test.top1  # type: ignore[union-attr]


def test_a_diverged_run_is_a_result_and_the_sweep_goes_on(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = "method = 'ce'\n[grid]\noptimizer.learning_rate = [1e30, 0.05]"
    path = recipe(body, teacher="", schedule="schedule = {name = 'constant', epochs = 2}")
    outcome = workflows.sweep(path, workspace)
    assert [run.state for run in outcome.runs] == [RunState.DIVERGED, RunState.FINISHED]
    assert "not finite in epoch 1" in outcome.runs[0].reason
    assert outcome.complete
    assert outcome.failures == ()
    assert started(path, workspace) == []


def test_a_member_that_diverged_stays_diverged_when_its_gang_is_stopped(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    body = "method = 'ce'\n[grid]\noptimizer.learning_rate = [1e30, 0.05]"
    path = recipe(body, teacher="", schedule="schedule = {name = 'constant', epochs = 3}")

    positions = Positions()
    outcome = workflows.sweep(path, workspace, progress=positions, stop=lambda: positions.last > 1)
    assert [run.state for run in outcome.runs] == [RunState.DIVERGED, RunState.INTERRUPTED]


@pytest.mark.extended
def test_members_that_settled_before_a_failure_are_not_trained_again(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    lines = {
        "plugins": "plugins = ['fragile.py']",
        "teacher": "",
        "schedule": "schedule = {name = 'constant', epochs = 2}",
    }
    alone = recipe("method = {name = 'fragile', strength = 1}", **lines)
    grid = "[grid]\nmethod = [{name = 'fragile', strength = 1}, {name = 'fragile', strength = 13}]"
    # The first member stands further on than the second, so that they train one after the other.
    positions = Positions()
    workflows.train(alone, workspace, progress=positions, stop=lambda: len(positions.seen) == 3)
    outcome = workflows.sweep(recipe(grid, **lines), workspace)
    assert [(run.state, run.attempts) for run in outcome.runs] == [
        (RunState.FINISHED, 2),
        (RunState.FAILED, 1),
    ]


def test_a_plan_is_carried_out_as_it_was_shown_with_what_the_store_says_by_now(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe("[grid]\nmethod = ['ce']\noptimizer.learning_rate = [0.05, 0.1]", teacher="")
    plan = workflows.plan_sweep(path, workspace)
    workflows.train(recipe("method = 'ce'", teacher="", optimizer="optimizer.learning_rate = 0.1"), workspace)
    path.unlink()
    again = workflows.plan_sweep(plan, workspace)
    assert [one is other for one, other in zip(again.runs, plan.runs, strict=True)] == [True, True]
    assert (plan.num_done, again.num_done) == (0, 1)
    seen = Keys()
    outcome = workflows.sweep(plan, workspace, progress=seen)
    assert seen.keys == [run.key for run in again.to_do]
    assert {run.key for run in outcome.runs} == {run.key for run in plan.runs}


def test_data_that_are_missing_stop_a_sweep_before_its_first_run(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe(
        "method = 'ce'\n[grid]\noptimizer.learning_rate = [0.1, 0.2]",
        data="data = {name = 'digits', size = 8, num_classes = 99}",
    )
    with pytest.raises(KdctlError, match="num_classes = 99"):
        workflows.sweep(path, workspace)
    assert workspace.store.runs() == []
    assert workspace.store.sweeps() == []


@pytest.mark.extended
def test_two_sweeps_at_once_train_every_run_exactly_once(workspace: Workspace, recipe: RecipeWriter) -> None:
    path = recipe(GRID, seeds="seeds = [0, 1, 2]", schedule="schedule = {name = 'constant', epochs = 3}")
    program = f"""
import sys
from kdctl import workflows
with workflows.open_workspace({str(workspace.runs)!r}, num_threads=1) as workspace:
    sys.exit(not workflows.sweep({str(path)!r}, workspace).complete)
"""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    runs = workspace.store.runs(sweep="tiny")
    assert len(runs) == 1 + 3 * 3
    assert {(run.state, run.attempts) for run in runs} == {(RunState.FINISHED, 1)}
    (study,) = trials(workspace)
    assert len(study) == 3


@pytest.mark.extended
def test_a_teacher_that_is_a_student_too_is_counted_once(workspace: Workspace, recipe: RecipeWriter) -> None:
    path = recipe("[grid]\nstudent = ['resnet3', 'resnet4']\nmethod = ['ce', 'kd']")
    plan = workflows.plan_sweep(path, workspace)
    assert (len(plan.teachers), len(plan.runs), len(plan.to_do)) == (0, 4, 4)
    workflows.sweep(path, workspace)
    assert workflows.plan_sweep(path, workspace).num_done == 4


def test_runs_that_have_ended_are_planned_without_building_their_models(
    workspace: Workspace, recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe("method = 'ce'", teacher="")
    workflows.sweep(path, workspace)
    monkeypatch.delattr(Structures, "of")
    assert workflows.plan_sweep(path, workspace).num_done == 1
