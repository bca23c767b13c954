"""How long planned runs will take, before they run."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from kdctl.assembly.architecture import build_architecture
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import Sizes, counted_sizes
from kdctl.assembly.memory import require_memory
from kdctl.assembly.operations import ImageOperations
from kdctl.assembly.planning import Planner
from kdctl.assembly.workspace import Workspace
from kdctl.engine.device import Compute, choose_device, describe
from kdctl.engine.throughput import step_seconds
from kdctl.errors import KdctlError, UsageError
from kdctl.execution.executor import Capacity, ExecutorConfig, InProcessConfig
from kdctl.execution.gang_schedule import gangs_of, makespan
from kdctl.execution.scheduler import teacher_plans
from kdctl.readers.archive import without_network
from kdctl.readers.selection import Counts
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.records import RunResult, RunState
from kdctl.serialization import canonical_json
from kdctl.store.store import Store
from kdctl.workflows.sweep_plan import SweepPlan
from kdctl.workflows.training import TrainPlan

MEASURED_BATCH = 32
"""Images in the step that is measured, at most."""

_MEASURED_OPERATIONS = 2e11
"""Of a measured step on a CPU: some seconds of one core. A network that needs more of them for 32 images is
measured on fewer: 32 of 224 pixels keep a RegNetY-160 busy for minutes, and take 7 GiB."""

_UNDISTURBED = 0.7
"""Of the time of a step a CPU works on it, at least, where no other program has the cores."""

_LATEST = 15
"""Earlier runs of a kind that are looked at, at most: to sum up all epochs of thousands takes long."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A guess, and what it rests on."""

    seconds: float
    """From the first run to the last; on a cluster without the time that jobs wait in its queue."""
    device_seconds: float
    """That all devices spend together."""
    capacity: Capacity
    basis: str
    operations: Mapping[str, float]
    """Run key -> floating-point operations of the networks in the run's forward and backward passes, those of
    its teachers included; in a gang only the first member pays for them."""
    epoch_seconds: Mapping[str, float]
    """Run key -> seconds of one of the run's epochs, shared between a gang in the same way."""


def estimate_sweep(
    plan: SweepPlan,
    workspace: Workspace,
    *,
    executor: ExecutorConfig | None = None,
    gang_size: int = DEFAULT_GANG_SIZE,
) -> Estimate | None:
    """Return the time that an executor will take for the runs still to do.

    Runs that a search will still choose count like its example, in batches one after the other. Earlier
    runs of the same models and data count first, with what they really took for their operations; those
    on this device, or for a cluster those on the device that was used last. For others, operations are
    counted and divided by the rate that one measured step reaches here. None when nobody knows how many
    samples there are, since the data are not here, or when a model does not fit into memory.
    """
    capacity = (executor or InProcessConfig()).capacity(workspace)
    gangs = planned_gangs(plan, capacity, gang_size=gang_size)
    pace = _Pace(plan.planner, workspace, capacity)
    return _estimate(gangs, pace, plan if plan.num_later else None, gang_size)


def estimate_training(plan: TrainPlan, workspace: Workspace) -> Estimate | None:
    """Return the time that `kdctl train` will take for the runs still to do; see `estimate_sweep`."""
    capacity = InProcessConfig().capacity(workspace)
    students = [run for run in plan.to_do if run not in plan.teachers]
    teachers = [run for run in plan.to_do if run in plan.teachers]
    gangs = gangs_of(teachers, students, gang_size=DEFAULT_GANG_SIZE, slots=capacity.slots)
    return _estimate(gangs, _Pace(plan.planner, workspace, capacity))


def _estimate(
    gangs: Sequence[Sequence[RunPlan]], pace: _Pace, search: SweepPlan | None = None, gang_size: int = 1
) -> Estimate | None:
    """Return the time of gangs, and of the runs that a search will still choose."""
    try:
        device_seconds, seconds = pace.of_gangs(gangs)
        if search:
            batches = pace.of_later(search, gang_size)
            device_seconds, seconds = device_seconds + batches[0], seconds + batches[1]
    except (KdctlError, RuntimeError, MemoryError):
        return None
    return Estimate(
        seconds=seconds,
        device_seconds=device_seconds,
        capacity=pace.capacity,
        basis=" and ".join(sorted(pace.bases)) or "nothing to do",
        operations=pace.operations,
        epoch_seconds=pace.epoch_seconds,
    )


