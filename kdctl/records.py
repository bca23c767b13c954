"""The records that travel between rooms: frozen, without torch, ready for JSON."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any


class RunState(enum.StrEnum):
    """Where a run stands. A finished run is final."""

    PLANNED = "planned"
    RUNNING = "running"
    FINISHED = "finished"
    DIVERGED = "diverged"
    PRUNED = "pruned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


ENDED = frozenset({RunState.FINISHED, RunState.DIVERGED})
"""States of runs that have a result and need no training.

What a sweep drops is no such run: it is dropped for that sweep alone."""

SETTLED = ENDED | {RunState.PRUNED}
"""States that a sweep does not start again by itself."""


class Selection(enum.StrEnum):
    """Which epoch's numbers count."""

    LAST = "last"
    BEST_VAL = "best-val"
    BEST_TEST = "best-test"


SHIPPED = ""
"""Stands for the model that a run ships among the names of its models."""


def checkpoint_name(rule: Selection, model: str = SHIPPED) -> str:
    """Return the file name of a model of the epoch that a rule selects: 'last.pt', 'last.teacher.pt'."""
    return f"{rule.value}.{model}.pt" if model else f"{rule.value}.pt"


def model_in(file_name: str) -> str:
    """Return which model of a run a checkpoint's file name means: 'teacher' for 'last.teacher.pt'."""
    rule, _, rest = file_name.removesuffix(".pt").partition(".")
    return rest if rule in set(Selection) else SHIPPED


@dataclass(frozen=True, kw_only=True)
class SplitMetrics:
    """How a model does on one split."""

    top1: float
    """Accuracy in percent."""
    top5: float
    """Share of samples whose class is among the five highest logits, in percent."""
    loss: float
    """Mean cross-entropy."""


@dataclass(frozen=True, kw_only=True)
class ModelMetrics:
    """How a model does on the splits that a run evaluates."""

    test: SplitMetrics
    val: SplitMetrics | None = None


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What one epoch of one run gave."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    train_loss: float
    train_terms: Mapping[str, float]
    """The weighted terms of the loss by name: 'task', then the method's own."""
    train_top1: float | None
    """Accuracy on the augmented training samples, in percent; None where images have no labels."""
    test: SplitMetrics
    val: SplitMetrics | None
    seconds: float
    """Wall time of the epoch with its evaluation, as this run saw it (a gang shares it)."""
    images_per_second: float
    """Training images of this run per second of wall time."""
    phase: str = ""
    """Name of the phase of training, for a method that has several."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the method tells besides its losses, by name; means over the training samples."""
    device_seconds: float | None = None
    """`seconds` divided among the runs of the gang; None in what earlier versions wrote."""
    models: Mapping[str, ModelMetrics] = field(default_factory=dict[str, ModelMetrics])
    """How the run's other classifiers do, by name: an adapted teacher, a peer."""
    ended: str = field(default="", compare=False)
    """When its evaluation was done: UTC, ISO 8601; empty in what earlier versions wrote."""

    @property
    def ended_at(self) -> datetime | None:
        """When its evaluation was done, UTC; None where `ended` is empty, or no time: somebody wrote it."""
        try:
            ended = datetime.fromisoformat(self.ended)
            return ended.astimezone(UTC) if ended.tzinfo else ended.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            return None

    @property
    def started(self) -> str:
        """When it began, UTC, ISO 8601, if it was not interrupted; empty where that is not known."""
        ended = self.ended_at
        try:
            began = ended and ended - timedelta(seconds=self.seconds)
        except (ValueError, OverflowError):
            return ""
        return began.isoformat(timespec="milliseconds") if began else ""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The epoch that a selection rule picks, with its numbers."""

    epoch: int
    test: SplitMetrics
    val: SplitMetrics | None
    models: Mapping[str, ModelMetrics] = field(default_factory=dict[str, ModelMetrics])
    """How the run's other classifiers did in that epoch, by name; empty in what earlier versions wrote."""


