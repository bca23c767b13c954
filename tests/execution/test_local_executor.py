"""Several worker processes: the same results, and no crash takes the sweep down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.execution.local_executor import LocalConfig
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunResult, RunState
from kdctl.serialization import to_tree
from kdctl.store.leases import LeaseConfig

RecipeWriter = Callable[..., Path]

TWO = LocalConfig(slots=2)

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd"]
optimizer.learning_rate = [0.05, 0.1]
"""

DEADLY = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.distiller import methods

@methods.register("deadly")
class Deadly(CrossEntropy):
    \"\"\"Ends its own process with a signal, so often, by one file for each death.\"\"\"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        signal: int = 0
        times: int = 0
        raises: bool = False
        after: float = 0.0

    def losses(self, step):
        if self.config.raises and step.progress.item() >= 0:
            raise ZeroDivisionError("unlucky")
        folder = Path(__file__).parent
        deaths = len(list(folder.glob(f"death-{self.config.signal}-*")))
        if deaths < self.config.times and step.progress.item() >= self.config.after:
            (folder / f"death-{self.config.signal}-{deaths}").touch()
            os.kill(os.getpid(), self.config.signal)
            time.sleep(60)  # a stopped process goes on here
        return super().losses(step)
"""


class Seen(Silent):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, RunState, str]] = []
        self.steps = 0

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        self.ends.append((plan.key, state, reason))

    def stepped(self, key: str, position: float) -> None:
        self.steps += 1


def outcome_of(workspace: Workspace, key: str) -> tuple[object, ...]:
    """Return what a run came to, without its times."""
    run, folder = workspace.store.run(key), workspace.folder(key)
    assert run.result is not None
    epochs = [
        {name: value for name, value in to_tree(epoch).items() if "second" not in name and name != "ended"}
        for epoch in workspace.store.epochs(key)
    ]
    hashes = [folder.artifact(path.name).sha256 for path in sorted(folder.path.glob("*.pt"))]
    return run.state, run.result.selected, run.result.facts, epochs, hashes


@pytest.mark.slow
def test_workers_train_the_same_bits_as_this_process(
    workspace: Workspace, undisturbed: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe(GRID, seeds="seeds = [0, 1]", schedule="schedule = {name = 'cosine', epochs = 2}")
    theirs = workflows.sweep(path, undisturbed)
    ours = workflows.sweep(path, workspace, executor=TWO)
    assert ours.complete
    assert {run.state for run in ours.runs} == {RunState.FINISHED}
    assert {run.attempts for run in ours.runs} == {1}
    for run in theirs.runs:
        assert outcome_of(workspace, run.key) == outcome_of(undisturbed, run.key)
        environment = workspace.store.run(run.key).environment
        assert environment == workspace.folder(run.key).environment()
        assert environment is not None
        assert workspace.folder(run.key).lease() is None
        assert set(workspace.store.artifacts(run.key)) == set(workspace.folder(run.key).artifacts())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("death", "after"),
    [
        (signal.SIGKILL, 0.0),
        (signal.SIGSEGV, 0.0),
        (signal.SIGSTOP, 0.0),  # before its first step
        (signal.SIGSTOP, 0.5),  # in the middle of its epoch
    ],
)
def test_a_worker_that_dies_is_replaced_and_its_run_goes_on(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path, death: signal.Signals, after: float
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    path = recipe(
        f"[grid]\nmethod = ['ce', {{name = 'deadly', signal = {int(death)}, times = 1, after = {after}}}]",
        plugins="plugins = ['deadly.py']",
        teacher="",
    )
    seen = Seen()
    lease = LeaseConfig(seconds=6, heartbeat_seconds=1) if death is signal.SIGSTOP else LeaseConfig()
    outcome = workflows.sweep(path, workspace, executor=LocalConfig(slots=2, lease=lease), progress=seen)
    assert {run.state for run in outcome.runs} == {RunState.FINISHED}
    assert [run.attempts for run in outcome.runs] == [1, 2]
    (reason,) = [reason for _, state, reason in seen.ends if state is RunState.INTERRUPTED]
    wanted = "it was silent for 6 s" if death is signal.SIGSTOP else f"its worker was killed by {death.name}"
    assert reason == wanted


@pytest.mark.slow
def test_a_run_that_kills_its_worker_three_times_fails_and_the_others_finish(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    body = """[grid]
    method = ['ce', {name = 'deadly', signal = 11, times = 99}, {name = 'deadly', raises = true}, 'ce']
    """
    path = recipe(body.replace(", 'ce']", "]"), plugins="plugins = ['deadly.py']", teacher="")
    outcome = workflows.sweep(path, workspace, executor=TWO)
    states = [run.state for run in outcome.runs]
    assert states == [RunState.FINISHED, RunState.FAILED, RunState.FAILED]
    killer, raiser = outcome.runs[1], outcome.runs[2]
    assert "died 3 times in epoch 1, the last time: its worker was killed by SIGSEGV" in killer.reason
    assert killer.attempts == 3
    assert "ZeroDivisionError: unlucky" in raiser.reason
    assert (workspace.folder(raiser.key).path / "traceback.txt").is_file()
    assert [mistake.problem for mistake in outcome.failures] == [
        f"run {killer.key} failed: {killer.reason}",
        f"run {raiser.key} failed: {raiser.reason}",
    ]
    again = Seen()
    assert workflows.sweep(path, workspace, executor=TWO, progress=again).runs == outcome.runs
    assert again.ends == []


@pytest.mark.slow
def test_a_wish_to_stop_reaches_the_workers_and_the_next_start_goes_on(
    workspace: Workspace, undisturbed: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe(
        "method = 'ce'",
        teacher="",
        seeds="seeds = [0, 1]",
        schedule="schedule = {name = 'cosine', epochs = 40}",
    )
    seen = Seen()
    stopped = workflows.sweep(path, workspace, executor=TWO, progress=seen, stop=lambda: seen.steps > 1)
    assert not stopped.complete
    assert RunState.INTERRUPTED in {run.state for run in stopped.runs}
    assert {run.state for run in stopped.runs} <= {RunState.INTERRUPTED, RunState.PLANNED}
    finished = workflows.sweep(path, workspace, executor=TWO)
    workflows.sweep(path, undisturbed)
    for run in finished.runs:
        assert outcome_of(workspace, run.key) == outcome_of(undisturbed, run.key)


def test_workers_that_cannot_start_end_the_sweep_with_their_last_words(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('the moon is full')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    path = recipe("method = 'ce'", teacher="")
    with pytest.raises(KdctlError, match="workers end before they are ready: SystemExit: the moon"):
        workflows.sweep(path, workspace, executor=TWO)
    assert {run.state for run in workspace.store.runs()} == {RunState.PLANNED}


@pytest.mark.extended
def test_a_worker_has_no_database() -> None:
    check = (
        "import sys, kdctl.execution.worker; sys.exit('sqlalchemy' in sys.modules or 'optuna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