def planned_gangs(plan: SweepPlan, capacity: Capacity, *, gang_size: int) -> list[list[RunPlan]]:
    """Return the gangs in which the runs still to do will train; those of a search come later."""
    first = {run.key for run in teacher_plans(plan.runs)}
    teachers = [run for run in plan.to_do if run.key in first]
    return gangs_of(teachers, plan.to_do, gang_size=gang_size, slots=capacity.slots)


class _Pace:
    """How fast runs are with an executor."""

    def __init__(self, planner: Planner, workspace: Workspace, capacity: Capacity) -> None:
        device = choose_device(workspace.device)
        self.capacity = capacity
        self._counted = _CountedOperations(planner.in_workspace(workspace), device, capacity)
        self._store = workspace.store
        self._device = None if capacity.queued else describe(device)
        self.bases: set[str] = set()
        self.operations: dict[str, float] = {}
        self.epoch_seconds: dict[str, float] = {}

    @functools.cached_property
    def _earlier(self) -> _EarlierRuns:
        """What runs took before: read when the first run is asked for."""
        return _EarlierRuns(self._store, self._device, self._counted)

    def of_gangs(self, gangs: Sequence[Sequence[RunPlan]]) -> tuple[float, float]:
        """Return the time that devices spend on gangs, and the time until the last one ends."""
        each = [
            sum(self._seconds(run, with_teachers=place == 0) for place, run in enumerate(gang))
            for gang in gangs
        ]
        last = makespan([list(gang) for gang in gangs], each, slots=self.capacity.slots)
        return sum(each), max(last, sum(each) / self.capacity.unshared_slots)

    def of_later(self, plan: SweepPlan, gang_size: int) -> tuple[float, float]:
        """Return the same for the batches that a search will choose: each ends before the next begins."""
        search, num_seeds = plan.recipe.search, len(plan.recipe.seeds)
        width = min(search.batch if search else 1, plan.num_later // num_seeds)
        size = min(gang_size, -(-width * num_seeds // self.capacity.slots))
        sizes = [min(size, width - start) for start in range(0, width, size)] * num_seeds
        spent, lasted = self.of_gangs([[plan.example] * members for members in sizes])
        times = plan.num_later / (width * num_seeds)
        self.operations[plan.example.key] *= times
        return spent * times, lasted * times

    def _seconds(self, plan: RunPlan, *, with_teachers: bool) -> float:
        """Return the time that a run still takes of its gang's, and note its operations."""
        operations = self._counted.per_epoch(plan, with_teachers=with_teachers)
        earlier = self._earlier.rate(plan)
        rate = earlier or self._counted.rate(plan)
        self.bases.add("earlier runs" if earlier else self._counted.basis)
        epochs = plan.epochs - self._earlier.epochs_done(plan)
        self.operations[plan.key] = self.operations.get(plan.key, 0.0) + operations * epochs
        self.epoch_seconds[plan.key] = operations / rate
        return epochs * self.epoch_seconds[plan.key]


class _EarlierRuns:
    """What runs took that are finished."""

    def __init__(self, store: Store, device: str | None, counted: _CountedOperations) -> None:
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
        return self._begun.get(plan.key, 0)


class _CountedOperations:
    """What runs should take by their arithmetic."""

    def __init__(self, planner: Planner, device: torch.device, capacity: Capacity) -> None:
        self._planner = planner
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
            batch = measured_batch(3 * image.student, self._device)
            self._rate = 3 * image.student * batch / self._measured_step(plan, sizes, batch)
        return self._rate

    def _counted(self, plan: RunPlan) -> tuple[Counts, ImageOperations]:
        """Return how many images a run sees, and what it computes for each."""
        with without_network():
            return self._planner.counts(plan), self._planner.operations(plan)

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
            self.basis += " (too slow: other programs use the cores)"
        return seconds


def measured_batch(operations: float, device: torch.device) -> int:
    """Return on how many images of so many operations a step is measured: two at least, for batch norms."""
    if device.type != "cpu":
        return MEASURED_BATCH
    return min(MEASURED_BATCH, max(2, int(_MEASURED_OPERATIONS / operations)))


def _kind(plan: Mapping[str, Any]) -> str:
    """Name what decides the time of an epoch: the method, too, where it says how many steps that has."""
    teachers = [teacher["name"] for teacher in plan["teachers"]]
    method = plan["method"] if "steps_per_epoch" in plan["method"] else ""
    return canonical_json([plan["student"], teachers, plan["data"], plan["engine"], method])
