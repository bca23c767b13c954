"""What an earlier version trained is found, evaluated, reported, compared and gone on with by a later one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_trainings import weights

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace, open_workspace
from kdctl.methods.kd import KdConfig
from kdctl.protocols.distiller import methods
from kdctl.recipe import plan as plan_module
from kdctl.recipe import recipe as recipe_module
from kdctl.recipe import stored as stored_module
from kdctl.recipe.component import option
from kdctl.recipe.engine_options import EngineOptions
from kdctl.records import RunState

RecipeWriter = Callable[..., Path]
Upgrade = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class LaterKd(KdConfig):
    """Options of `kd` with one more, which does nothing."""

    centred: bool = option(False, since="0.2.0")
    """An option that came later."""


@dataclass(frozen=True, kw_only=True)
class LaterEngine(EngineOptions):
    """Options of the engine with one more."""

    tf32: bool = option(False, since="0.2.0")
    """An option that came later."""


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Upgrade:
    """Return what makes this process a later version of kdctl."""
    entry = methods.get("kd")

    def later() -> None:
        monkeypatch.setitem(methods._entries, "kd", dataclasses.replace(entry, config=LaterKd))
        for module in (plan_module, recipe_module, stored_module):
            monkeypatch.setattr(module, "EngineOptions", LaterEngine)

    return later


class Started(Silent):
    """Remembers how many runs were started, and stops after so many steps."""

    def __init__(self, most_steps: int = 10**6) -> None:
        self.runs = 0
        self.steps_left = most_steps

    def started(self, plans: object) -> None:
        self.runs += len(plans)  # type: ignore[arg-type]

    def stepped(self, key: str, position: float) -> None:
        self.steps_left -= 1

    def __call__(self) -> bool:
        return self.steps_left <= 0


@pytest.mark.extended
def test_old_and_new_runs_of_one_configuration_are_replicates(
    workspace: Workspace, recipe: RecipeWriter, upgrade: Upgrade
) -> None:
    workflows.sweep(recipe("method = 'kd'"), workspace)
    upgrade()
    started = Started()
    longer = recipe("[grid]\nmethod = ['kd', {name = 'kd', centred = true}]", seeds="seeds = [0, 1]")
    outcome = workflows.sweep(longer, workspace, progress=started)
    assert outcome.complete
    assert started.runs == 3
    table = workflows.report(workspace, sweep="tiny", rows=["method.centred"])
    assert [(row["centred"], row["n"]) for row in table.records()] == [(False, 2), (True, 2)]
    students = [run for run in outcome.runs if run.plan["method"]["name"] == "kd"]
    old, other = (run.key for run in students if run.seed == 0)
    (difference,) = workflows.compare_runs(workspace, old, other).differences
    assert (difference.field, difference.left, difference.right) == ("method.centred", False, True)
    assert workflows.evaluate(old, workspace).run_key == old


def test_a_planned_run_of_a_later_version_differs_from_an_old_one_in_what_is_asked_for_only(
    workspace: Workspace, recipe: RecipeWriter, upgrade: Upgrade
) -> None:
    (old,) = workflows.train(recipe("method = 'kd'"), workspace)
    upgrade()
    plan = workflows.plan_sweep(
        recipe("method = {name = 'kd', centred = true}", name="name = 'b'"), workspace
    )
    (difference,) = workflows.compare_runs(workspace, old.key, plan.runs).differences
    assert (difference.field, difference.left, difference.right) == ("method.centred", False, True)


@pytest.mark.extended
def test_a_run_that_an_earlier_version_began_ends_as_if_it_had_gone_on(
    workspace: Workspace, recipe: RecipeWriter, upgrade: Upgrade, tmp_path: Path
) -> None:
    path = recipe("method = 'kd'", schedule="schedule = {name = 'constant', epochs = 3}")
    with open_workspace(tmp_path / "undisturbed", workspace.library, num_threads=1) as undisturbed:
        (whole,) = workflows.train(path, undisturbed)
        expected = weights(undisturbed, whole.key)
    stop = Started(most_steps=9)  # two steps an epoch, the teacher's three come first
    (begun,) = workflows.train(path, workspace, progress=stop, stop=stop)
    assert (begun.state, begun.epochs) == (RunState.INTERRUPTED, 1)
    upgrade()
    (run,) = workflows.train(path, workspace)
    assert (run.key, run.state) == (whole.key, RunState.FINISHED)
    ended = weights(workspace, run.key)
    assert all(torch.equal(ended[name], expected[name]) for name in expected)
