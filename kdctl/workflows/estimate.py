"""How long planned runs will take, before they run."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdctl.assembly.structure import Structures
from kdctl.assembly.workspace import Workspace
from kdctl.engine.device import choose_device, describe
from kdctl.errors import KdctlError
from kdctl.execution.executor import Capacity, ExecutorConfig, InProcessConfig
from kdctl.execution.gang_schedule import gangs_of, makespan
from kdctl.execution.scheduler import teacher_plans
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE
from kdctl.recipe.plan import RunPlan
from kdctl.workflows.compute_rate import CountedOperations, EarlierRuns
from kdctl.workflows.confirming import ConfirmPlan
from kdctl.workflows.sweep_plan import SweepPlan
from kdctl.workflows.training import TrainPlan


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A guess, and what it rests on."""

    seconds: float
    """From the first run to the last; on a cluster without the time that jobs wait in its queue."""
    device_seconds: float
    """That all devices spend together."""
    capacity: Capacity
    basis: str
    """What it rests on, in words."""
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
    times = _RunTimes(plan.planner.in_workspace(workspace).structures, workspace, capacity)
    return _estimate(gangs, times, plan if plan.num_later else None, gang_size)


def estimate_training(plan: TrainPlan, workspace: Workspace) -> Estimate | None:
    """Return the time that `kdctl train` will take for the runs still to do; see `estimate_sweep`."""
    capacity = InProcessConfig().capacity(workspace)
    students = [run for run in plan.to_do if run not in plan.teachers]
    teachers = [run for run in plan.to_do if run in plan.teachers]
    gangs = gangs_of(teachers, students, gang_size=DEFAULT_GANG_SIZE, slots=capacity.slots)
    return _estimate(gangs, _RunTimes(plan.planner.in_workspace(workspace).structures, workspace, capacity))


def estimate_confirmation(
    plan: ConfirmPlan,
    workspace: Workspace,
    *,
    executor: ExecutorConfig | None = None,
    gang_size: int = DEFAULT_GANG_SIZE,
) -> Estimate | None:
    """Return the time that an executor will take for the runs of `kdctl confirm`; see `estimate_sweep`."""
    capacity = (executor or InProcessConfig()).capacity(workspace)
    gangs = gangs_of((), plan.to_do, gang_size=gang_size, slots=capacity.slots)
    return _estimate(gangs, _RunTimes(Structures(workspace.library), workspace, capacity))


def _estimate(
    gangs: Sequence[Sequence[RunPlan]], times: _RunTimes, search: SweepPlan | None = None, gang_size: int = 1
) -> Estimate | None:
    """Return the time of gangs, and of the runs that a search will still choose."""
    try:
        device_seconds, seconds = times.of_gangs(gangs)
        if search:
            later_device_seconds, later_seconds = times.of_later(search, gang_size)
            device_seconds += later_device_seconds
            seconds += later_seconds
    except (KdctlError, RuntimeError, MemoryError):
        return None
    return Estimate(
        seconds=seconds,
        device_seconds=device_seconds,
        capacity=times.capacity,
        basis=" and ".join(sorted(times.bases)) or "nothing to do",
        operations=times.operations,
        epoch_seconds=times.epoch_seconds,
    )


def planned_gangs(plan: SweepPlan, capacity: Capacity, *, gang_size: int) -> list[list[RunPlan]]:
    """Return the gangs in which the runs still to do will train; those of a search come later."""
    first = {run.key for run in teacher_plans(plan.runs)}
    teachers = [run for run in plan.to_do if run.key in first]
    return gangs_of(teachers, plan.to_do, gang_size=gang_size, slots=capacity.slots)


class _RunTimes:
    """How fast runs are with an executor."""

    def __init__(self, structures: Structures, workspace: Workspace, capacity: Capacity) -> None:
        device = choose_device(workspace.device)
        self.capacity = capacity
        self._counted = CountedOperations(structures, device, capacity)
        self._store = workspace.store
        self._device = None if capacity.queued else describe(device)
        self.bases: set[str] = set()
        self.operations: dict[str, float] = {}
        self.epoch_seconds: dict[str, float] = {}

    @functools.cached_property
    def _earlier(self) -> EarlierRuns:
        """What runs took before: read when the first run is asked for."""
        return EarlierRuns(self._store, self._device, self._counted)

    def of_gangs(self, gangs: Sequence[Sequence[RunPlan]]) -> tuple[float, float]:
        """Return the time that devices spend on gangs, and the time until the last one ends."""
        each = [
            sum(self._seconds(run, with_teachers=place == 0) for place, run in enumerate(gang))
            for gang in gangs
        ]
        last = makespan([list(gang) for gang in gangs], each, slots=self.capacity.slots)
        return sum(each), max(last, sum(each) / self.capacity.unshared_slots)

    def of_later(self, plan: SweepPlan, gang_size: int) -> tuple[float, float]:
        """Return both times for the batches that a search will choose: each ends before the next begins."""
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
