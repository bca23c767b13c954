"""Runs that were never trained, for tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pytest

from kdctl.records import (
    ModelFacts,
    RunResult,
    RunState,
    Selected,
    SplitMetrics,
    StoredRun,
    StoredSweep,
    SweepMember,
)
from kdctl.serialization import canonical_json

# Best-test top-1 of the thirty single runs of deck B, as its run lists print them.
DECK_B = {
    "cosine": {
        0.005: (73.0, 73.87, 73.57),
        0.1: (74.68, 75.14, 75.35),
        0.001: (70.66, 70.92, 71.09),
        0.05: (75.03, 75.2, 74.61),
        0.01: (74.61, 74.3, 74.57),
    },
    "kl": {
        0.005: (73.25, 73.01, 73.59),
        0.1: (74.95, 74.33, 75.41),
        0.001: (70.93, 70.64, 71.17),
        0.05: (75.25, 75.13, 74.93),
        0.01: (74.22, 74.19, 74.14),
    },
}


class MakeRun(Protocol):
    """Makes a stored run; options are settings by dotted name."""

    def __call__(
        self,
        top1: float | None = ...,
        *,
        seed: int = ...,
        state: str = ...,
        reason: str = ...,
        rules: Sequence[str] = ...,
        val_top1: float | None = ...,
        settings: Mapping[str, Any] = ...,
    ) -> StoredRun: ...


class MakeSweep(Protocol):
    """Makes a stored sweep of runs, whose recipe is given by its tables."""

    def __call__(
        self, runs: Sequence[StoredRun], *, teachers: Sequence[StoredRun] = ..., **recipe: Any
    ) -> StoredSweep: ...


@pytest.fixture
def make_run() -> MakeRun:
    return _make_run


@pytest.fixture
def make_sweep() -> MakeSweep:
    return _make_sweep


@pytest.fixture
def deck_b() -> list[StoredRun]:
    """The thirty runs, seed-outermost as a sweep runs them."""
    return [
        _make_run(
            DECK_B[loss][rate][seed],
            seed=seed,
            rules=("best-test",),
            settings={"method.loss": loss, "optimizer.learning_rate": rate},
        )
        for seed in range(3)
        for loss in DECK_B
        for rate in DECK_B[loss]
    ]


def _plan(settings: Mapping[str, Any]) -> dict[str, Any]:
    method = settings.get("method.name", "simkd")
    teacher = {"name": "wrn_40_2", "run": "0123456789abcdef"}
    options = {"loss": "l2", "projector": {"name": "bottleneck", "reduction": 2}} if method == "simkd" else {}
    plan: dict[str, Any] = {
        "schema": 1,
        "numerics": 1,
        "protocol": "simkd",
        "data": {"name": "cifar100", "num_classes": None, "batch_size": 64},
        "data_fingerprint": "fedcba9876543210",
        "student": {"name": "resnet8x4"},
        "teachers": [] if method == "ce" else [teacher],
        "method": {"name": method, **options},
        "optimizer": {"name": "sgd", "learning_rate": 0.05, "nesterov": True},
        "schedule": {"name": "step", "epochs": 240, "milestones": [150, 180, 210]},
        "engine": {"student_precision": "fp32", "deterministic": True},
    }
    for field, value in settings.items():
        *tables, leaf = field.split(".")
        node: Any = plan
        for table in tables:
            node = node[int(table)] if table.isdigit() else node.setdefault(table, {})
        node[leaf] = value
    return plan


def _digest(tree: Any) -> str:
    return hashlib.sha256(canonical_json(tree).encode()).hexdigest()[:16]


def _result(top1: float, rules: Sequence[str], plan: Mapping[str, Any], val_top1: float | None) -> RunResult:
    metrics = SplitMetrics(top1=top1, top5=93.5, loss=1.0)
    val = None if val_top1 is None else SplitMetrics(top1=val_top1, top5=90.0, loss=1.1)
    has_teacher = bool(plan["teachers"])
    return RunResult(
        state=RunState.FINISHED,
        epochs=240,
        selected={rule: Selected(epoch=200, test=metrics, val=val) for rule in rules},
        facts=ModelFacts(
            student_parameters=1_233_540,
            shipped_parameters=1_387_748 if has_teacher else 1_233_540,
            teacher_parameters=2_255_156 if has_teacher else None,
            projector_parameters=154_208 if has_teacher else 0,
            untrained=("classifier",) if has_teacher else (),
        ),
        teacher_test_top1=76.31 if has_teacher else None,
        train_seconds=5040.0,
        images_per_second=2380.0,
    )


def _make_run(
    top1: float | None = None,
    *,
    seed: int = 0,
    state: str = "finished",
    reason: str = "",
    rules: Sequence[str] = ("last", "best-test"),
    val_top1: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> StoredRun:
    plan = _plan(settings or {})
    return StoredRun(
        key=_digest([plan, seed]),
        configuration=_digest(plan),
        seed=seed,
        plan={**plan, "seed": seed},
        state=RunState(state),
        epochs=240 if state == "finished" else 3,
        attempts=1,
        reason=reason,
        created="2026-01-01T00:00:00+00:00",
        updated="2026-01-01T02:00:00+00:00",
        environment=None,
        result=None if top1 is None else _result(top1, rules, plan, val_top1),
    )


def _make_sweep(
    runs: Sequence[StoredRun], *, teachers: Sequence[StoredRun] = (), **recipe: Any
) -> StoredSweep:
    members = [SweepMember(run_key=run.key, role="student") for run in runs]
    members += [SweepMember(run_key=run.key, role="teacher") for run in teachers]
    return StoredSweep(
        name="lr_grid", recipe=recipe, created="2026-01-01T00:00:00+00:00", members=tuple(members)
    )
