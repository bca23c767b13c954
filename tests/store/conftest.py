from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdctl.evaluation_records import Evaluation
from kdctl.records import (
    Artifact,
    Environment,
    EpochResult,
    ModelFacts,
    PlannedRun,
    RunResult,
    RunState,
    Selected,
    SplitMetrics,
    SweepMember,
)
from kdctl.store import sweeps
from kdctl.store.leases import Owner
from kdctl.store.store import Store

HERE = Path(__file__).parent


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "kdctl.db"


@pytest.fixture
def record_sweep(store: Store) -> Callable[..., None]:
    """Return what keeps a sweep in the database alone, without its file: (name, recipe, members)."""

    def record(name: str, recipe: Mapping[str, Any], members: Sequence[SweepMember]) -> None:
        with store.writing() as connection:
            sweeps.record(connection, name, recipe=recipe, members=members)

    return record


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    with Store.open(database) as opened:
        yield opened


@pytest.fixture
def me() -> Owner:
    return Owner.here()


@pytest.fixture
def stranger() -> Owner:
    """A process on another host, of which nothing can be known from here."""
    return Owner(host="elsewhere", pid=7, token="::one")


@pytest.fixture
def plan_run() -> Callable[..., PlannedRun]:
    def make(number: int = 0, **plan: Any) -> PlannedRun:
        key = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        tree = {"student": {"name": "resnet8"}, "learning_rate": 0.05, "taps": ["layer3"], **plan}
        return PlannedRun(key=key, configuration=key[::-1], seed=number, plan=tree)

    return make


@pytest.fixture
def make_epoch() -> Callable[..., EpochResult]:
    def make(epoch: int, test_loss: float = 1.25) -> EpochResult:
        return EpochResult(
            epoch=epoch,
            learning_rate=0.05,
            train_loss=2.5,
            train_terms={"task": 2.0, "logits": 0.5},
            train_top1=41.5,
            test=SplitMetrics(top1=40.0, top5=80.0, loss=test_loss),
            val=None,
            seconds=1.5,
            images_per_second=1000.0,
        )

    return make


@pytest.fixture
def make_result() -> Callable[..., RunResult]:
    def make(state: RunState = RunState.FINISHED, reason: str = "") -> RunResult:
        metrics = SplitMetrics(top1=71.25, top5=92.0, loss=1.0)
        return RunResult(
            state=state,
            epochs=3,
            selected={
                "last": Selected(epoch=3, test=metrics, val=None),
                "best-val": Selected(epoch=2, test=metrics, val=metrics),
            },
            facts=ModelFacts(
                student_parameters=78_042,
                shipped_parameters=90_000,
                teacher_parameters=None,
                projector_parameters=11_958,
                untrained=("fc.weight", "fc.bias"),
            ),
            teacher_test_top1=79.5,
            train_seconds=12.5,
            images_per_second=4000.0,
            reason=reason,
        )

    return make


@pytest.fixture
def environment() -> Environment:
    return Environment(
        kdctl_version="0.1.0",
        git_commit="0123abc+dirty",
        python="3.11.7",
        torch="2.15.0",
        cuda="",
        device="cpu",
        num_threads=2,
        precision="fp32",
        deterministic=True,
        host="here",
        data_fingerprint="f" * 64,
        teacher_checkpoints=("a" * 64, "b" * 64),
    )


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    def make(run_key: str, top1: float = 71.25) -> Evaluation:
        return Evaluation(
            run_key=run_key,
            selection="last",
            split="test",
            metrics=SplitMetrics(top1=top1, top5=92.0, loss=1.0),
            teacher_agreement=88.5,
            parameters=90_000,
            checkpoint_sha256="c" * 64,
        )

    return make


@pytest.fixture
def artifact() -> Artifact:
    return Artifact(name="last.pt", sha256="c" * 64, num_bytes=1234)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start programs that lie beside this file; none of them outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def start_program(name: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "programs" / name), *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        processes.append(process)
        return process

    yield start_program
    for process in processes:
        process.kill()
        process.communicate()
