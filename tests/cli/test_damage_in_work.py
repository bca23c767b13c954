"""A store of which something is damaged while a sweep trains in it: nobody is disturbed."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kdctl import workflows
from kdctl.records import RunState
from kdctl.serialization import to_tree

Kdctl = Callable[..., Any]

LONG = """
schema = 1
name = "long"
student = "resnet3"
method = "patient"
plugins = ["patient.py"]
seeds = [0, 1]
data = {name = "digits", size = 8, samples_per_class = 2}
schedule = {name = "constant", epochs = 2}
"""

PATIENT = """
import time
from pathlib import Path
from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.distiller import methods

@methods.register("patient")
class Patient(CrossEntropy):
    \"\"\"Trains on once there is a file beside this one.\"\"\"

    def losses(self, step):
        while not (Path(__file__).parent / "go").exists():
            time.sleep(0.02)
        return super().losses(step)
"""

READING = ("db check", "db check --hashes", "sync", "report --all", "list runs", "list sweeps", "runs list")


def in_work(root: Path) -> set[str]:
    """Return the runs that somebody trains."""
    return {path.parent.name for path in root.glob("*/holder.json")}


def numbers(root: Path, sweep: str) -> dict[str, Any]:
    """Return what the runs of a sweep came to, without its times."""
    with workflows.open_workspace(root, root.parent / "data", create=False) as workspace:
        return {
            run.key: (run.state, to_tree(run.result.selected) if run.result else None)
            for run in workspace.store.runs(sweep=sweep)
        }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_other_runs_are_damaged_while_a_sweep_trains(
    kdctl: Kdctl,
    two_runs: Path,
    tmp_path: Path,
    start: Callable[[Sequence[str]], subprocess.Popen[str]],
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(two_runs, root)
    (tmp_path / "long.toml").write_text(LONG)
    (tmp_path / "patient.py").write_text(PATIENT)
    victim, other = sorted(path.parent for path in root.glob("*/plan.json"))
    sweep = start(["sweep", "long.toml", "--threads", "1", "--quiet"])
    while not in_work(root):
        assert sweep.poll() is None
        time.sleep(0.05)

    def damaged(path: Path, content: bytes) -> None:
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        for words in READING:
            answer = kdctl(words)
            assert answer.code in (0, 1), (words, answer)
            assert "Traceback" not in answer.err
            assert not answer.code or "hint: " in answer.err
            assert not any(key in answer.err for key in (*in_work(root), other.name)), (words, answer)
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)

    for name in ("plan.json", "result.json", "epochs.jsonl", "environment.json"):
        damaged(victim / name, b"\xff" * 100)
        damaged(victim / name, b"[" * 100_000 + b"\n")
    damaged(root / "sweeps" / "other.json", b"nonsense")
    shutil.rmtree(victim)
    assert "has no folder any more" in kdctl("db check").err
    assert kdctl(f"runs rm {victim.name} --yes").code == 0
    assert kdctl("db check").code == 0
    (tmp_path / "go").touch()
    _, errors = sweep.communicate(timeout=200)
    assert (sweep.returncode, errors) == (0, "")
    answer = kdctl("sweep long.toml --threads 1 --quiet --runs quiet/runs")
    assert answer.code == 0
    assert numbers(root, "long") == numbers(tmp_path / "quiet" / "runs", "long")
    assert {state for state, _ in numbers(root, "long").values()} == {RunState.FINISHED}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("slots", [1, 2])
def test_a_database_that_is_damaged_while_a_sweep_trains_is_named_and_rebuilt(
    kdctl: Kdctl,
    two_runs: Path,
    tmp_path: Path,
    start: Callable[[Sequence[str]], subprocess.Popen[str]],
    slots: int,
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(two_runs, root)
    (tmp_path / "long.toml").write_text(LONG)
    (tmp_path / "patient.py").write_text(PATIENT)
    sweep = start(["sweep", "long.toml", "--threads", "1", "--quiet", "--slots", str(slots)])
    while not any(root.glob("*/holder.json")):
        assert sweep.poll() is None
        time.sleep(0.05)
    with closing(sqlite3.connect(root / "kdctl.db", timeout=30)) as connection:
        connection.execute("UPDATE kdctl_runs SET state = 'asleep', plan = 'junk', epochs = 'many'")
        connection.commit()
    (tmp_path / "go").touch()
    _, errors = sweep.communicate(timeout=200)
    assert sweep.returncode == 1
    assert "kdctl.db is damaged" in errors
    assert "kdctl sync" in errors
    assert "Traceback" not in errors
    for path in root.glob("kdctl.db*"):
        path.unlink()
    assert kdctl("sync").code == 0
    assert kdctl("sweep long.toml --threads 1 --quiet").code == 0
    assert {state for state, _ in numbers(root, "long").values()} == {RunState.FINISHED}
    assert {state for state, _ in numbers(root, "tiny").values()} == {RunState.FINISHED}
