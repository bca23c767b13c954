"""How long planned runs will take, before they run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdctl.engine.device import choose_device
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone, models
from kdctl.recipe.plan import RunPlan
from kdctl.records import SETTLED, RunState, StoredRun
from kdctl.workflows.data import DataLibrary, Sizes, sizes_of
from kdctl.workflows.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A guess, and what it rests on."""

    seconds: float
    basis: str


def estimate_time(
    plans: Sequence[RunPlan], states: Mapping[str, RunState], workspace: Workspace
) -> Estimate | None:
    """Return the time that the runs still to do will take, one gang at a time on this device.

    Earlier runs of the same student, teachers and data count first, with what they really took. For
    others, operations are counted (a training step is three forward passes of the student and one of
    each teacher) and divided by the rate that one measured step reaches here. None when the data are
    not here, so that nobody knows how many samples there are.
    """
    to_do = [plan for plan in plans if states.get(plan.key) not in SETTLED]
    if not to_do:
        return Estimate(seconds=0.0, basis="nothing to do")
    earlier = _earlier_epochs(workspace.store.runs(state=RunState.FINISHED))
    known = {
        plan.key: earlier[_kind(plan.tree())] * plan.epochs for plan in to_do if _kind(plan.tree()) in earlier
    }
    rest = [plan for plan in to_do if plan.key not in known]
    try:
        counted = _counted_seconds(rest, workspace) if rest else 0.0
    except KdctlError:
        return None
    basis = "earlier runs" if not rest else "operations, at the rate of one measured step"
    return Estimate(
        seconds=sum(known.values()) + counted,
        basis=basis if not known or not rest else f"earlier runs; {basis}",
    )


def _earlier_epochs(runs: Sequence[StoredRun]) -> dict[str, float]:
    """Return the median seconds per epoch of finished runs by kind; a gang shares its wall time."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        if run.result is not None and run.result.epochs and run.environment is not None:
            members = max(len(run.environment.gang.split()), 1)
            seconds.setdefault(_kind(run.plan), []).append(
                run.result.train_seconds / run.result.epochs / members
            )
    return {kind: median(values) for kind, values in seconds.items()}


def _kind(plan: Mapping[str, object]) -> str:
    """Name what decides the time of an epoch."""
    teachers = [teacher["name"] for teacher in plan["teachers"]]  # type: ignore[union-attr,index]
    return repr((plan["student"], teachers, plan["data"], plan["engine"]))


def _counted_seconds(plans: Sequence[RunPlan], workspace: Workspace) -> float:
    library = DataLibrary(workspace.data_root)
    rate = 0.0
    total = 0.0
    costs: dict[str, float] = {}
    for plan in plans:
        kind = _kind(plan.tree())
        if kind not in costs:
            data = library.select(plan.data)
            step = _StepCost(plan, sizes_of(data))
            rate = rate or step.measured_rate(choose_device(workspace.device))
            costs[kind] = step.operations / rate * len(data.train)
        total += costs[kind] * plan.epochs
    return total


class _StepCost:
    """The arithmetic of one training image of a plan."""

    def __init__(self, plan: RunPlan, sizes: Sizes) -> None:
        self._student = models.get(plan.student.name).item(*sizes)
        self._size = sizes.input_size
        with torch.device("meta"):
            student, *teachers = (
                models.get(name).item(*sizes)
                for name in (plan.student.name, *(teacher.name for teacher in plan.teachers))
            )
        self._own = 3.0 * self._forward_operations(student)
        self.operations = self._own + sum(self._forward_operations(teacher) for teacher in teachers)

    def measured_rate(self, device: torch.device) -> float:
        """Return operations per second of a training step of the student, the second one after a warm-up."""
        images = torch.rand(32, 3, self._size, self._size, device=device)
        student = self._student.to(device).to(memory_format=torch.channels_last)
        seconds = 0.0
        for _ in range(2):
            began = time.perf_counter()
            student(images).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
        return self._own * len(images) / seconds

    def _forward_operations(self, backbone: Backbone) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone.eval()(torch.empty(1, 3, self._size, self._size, device="meta"))
        return float(counter.get_total_flops())
