"""Methods in which more than a student learns, killed by SIGKILL in each of their phases and resumed.

Each is a small plug-in of tests/plugins. A gang of two is killed in the middle of an epoch, with the process
that trains it; another process goes on. Every file of weights, of all models of the runs, ends as the same
bytes as where each run trained alone and nothing was killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.records import RunState

RecipeWriter = Callable[..., Path]

KILLER = Path(__file__).with_name("killed_sweep.py")
PLUGINS = sorted((Path(__file__).parents[1] / "plugins").glob("*.py"))
EPOCHS = 4
RATES = "[[grid]]\noptimizer.learning_rate = [0.02, 0.05]\n"
STUDENT = {"student": "student = 'resnet8'"}
RESNET14 = "{name = 'resnet14', schedule.epochs = 1}"
TAUGHT = {**STUDENT, "teacher": f"teacher = {RESNET14}"}
BY_TWO = {**STUDENT, "teacher": f"teacher = [{RESNET14}, {{name = 'resnet8x4', schedule.epochs = 1}}]"}
TOKENS = {
    "student": "student = 'micro_vit'",
    "teacher": "teacher = {name = 'micro_vit', schedule.epochs = 1}",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("forget_plugins", "torch_settings"),
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
]


class Positions(Silent):
    """Remembers where each run that is `EPOCHS` long was first heard of."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self._keys: set[str] = set()

    def started(self, plans: Sequence[object]) -> None:
        self._keys |= {plan.key for plan in plans if plan.schedule.options.epochs == EPOCHS}  # type: ignore[attr-defined]

    def stepped(self, key: str, position: float) -> None:
        if key in self._keys:
            self.first.setdefault(key, position)


def weights(workspace: Workspace, key: str) -> dict[str, bytes]:
    """Return the files of weights of a run by name."""
    return {path.name: path.read_bytes() for path in workspace.folder(key).path.glob("*.pt")}


@pytest.mark.parametrize(
    ("method", "models", "other_files", "killed_at"),
    [
        ("proof_adapting", TAUGHT, {"last.teacher.pt"}, 1.5),
        ("proof_generating", TAUGHT, {"last.generator.pt"}, 1.5),
        ("proof_generating", TAUGHT, {"last.generator.pt"}, 3.5),
        ("proof_peers", {**STUDENT, "teacher": ""}, {"last.peer.pt", "last.average.pt"}, 2.5),
        ("proof_two_teachers", BY_TWO, set(), 1.5),
        ("kd", TOKENS, set(), 2.5),
    ],
)
def test_a_gang_that_was_killed_ends_with_the_bytes_of_runs_that_trained_alone(
    workspace: Workspace,
    recipe: RecipeWriter,
    tmp_path: Path,
    method: str,
    models: dict[str, str],
    other_files: set[str],
    killed_at: float,
) -> None:
    plugins = f"plugins = {[str(path) for path in PLUGINS]}"
    length = f"schedule = {{name = 'cosine', epochs = {EPOCHS}}}"
    path = recipe(RATES, plugins=plugins, method=f"method = '{method}'", schedule=length, **models)
    with workflows.open_workspace(tmp_path / "alone", tmp_path / "data", num_threads=1) as alone:
        outcome = workflows.sweep(path, alone, gang_size=1)
        assert not outcome.failures
        expected = {run.key: weights(alone, run.key) for run in outcome.students}
    assert all({"last.pt", *other_files} <= files.keys() for files in expected.values())
    words = [sys.executable, str(KILLER), path, workspace.runs, str(EPOCHS), str(killed_at)]
    killed = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = Positions()
    resumed = workflows.sweep(path, workspace, progress=again, gang_size=2)
    assert [run.state for run in resumed.students] == [RunState.FINISHED] * 2
    assert again.first.keys() == expected.keys()
    assert all(position > killed_at - 1 for position in again.first.values()), "it began anew"
    assert {run.key: weights(workspace, run.key) for run in resumed.students} == expected
    before = {run.key: run.result for run in outcome.students}
    for run in resumed.students:
        assert run.result is not None
        assert run.result.selected == before[run.key].selected  # type: ignore[union-attr]
        assert run.result.models_before == before[run.key].models_before  # type: ignore[union-attr]
