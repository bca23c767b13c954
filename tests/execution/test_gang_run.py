import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.engine import trainer
from kdctl.engine.steps import EagerSteps
from kdctl.errors import KdctlError
from kdctl.execution.executor import InProcessConfig
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunResult, RunState
from kdctl.store.leases import LeaseConfig

RecipeWriter = Callable[..., Path]

AT_EVERY_STEP = InProcessConfig(lease=LeaseConfig(heartbeat_seconds=0.0))


class Thief(Silent):
    """Gives one run to another process as soon as it trains, and keeps what it hears."""

    def __init__(self, database: Path, method: str) -> None:
        self.database = database
        self.method = method
        self.stolen = ""
        self.ends: dict[str, RunState] = {}

    def started(self, plans: list[RunPlan]) -> None:
        for plan in plans:
            if plan.method.name == self.method and not self.stolen:
                self.stolen = plan.key

    def stepped(self, key: str, position: float) -> None:
        if key == self.stolen:
            with sqlite3.connect(self.database) as connection:
                connection.execute("UPDATE kdctl_runs SET lease_token = 'other' WHERE key = ?", (key,))
            connection.close()

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        self.ends[plan.key] = state


def test_a_run_that_another_process_took_over_leaves_the_gang_and_the_others_finish(
    recipe: RecipeWriter, workspace: Workspace
) -> None:
    thief = Thief(workspace.store.path, "kd")
    path = recipe('[grid]\nmethod = ["kd", "simkd"]', schedule='schedule = {name="constant", epochs=2}')

    # the sweep would wait for the other process, which is none: stop it there
    outcome = workflows.sweep(
        path, workspace, executor=AT_EVERY_STEP, progress=thief, stop=lambda: len(thief.ends) == 4
    )

    states = {run.key: run.state for run in outcome.runs}
    assert thief.ends[thief.stolen] is RunState.INTERRUPTED
    assert states[thief.stolen] is RunState.RUNNING  # the other process holds it
    others = [run for run in outcome.runs if run.key != thief.stolen]
    assert [run.state for run in others] == [RunState.FINISHED, RunState.FINISHED]
    assert not (workspace.folder(thief.stolen).path / "result.json").exists()


def test_a_finished_run_keeps_no_state_to_resume_from(recipe: RecipeWriter, workspace: Workspace) -> None:
    stops = iter([False, False, True])
    path = recipe(student='student = "resnet3"', teacher="", method='method = "ce"')
    workflows.train(path, workspace, stop=lambda: next(stops, True))
    (run,) = workflows.train(path, workspace)
    assert run.state is RunState.FINISHED
    assert not (workspace.folder(run.key).path / "resume.pt").exists()


def test_the_environment_says_how_steps_were_executed(
    recipe: RecipeWriter, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"teacher": "", "method": 'method = "ce"', "student": 'student = "resnet3"'}
    (run,) = workflows.train(recipe(**alone), workspace)
    assert run.environment is not None
    assert run.environment.execution == "eager"
    monkeypatch.setattr(trainer, "choose_steps", lambda gang: EagerSteps(gang, "a reason"))
    (run,) = workflows.train(recipe(**alone, seeds="seeds = [7]"), workspace)
    assert run.environment is not None
    assert run.environment.execution == "eager: a reason"
    written = json.loads((workspace.folder(run.key).path / "environment.json").read_text())
    assert written["execution"] == "eager: a reason"


def test_a_teacher_whose_file_changed_since_its_run_ended_is_refused(
    recipe: RecipeWriter, workspace: Workspace
) -> None:
    (taught,) = workflows.train(recipe(method='method = "kd"'), workspace)
    teacher = taught.plan["teachers"][0]["run"]
    folder = workspace.folder(teacher).path
    (folder / "last.pt").write_bytes((workspace.folder(taught.key).path / "last.pt").read_bytes())
    again = recipe(method='method = "kd"', seeds="seeds = [7]")
    with pytest.raises(KdctlError, match="SHA-256 differs"):
        workflows.train(again, workspace)
