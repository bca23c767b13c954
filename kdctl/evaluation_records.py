"""The records of a later look at a finished run's model: frozen, without torch, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdctl.records import SHIPPED, SplitMetrics


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long a model takes over an image."""

    batch_size: int
    ms_per_image: float
    """Median of the batch's time, divided by its size."""
    device: str
    """Name of the GPU, or 'cpu'."""
    num_threads: int
    """CPU threads of torch."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well a model matches one of several teachers."""

    teacher: str
    """Name of its architecture."""
    place: int
    """Among the run's teachers, from 1."""
    agreement: float
    """Share of samples on which the two predict the same class, in percent."""
    kl: float
    """Mean KL(teacher || model) of the predicted distributions, in nats."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A later look at a finished run's model: what would be shipped, on one split.

    Fields with a default were not measured by earlier versions.
    """

    run_key: str
    selection: str
    split: str
    metrics: SplitMetrics
    teacher_agreement: float | None
    """Share of samples on which model and teacher predict the same class, in percent; of several teachers
    what the mean of their probabilities predicts."""
    parameters: int
    checkpoint_sha256: str
    teacher_kl: float | None = None
    """Mean KL(teacher || model) of the predicted distributions, in nats; fidelity is its being small. Of
    several teachers from the mean of their probabilities."""
    teachers: tuple[Fidelity, ...] = ()
    """To each of several teachers whose weights are there; empty with fewer than two."""
    calibration_error: float | None = None
    """Expected calibration error (15 bins), in percent."""
    per_class_top1: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Accuracy on the samples of each class, by its name, in percent; None for a class without samples."""
    confusion: tuple[tuple[int, int, int], ...] = ()
    """(class, predicted class, number of samples) by places in `class_names`, where there are samples."""
    class_names: tuple[str, ...] = ()
    """In the order of their labels: a stored mapping such as `per_class_top1` is sorted by its keys."""
    multiply_adds: int | None = None
    """Of the convolutions and matrix products of one image; FLOPs are twice as many."""
    pruning_percent: float | None = None
    """1 - parameters / parameters of the (largest) teacher, in percent (arXiv:2203.14001, Table S.10)."""
    size_mb: float | None = None
    """Parameters and buffers as they are stored, in 10^6 bytes."""
    model: str = SHIPPED
    """Which model of the run this is, by name; empty: the one that it ships."""
    latency: tuple[Latency, ...] = field(default=(), compare=False)
    """Measured anew each time: it says something of the machine, too."""

    @property
    def flops(self) -> int | None:
        """Floating-point operations of one image: a multiplication and an addition count as two."""
        return None if self.multiply_adds is None else 2 * self.multiply_adds