def pruning_percent(shipped_parameters: int, teacher_parameters: int | None) -> float | None:
    """Return 1 - shipped / teacher in percent, the pruning ratio of arXiv:2203.14001, Table S.10."""
    if teacher_parameters is None:
        return None
    return 100.0 * (1.0 - shipped_parameters / teacher_parameters)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Sizes of the models of a run."""

    student_parameters: int
    """Parameters of the student alone, with its own classifier."""
    shipped_parameters: int
    """Parameters of what would be shipped (student encoder + projector + teacher head in SimKD)."""
    teacher_parameters: int | None
    """Parameters of the (largest) teacher; None without a teacher."""
    projector_parameters: int
    """Parameters the method adds for training (projectors and the like)."""
    untrained: tuple[str, ...]
    """Parts of the student that no loss reaches; they are left out of the optimizer."""
    other_parameters: Mapping[str, int] = field(default_factory=dict[str, int])
    """Parameters of the run's other models, by name."""

    @property
    def pruning_percent(self) -> float | None:
        """1 - shipped / teacher, in percent: the pruning ratio of arXiv:2203.14001, Table S.10."""
        return pruning_percent(self.shipped_parameters, self.teacher_parameters)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run that came to its end leaves behind."""

    state: RunState
    epochs: int
    """Epochs that were trained."""
    selected: Mapping[str, Selected]
    """By selection rule ('last', 'best-test', 'best-val')."""
    facts: ModelFacts
    teacher_test_top1: float | None
    """Test accuracy of the (best) teacher, in percent."""
    train_seconds: float
    images_per_second: float
    reason: str = ""
    """Why the run did not finish (diverged, failed)."""
    models_before: Mapping[str, ModelMetrics] = field(default_factory=dict[str, ModelMetrics])
    """How the run's other classifiers did before the training, by name."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where and with what a run was computed."""

    kdctl_version: str
    git_commit: str
    """Commit of the kdctl checkout, '+dirty' when it had changes; empty outside git."""
    python: str
    torch: str
    cuda: str
    device: str
    num_threads: int
    precision: str
    deterministic: bool
    host: str
    data_fingerprint: str
    teacher_checkpoints: tuple[str, ...] = ()
    """SHA-256 of each teacher's checkpoint file."""
    gang: str = ""
    """Names the runs that shared this run's batches and teacher; empty for a run on its own."""
    execution: str = "eager"
    """How steps were executed: 'graphs' (recorded as CUDA graphs), 'eager', or 'eager: <why not>'."""

    reduced: str = ""
    """Why the gang is smaller than it was planned; empty if it is not."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file that a run left behind."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run as the store gets to know it."""

    key: str
    """Hash of everything that can change the run's numbers, seed included."""
    configuration: str
    """The same hash without the seed: replicates share it."""
    seed: int
    plan: Mapping[str, Any]
    """The resolved plan as a tree; every value explicit."""


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as the store knows it."""

    key: str
    configuration: str
    seed: int
    plan: Mapping[str, Any]
    state: RunState
    epochs: int
    """Epochs recorded so far."""
    attempts: int
    """How often it was started."""
    reason: str
    """Why it failed, diverged or was interrupted; else empty."""
    created: str
    """UTC, ISO 8601."""
    updated: str
    """UTC, ISO 8601."""
    environment: Environment | None
    result: RunResult | None
    """Set once the run is finished or diverged."""


@dataclass(frozen=True, kw_only=True)
class SweepMember:
    """A run's place in a sweep."""

    run_key: str
    role: str
    """'student' or 'teacher'."""


@dataclass(frozen=True, kw_only=True)
class StoredSweep:
    """A sweep as the store knows it."""

    name: str
    recipe: Mapping[str, Any]
    """The recipe as one merged tree."""
    created: str
    """UTC, ISO 8601."""
    members: tuple[SweepMember, ...]
