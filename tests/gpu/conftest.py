"""Small sweeps as a user would run them, on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_sweeps import METHODS, written
from torch import Tensor

from kdctl import workflows
from kdctl.assembly.run_context import TeacherCache
from kdctl.engine.checkpoint import read_model
from kdctl.records import StoredRun

DEVICE = "cuda"


@dataclass(frozen=True)
class Trained:
    """What a sweep left behind: weights and records, by the key of the run."""

    runs: dict[str, StoredRun]
    weights: dict[str, dict[str, Tensor]]

    @property
    def executions(self) -> set[str]:
        return {run.environment.execution for run in self.runs.values() if run.environment}


@pytest.fixture(autouse=True)
def leave_no_trace(forget_plugins: object, torch_settings: object) -> None:
    """Give other tests the plug-ins and the torch settings that they had."""


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Trained]:
    """Train some methods into a folder of its own; may stop after some questions, to go on later."""

    def run(
        folder: str,
        *,
        graphs: str = "auto",
        gang_size: int = 8,
        methods: tuple[str, ...] = METHODS,
        student: str = "resnet8",
        lines: str = "",
        teacher_cache: TeacherCache = "off",
        stop_after: int | None = None,
    ) -> Trained:
        path = tmp_path / f"{folder}.toml"
        path.write_text(written(methods, student=student, lines=lines))
        asked = iter(range(10**9))
        stop: dict[str, Any] = {} if stop_after is None else {"stop": lambda: next(asked) >= stop_after}
        opened = workflows.open_workspace(
            tmp_path / folder,
            tmp_path / "data",
            device=DEVICE,
            num_threads=1,
            graphs=graphs,
            teacher_cache=teacher_cache,
        )
        with opened as workspace, contextlib.suppress(KeyboardInterrupt):
            outcome = workflows.sweep(path, workspace, gang_size=gang_size, **stop)
            runs = {run.key: run for run in outcome.runs}
            weights = {
                key: dict(read_model(workspace.folder(key).path / "last.pt").weights)
                for key, run in runs.items()
                if run.result
            }
        return Trained(runs, weights)

    return run


@pytest.fixture
def assert_same() -> Callable[[Trained, Trained], None]:
    """Compare two sweeps bit for bit: weights, and what the best epochs were."""

    def compare(left: Trained, right: Trained) -> None:
        assert left.runs.keys() == right.runs.keys()
        assert left.weights.keys() == right.weights.keys() == left.runs.keys()
        for key, weights in left.weights.items():
            other = right.weights[key]
            differ = [name for name, value in weights.items() if not torch.equal(value, other[name])]
            assert not differ, (left.runs[key].plan["method"], differ)
            mine, theirs = left.runs[key].result, right.runs[key].result
            assert mine is not None
            assert theirs is not None
            assert mine.selected == theirs.selected

    return compare
