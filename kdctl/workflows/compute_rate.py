"""How many operations a second runs reach: what earlier ones took, or what one measured step does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from kdctl.assembly.architecture import build_architecture
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import Sizes, counted_sizes
from kdctl.assembly.memory import require_memory
from kdctl.assembly.operations import ImageOperations
from kdctl.assembly.structure import Structures
from kdctl.engine.device import Compute, has_fast_bf16
from kdctl.engine.throughput import step_seconds
from kdctl.errors import UsageError
from kdctl.execution.executor import Capacity
from kdctl.readers.archive import without_network
from kdctl.readers.selection import Counts
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.records import RunResult, RunState
from kdctl.serialization import canonical_json
from kdctl.store.store import Store

MEASURED_BATCH = 32
"""Images in the step that is measured, at most."""

FEWEST_MEASURED = 2
"""Images in that step, at least: batch norms need two."""

_MEASURED_OPERATIONS = 2e11
"""Of a measured step on a CPU: some seconds of one core. A network that needs more of them for 32 images is
measured on fewer: 32 of 224 pixels keep a RegNetY-160 busy for minutes, and take 7 GiB."""

_EMULATED_BF16 = 8
"""Times as long as one in fp32 a step in bf16 takes on a CPU without instructions for it. Where two images in
bf16 would take minutes, the step is measured in fp32."""

_UNDISTURBED = 0.7
"""Of the time of a step a CPU works on it, at least, where no other program has the cores."""

_LATEST = 15
"""Earlier runs of a kind that are looked at, at most: to sum up all epochs of thousands takes long."""


class EarlierRuns:
    """What runs took that are finished."""

    def __init__(self, store: Store, device: str | None, counted: CountedOperations) -> None:
        """Look at runs on `device`; None: on the one that was used last."""
        self._store, self._counted = store, counted
        self._catalog = full_catalog()
        runs = store.runs()
        self._begun = {run.key: run.epochs for run in runs if run.state is RunState.INTERRUPTED}
        trained = [
            (run, run.environment, run.result)
            for run in runs
            if run.state is RunState.FINISHED and run.environment and run.result and run.result.train_seconds
        ]  # without time: imported, not trained
        if device is None:
            device = max(((run.updated, env.device) for run, env, _ in trained), default=("", ""))[1]
        self._trained: dict[str, dict[str, tuple[Mapping[str, Any], RunResult, int]]] = {}
        """By kind of run and by key: its plan, what it gave, and the size of the last gang that it was in."""
        for run, environment, result in trained:
            if environment.device == device:
                members = max(len(environment.gang.split()), 1)
                self._trained.setdefault(_kind(run.plan), {})[run.key] = run.plan, result, members
        self._rates: dict[str, float] = {}

    def rate(self, plan: RunPlan) -> float | None:
        """Return the operations a second that runs like this one reached; None if there were none."""
        kind = _kind(plan.tree())
        if kind not in self._rates and kind in self._trained:
            self._rates[kind] = median(self._reached(kind) or [0.0])
        return self._rates.get(kind) or None

    def _reached(self, kind: str) -> list[float]:
        """Return for the latest runs of a kind the operations a second of their gangs.

        Gangs shrink at rungs and are cut for memory: the size is the average over the run's epochs. Their
        members may compute unlike numbers of operations; each counts as if all were like itself.
        """
        latest = dict(list(self._trained[kind].items())[-_LATEST:])
        shares, rates = self._store.seconds_of(latest), list[float]()
        for key, (tree, result, last_size) in latest.items():
            try:
                plan = read_plan(tree, self._catalog)
            except UsageError:  # of another version, or of a plug-in that is not loaded
                continue
            own, undivided = shares.get(key, (0.0, 0.0))
            size = result.train_seconds / own if own and not undivided else last_size
            alone = self._counted.per_epoch(plan, with_teachers=False)
            teachers = self._counted.per_epoch(plan, with_teachers=True) - alone
            rates.append((alone * size + teachers) * result.epochs / result.train_seconds)
        return rates

    def epochs_done(self, plan: RunPlan) -> int:
        """Return how many epochs of a run lie behind it that was stopped."""
        return self._begun.get(plan.key, 0)


class CountedOperations:
    """What runs should take by their arithmetic."""

    def __init__(self, structures: Structures, device: torch.device, capacity: Capacity) -> None:
        self._structures = structures
        self._num_threads = capacity.num_threads or torch.get_num_threads()
        self._device = device
        self._rate = 0.0
        where = " on this host, not on a node" if capacity.queued else ""
        self.basis = f"operations, at the rate of one measured step{where}"

    def per_epoch(self, plan: RunPlan, *, with_teachers: bool) -> float:
        """Return the operations of an epoch with its evaluation."""
        counts, image = self._counted(plan)
        options = plan.method.options
        operations = image.evaluation * (counts.num_val + counts.num_test)
        if isinstance(options, GeneratedImages):  # teachers that see images of one run no gang shares
            work = options.epoch_work(counts.input_size)
            own = work.student * image.student + 2 * work.multiply_adds
            return operations + own + work.teacher * image.teachers
        shared = image.teachers if with_teachers else 0.0
        return operations + counts.num_train * (image.training + shared)

    def rate(self, plan: RunPlan) -> float:
        """Return the operations a second of a measured step: of the first plan that asks, for all."""
        if not self._rate:
            counts, image = self._counted(plan)
            sizes = counted_sizes(counts)
            require_memory(plan, sizes, self._device)
            operations = 3 * image.student
            is_emulated = plan.engine.student_precision == "bf16" and has_fast_bf16(self._device) is False
            times = _EMULATED_BF16 if is_emulated else 1
            if is_emulated and FEWEST_MEASURED * operations * times > _MEASURED_OPERATIONS:
                plan = replace(plan, engine=replace(plan.engine, student_precision="fp32"))
                self.basis += f" in fp32, taken {times} times for bf16"
                batch = measured_batch(operations, self._device)
                seconds = times * self._measured_step(plan, sizes, batch)
            else:
                batch = measured_batch(operations * times, self._device)
                seconds = self._measured_step(plan, sizes, batch)
            self._rate = operations * batch / seconds
        return self._rate

    def _counted(self, plan: RunPlan) -> tuple[Counts, ImageOperations]:
        """Return how many images a run sees, and what it computes for each."""
        with without_network():
            counts = self._structures.counts(plan.data)
            return counts, self._structures.operations(plan, counts)

    def _measured_step(self, plan: RunPlan, sizes: Sizes, batch: int) -> float:
        """Return the seconds that a training step of the student takes, in its precision."""
        images = torch.rand(batch, 3, sizes.input_size, sizes.input_size, device=self._device)
        backbone = build_architecture(plan.student.name, sizes).to(self._device)
        compute, before = Compute(device=self._device, options=plan.engine), torch.get_num_threads()
        began, worked = time.perf_counter(), time.process_time()
        torch.set_num_threads(self._num_threads)
        try:
            seconds = step_seconds(backbone.to(memory_format=torch.channels_last), images, compute)
        finally:
            torch.set_num_threads(before)
        passed, worked = time.perf_counter() - began, time.process_time() - worked
        if self._device.type == "cpu" and worked < _UNDISTURBED * passed:
            self.basis += " (other programs use the cores: without them it takes less)"
        return seconds


def measured_batch(operations: float, device: torch.device) -> int:
    """Return on how many images of so many operations a step is measured."""
    if device.type != "cpu":
        return MEASURED_BATCH
    return min(MEASURED_BATCH, max(FEWEST_MEASURED, int(_MEASURED_OPERATIONS / operations)))


def _kind(plan: Mapping[str, Any]) -> str:
    """Name what decides the time of an epoch: the method, too, where it says how many steps that has."""
    teachers = [teacher["name"] for teacher in plan["teachers"]]
    method = plan["method"] if "steps_per_epoch" in plan["method"] else ""
    return canonical_json([plan["student"], teachers, plan["data"], plan["engine"], method])
