"""The command line in this process, on tiny studies of the digits that come with scikit-learn."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.cli import main
from kdctl.text import printable

RECIPE = """
schema = 1
name = "tiny"
description = "three runs and a teacher"
seeds = [0]
student = "resnet3"
[teacher]
name = "resnet4"
[data]
name = "digits"
size = 8
samples_per_class = 8
[schedule]
name = "constant"
epochs = 1
"""

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd", "simkd"]
"""


TWO_RUNS = """
schema = 1
name = "tiny"
student = "resnet3"
method = "ce"
data = {name = "digits", size = 8, samples_per_class = 2}
schedule = {name = "constant", epochs = 1}
[grid]
optimizer.learning_rate = [0.1, 0.01]
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command gave."""

    code: int
    out: str
    err: str

    def ended_in_order(self) -> None:
        """Check that a command has ended as commands end, and that a terminal obeys nothing it printed."""
        assert self.code in (0, 1, 2, 3), self
        for sign in ("Traceback", "this is a bug"):
            assert sign not in self.err, self
        assert printable(self.out + self.err) == self.out + self.err, self
        if self.code:
            assert "error: " in self.err, self
            assert "hint: " in self.err, self

    def refused(self, *words: str, code: int) -> None:
        """Check that this is an error as it should be, and that it contains `words`."""
        assert self.code == code, self
        assert self.out == ""
        assert "error: " in self.err
        assert "hint: " in self.err
        assert "Traceback" not in self.err
        assert "\x1b" not in self.err
        for word in words:
            assert word in self.err


@pytest.fixture(autouse=True)
def leave_no_trace(
    forget_plugins: object, torch_settings: object, optuna_reads_its_history_once: object
) -> None:
    """Give other tests the plug-ins and the torch settings that they had."""


@pytest.fixture
def kdctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run a command in an empty folder; its words may be given as one text."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([part for word in words for part in (word.split() if len(words) == 1 else [word])])
        out, err = capfd.readouterr()
        return Answer(code=int(end.value.code or 0), out=out, err=err)

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], str]:
    """Write a recipe: the tiny study with something added; return its name."""

    def write(body: str = "", name: str = "tiny.toml") -> str:
        (tmp_path / name).write_text(RECIPE + body)
        return name

    return write


@pytest.fixture
def swept_copy(
    stored: Callable[[str], Path], kdctl: object, recipe: Callable[[str], str], tmp_path: Path
) -> Callable[[str], str]:
    """Return the name of the tiny study with something added, whose finished runs lie in `runs`."""

    def copy(body: str) -> str:
        name = recipe(body)
        shutil.copytree(stored((tmp_path / name).read_text()), tmp_path / "runs")
        return name

    return copy


@pytest.fixture
def swept(swept_copy: Callable[[str], str]) -> str:
    """Return a recipe whose four runs are finished."""
    return swept_copy(GRID)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Sequence[str]], subprocess.Popen[str]]]:
    """Start a command in a process of its own."""
    processes: list[subprocess.Popen[str]] = []

    def begin(words: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kdctl", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the run folders of a finished sweep, beside which its recipe lies; tests work on copies."""

    @functools.cache
    def sweep(recipe: str) -> Path:
        place = tmp_path_factory.mktemp("stored")
        (place / "tiny.toml").write_text(recipe)
        with workflows.open_workspace(place / "runs", place / "data", num_threads=1) as workspace:
            workflows.sweep(place / "tiny.toml", workspace)
        return place / "runs"

    return sweep


@pytest.fixture(scope="session")
def two_runs(stored: Callable[[str], Path]) -> Path:
    """A store with two finished runs of a sweep; tests work on copies."""
    return stored(TWO_RUNS)
