"""How long planned runs will take, before they run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from kdctl.engine.cost import count_multiply_adds
from kdctl.engine.device import choose_device, describe
from kdctl.engine.shapes import shapes_only
from kdctl.errors import KdctlError
from kdctl.lab.data import DataLibrary, Sizes
from kdctl.lab.memory import require_memory
from kdctl.lab.workspace import Workspace
from kdctl.protocols.backbone import models
from kdctl.readers.archive import without_network
from kdctl.readers.selection import Counts
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE, form_gangs
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState, StoredRun
from kdctl.trees import canonical_json
from kdctl.workflows.sweep_plan import SweepPlan

MEASURED_BATCH = 32
"""Images in the step that is measured."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A guess, and what it rests on."""

    seconds: float
    basis: str
    operations: Mapping[str, float]
    """Run key -> floating-point operations of the networks in the run's forward and backward passes, those of
    its teachers included; in a gang only the first member pays for them."""


def estimate_sweep(
    plan: SweepPlan, workspace: Workspace, *, gang_size: int = DEFAULT_GANG_SIZE
) -> Estimate | None:
    """Return the time that the runs still to do will take, one gang at a time on this device.

    Runs that a search will still choose count like its example. Earlier runs of the same models and
    data on this device count first, with what they really took. For others, operations are counted
    and divided by the rate that one measured step reaches here. None when nobody knows how many samples
    there are, since the data are not here, or when a model does not fit into memory.
    """
    pace = _Pace(workspace)
    try:
        seconds = sum(
            pace.seconds(run, with_teachers=place == 0)
            for gang in form_gangs(plan.to_do, gang_size)
            for place, run in enumerate(gang)
        )
        if plan.num_later:
            seconds += pace.seconds(plan.example, with_teachers=True, times=plan.num_later)
    except (KdctlError, RuntimeError, MemoryError):
        return None
    basis = " and ".join(sorted(pace.bases)) or "nothing to do"
    return Estimate(seconds=seconds, basis=basis, operations=pace.operations)


class _Pace:
    """How fast runs are here."""

    def __init__(self, workspace: Workspace) -> None:
        device = choose_device(workspace.device)
        self._earlier = _EarlierRuns(workspace.store.runs(), describe(device))
        self._counted = _CountedOperations(workspace.library, device)
        self.bases: set[str] = set()
        self.operations: dict[str, float] = {}

    def seconds(self, plan: RunPlan, *, with_teachers: bool, times: int = 1) -> float:
        """Return the time a run (or several like it) still takes, and note its operations."""
        operations = self._counted.per_epoch(plan, with_teachers=with_teachers)
        per_epoch = self._earlier.seconds_per_epoch(plan)
        if per_epoch is None:
            per_epoch = operations / self._counted.rate(plan)
            self.bases.add("operations, at the rate of one measured step")
        else:
            self.bases.add("earlier runs")
        epochs = times * (plan.epochs - self._earlier.epochs_done(plan))
        self.operations[plan.key] = self.operations.get(plan.key, 0.0) + operations * epochs
        return per_epoch * epochs


class _EarlierRuns:
    """What runs on the same kind of device took."""

    def __init__(self, runs: Sequence[StoredRun], device: str) -> None:
        seconds: dict[str, list[float]] = {}
        for run in runs:
            if run.result is None or run.environment is None or run.environment.device != device:
                continue
            if not run.result.epochs:  # imported, not trained
                continue
            if run.state is RunState.FINISHED:
                members = max(len(run.environment.gang.split()), 1)  # a gang shares its wall time
                spent = run.result.train_seconds / run.result.epochs / members
                seconds.setdefault(_kind(run.plan), []).append(spent)
        self._seconds = {kind: median(values) for kind, values in seconds.items()}
        self._begun = {run.key: run.epochs for run in runs if run.state is RunState.INTERRUPTED}

    def seconds_per_epoch(self, plan: RunPlan) -> float | None:
        return self._seconds.get(_kind(plan.tree()))

    def epochs_done(self, plan: RunPlan) -> int:
        return self._begun.get(plan.key, 0)


class _CountedOperations:
    """What runs should take by their arithmetic: a training step is three forward passes."""

    def __init__(self, library: DataLibrary, device: torch.device) -> None:
        self._library = library
        self._device = device
        self._rate = 0.0
        self._forward: dict[tuple[str, Sizes], float] = {}

    def per_epoch(self, plan: RunPlan, *, with_teachers: bool) -> float:
        """Return the operations of an epoch with its evaluation."""
        counts, sizes = self._counts(plan)
        student = self._operations(plan.student.name, sizes)
        operations = student * (3 * counts.num_train + counts.num_val + counts.num_test)
        if with_teachers:
            operations += counts.num_train * sum(self._operations(t.name, sizes) for t in plan.teachers)
        return operations

    def rate(self, plan: RunPlan) -> float:
        """Return the operations a second of a measured step: of the first plan that asks, for all."""
        if not self._rate:
            _, sizes = self._counts(plan)
            require_memory(plan, sizes, self._device)
            operations = 3 * self._operations(plan.student.name, sizes) * MEASURED_BATCH
            self._rate = operations / self._measured_step(plan.student.name, sizes)
        return self._rate

    def _counts(self, plan: RunPlan) -> tuple[Counts, Sizes]:
        with without_network():
            counts = self._library.counts(plan.data)
        return counts, Sizes(num_classes=counts.num_classes, input_size=counts.input_size)

    def _operations(self, model: str, sizes: Sizes) -> float:
        """Return the operations of one image's forward pass."""
        if (model, sizes) not in self._forward:
            with shapes_only():
                backbone = models.get(model).item(*sizes)
            self._forward[model, sizes] = 2.0 * count_multiply_adds(backbone, sizes.input_size)
        return self._forward[model, sizes]

    def _measured_step(self, model: str, sizes: Sizes) -> float:
        """Return the seconds that a training step takes; the faster of two after a warm-up."""
        images = torch.rand(MEASURED_BATCH, 3, sizes.input_size, sizes.input_size, device=self._device)
        backbone = models.get(model).item(*sizes).to(self._device).to(memory_format=torch.channels_last)
        seconds: list[float] = []
        for _ in range(3):
            began = time.perf_counter()
            backbone(images).sum().backward()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            seconds.append(time.perf_counter() - began)
        return min(seconds[1:])


def _kind(plan: Mapping[str, Any]) -> str:
    """Name what decides the time of an epoch."""
    teachers = [teacher["name"] for teacher in plan["teachers"]]
    return canonical_json([plan["student"], teachers, plan["data"], plan["engine"]])
