import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.engine import trainer
from kdctl.engine.ranks import Ranks
from kdctl.engine.steps import EagerSteps
from kdctl.errors import AbortedError, KdctlError
from kdctl.execution.distributed import NoRecorder
from kdctl.execution.executor import InProcessConfig
from kdctl.execution.gang_run import GangTrainer
from kdctl.execution.local_executor import LocalConfig
from kdctl.execution.recorders import ABORTED, NOT_READY
from kdctl.machine_errors import MachineError, MachineFault
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunResult, RunState
from kdctl.store.folder import RunFolder
from kdctl.store.leases import LeaseConfig, Owner

RecipeWriter = Callable[..., Path]

AT_EVERY_STEP = InProcessConfig(lease=LeaseConfig(heartbeat_seconds=0.0))


class Thief(Silent):
    """Gives one run to another process as soon as it trains, and keeps what it hears."""

    def __init__(self, database: Path, method: str) -> None:
        self.database = database
        self.method = method
        self.stolen = ""
        self.ends: dict[str, RunState] = {}
        self.is_waited_for = False

    def started(self, plans: list[RunPlan]) -> None:
        for plan in plans:
            if plan.method.name == self.method and not self.stolen:
                self.stolen = plan.key

    def stepped(self, key: str, position: float) -> None:
        if key == self.stolen:
            with sqlite3.connect(self.database) as connection:
                values = "lease_host = 'elsewhere', lease_pid = 1, lease_token = '::other'"
                connection.execute(f"UPDATE kdctl_runs SET {values} WHERE key = ?", (key,))
            connection.close()
            other = Owner(host="elsewhere", pid=1, token="::other")
            RunFolder(self.database.parent, key).hold(other, lease_seconds=600)

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        self.ends[plan.key] = state

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        self.is_waited_for = [plan.key for plan in plans] == [self.stolen]


@pytest.mark.extended
def test_a_run_that_another_process_took_over_leaves_the_gang_and_the_others_finish(
    recipe: RecipeWriter, workspace: Workspace
) -> None:
    thief = Thief(workspace.store.path, "kd")
    path = recipe('[grid]\nmethod = ["kd", "simkd"]', schedule='schedule = {name="constant", epochs=2}')

    # The other process does not exist, so that the sweep would wait for its lease: stop it there.
    outcome = workflows.sweep(
        path, workspace, executor=AT_EVERY_STEP, progress=thief, stop=lambda: thief.is_waited_for
    )

    states = {run.key: run.state for run in outcome.runs}
    assert thief.is_waited_for
    assert not outcome.complete
    assert thief.ends[thief.stolen] is RunState.INTERRUPTED
    assert states[thief.stolen] is RunState.RUNNING  # the other process holds it
    others = [run for run in outcome.runs if run.key != thief.stolen]
    assert [run.state for run in others] == [RunState.FINISHED, RunState.FINISHED]
    assert not (workspace.folder(thief.stolen).path / "result.json").exists()


class Tidy(Silent):
    """Removes what says who trains a run, once."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    def stepped(self, key: str, position: float) -> None:
        if not (self.runs / "tidied").exists():
            (self.runs / "tidied").touch()
            (self.runs / key / "holder.json").unlink()


def test_a_run_whose_lease_was_lost_is_taken_again(recipe: RecipeWriter, workspace: Workspace) -> None:
    path = recipe(teacher="", method='method = "ce"', schedule='schedule = {name = "constant", epochs = 3}')
    (run,) = workflows.train(path, workspace, executor=AT_EVERY_STEP, progress=Tidy(workspace.runs))
    assert run.state is RunState.FINISHED
    assert run.attempts == 2
    assert workspace.folder(run.key).lease() is None


class Impatient(Silent):
    """Will not wait for the running step."""

    def __init__(self) -> None:
        self.ends: list[RunState] = []

    def stepped(self, key: str, position: float) -> None:
        raise AbortedError(143)

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        self.ends.append(state)


@pytest.mark.parametrize("executor", [InProcessConfig(), LocalConfig(slots=2)])
@pytest.mark.slow
def test_runs_that_are_aborted_are_held_by_nobody(
    recipe: RecipeWriter, workspace: Workspace, executor: InProcessConfig | LocalConfig
) -> None:
    impatient = Impatient()
    rates = "[grid]\noptimizer.learning_rate = [0.05, 0.1]"
    path = recipe(
        rates, teacher="", method='method = "ce"', schedule='schedule = {name = "constant", epochs = 100}'
    )
    with pytest.raises(AbortedError):
        workflows.sweep(path, workspace, executor=executor, progress=impatient)
    for run in workspace.store.runs():
        assert run.state in (RunState.INTERRUPTED, RunState.PLANNED)
        assert workspace.store.lease(run.key) is None
        assert workspace.folder(run.key).lease() is None
        assert run.reason in (ABORTED, "")
    assert set(impatient.ends) == {RunState.INTERRUPTED}


class StopsAtOnce(Silent):
    """Asks to stop as soon as a run is in work, and keeps why it ended."""

    def __init__(self) -> None:
        self.is_in_work = False
        self.reasons: list[str] = []

    def started(self, plans: Sequence[RunPlan]) -> None:
        self.is_in_work = True

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        self.reasons.append(reason)


@pytest.mark.extended
def test_a_wish_to_stop_ends_the_scaling_of_images(
    recipe: RecipeWriter, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = 'data = {name = "streamedfolder", path = "kdctl:sample", size = 16, resize = 18, stored_side = 18}'
    path = recipe(data=data, teacher="", method='method = "ce"')
    progress = StopsAtOnce()
    workflows.sweep(path, workspace, progress=progress, stop=lambda: progress.is_in_work)
    (run,) = workspace.store.runs()
    assert run.state is RunState.INTERRUPTED
    assert progress.reasons == [NOT_READY]
    assert not list(tmp_path.glob("cache/**/*.bin"))
    (run,) = workflows.sweep(path, workspace).runs
    assert run.state is RunState.FINISHED


def test_a_finished_run_keeps_no_state_to_resume_from(recipe: RecipeWriter, workspace: Workspace) -> None:
    stops = iter([False, False, True])
    path = recipe(student='student = "resnet3"', teacher="", method='method = "ce"')
    (run,) = workflows.train(path, workspace, stop=lambda: next(stops, True))
    assert (workspace.folder(run.key).path / "resume.pt").exists()
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


MEDDLING = """
import os
import sys
import torch
from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.distiller import methods

torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")


@methods.register("meddling")
class Meddling(CrossEntropy):
    \"\"\"Turns switches that decide on the numbers of others, and wants to leave.\"\"\"

    def losses(self, step):
        step.progress.item()  # so that a plan, which has no numbers, does not try it
        os.chdir("/")
        torch.set_grad_enabled(False)
        torch.set_float32_matmul_precision("medium")
        sys.exit(0)
"""


def test_a_plugin_that_leaves_fails_alone_and_changes_no_number_of_another_run(
    recipe: RecipeWriter, workspace: Workspace, tmp_path: Path
) -> None:
    alone = {"student": 'student = "resnet3"', "teacher": ""}
    (wanted,) = workflows.train(recipe(**alone, method='method = "ce"'), workspace)
    (tmp_path / "meddling.py").write_text(MEDDLING)
    path = recipe('[grid]\nmethod = ["meddling", "ce"]', **alone, plugins="plugins = ['meddling.py']")
    with workflows.open_workspace(tmp_path / "others", tmp_path / "data", num_threads=1) as others:
        outcome = workflows.sweep(path, others, gang_size=1)
    failed, finished = outcome.runs
    assert (failed.state, finished.state) == (RunState.FAILED, RunState.FINISHED)
    assert failed.reason.startswith("SystemExit: 0")
    assert finished.key == wanted.key
    assert finished.result
    assert wanted.result
    assert finished.result.selected == wanted.result.selected


WANDERING = """
import os
from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.distiller import methods


@methods.register("wandering")
class Wandering(CrossEntropy):
    \"\"\"Goes to another folder in each step.\"\"\"

    def losses(self, step):
        os.chdir("elsewhere" if os.path.isdir("elsewhere") else ".")
        return super().losses(step)
"""


def test_a_plugin_that_changes_the_folder_moves_no_run(
    recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "wandering.py").write_text(WANDERING)
    monkeypatch.chdir(tmp_path)
    path = recipe(teacher="", method='method = "wandering"', plugins="plugins = ['wandering.py']")
    with workflows.open_workspace(Path("runs"), Path("data"), num_threads=1) as workspace:
        (run,) = workflows.train(path, workspace)
    assert run.state is RunState.FINISHED
    assert (tmp_path / "runs" / run.key / "last.pt").is_file()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert Path.cwd() == tmp_path


class SecondOfTwo(Ranks):
    """Is told by rank 0 that it stands elsewhere."""

    def share(self, message: Any = None) -> Any:
        return [(key, epoch + 1, 0) for key, epoch, _ in message]

    def require_all_well(self, problem: str) -> None:
        if problem:
            raise MachineError(MachineFault(problem=problem, hint=""))


def test_processes_that_found_other_saved_states_do_not_train_on(
    recipe: RecipeWriter, workspace: Workspace
) -> None:
    """Each would take other steps of the same run, and say nothing."""
    plan = workflows.plan_training(recipe("method = 'ce'", teacher=""), workspace).runs[0]
    trainer = GangTrainer(
        context=workspace, recorder=NoRecorder(), progress=Silent(), stop=lambda: False,
        ranks=SecondOfTwo(rank=1, count=2),
    )  # fmt: skip
    with pytest.raises(
        MachineError, match=rf"it found runs saved at .*{plan.key}', 0, 0.*'{plan.key}', 1, 0"
    ):
        trainer.follow([plan])


class FirstOfTwo(Ranks):
    """Leads another process, which was told to stop."""

    votes: ClassVar[list[Sequence[bool]]] = []

    def share(self, message: Any = None) -> Any:
        return message

    def require_all_well(self, problem: str) -> None:
        assert not problem

    def any(self, flags: Sequence[bool]) -> list[bool]:
        self.votes.append(flags)
        assert len(self.votes) == 1, "it was begun again"
        return [True, False]


def test_a_process_whose_companion_was_told_to_stop_ends_as_well(
    recipe: RecipeWriter, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "choose_steps", EagerSteps)  # which need no other process
    path = recipe("method = 'ce'", teacher="")
    together = InProcessConfig(ranks=FirstOfTwo(rank=0, count=2))
    with pytest.raises(
        MachineError, match=r"another of the 2 processes .* was told to stop; its state is saved"
    ):
        workflows.train(path, workspace, executor=together)
    (run,) = workspace.store.runs()
    assert run.state is RunState.INTERRUPTED
    assert FirstOfTwo.votes == [[False, False]]
