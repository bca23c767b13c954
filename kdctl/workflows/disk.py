"""How much room planned runs will take, before they run."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from kdctl.assembly.planning import Planner
from kdctl.assembly.workspace import Workspace
from kdctl.errors import ANY_FAILURE
from kdctl.files import resolved
from kdctl.readers.archive import without_network
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState
from kdctl.serialization import canonical_json
from kdctl.workflows.sweep_plan import SweepPlan

STATE_FACTOR = 3
"""A state to go on from holds weights and momentum, and is written beside the one before."""

ENOUGH = 5
"""Earlier runs that are looked at for each kind of run: their models all have the same size."""


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """What runs will take of the disk that holds the run folders."""

    num_bytes: int
    """Models that the runs leave behind, about; logs are small beside them."""
    peak_bytes: int
    """That, and the states of the runs that are in training at once."""
    free_bytes: int
    """What is free there now."""


def estimate_disk(
    plan: SweepPlan, workspace: Workspace, *, gang_size: int = DEFAULT_GANG_SIZE, slots: int = 1
) -> DiskNeed | None:
    """Return the room that the runs still to do need; None when nobody knows how large the models are.

    Each slot has a gang of `gang_size` in training, at most, whose states need room too.

    Earlier runs of the same student and method count with what they left behind; for others, the
    student's weights are counted once for each selection rule.
    """
    try:
        wanted = _wanted(plan, workspace)
    except ANY_FAILURE:  # a plug-in may raise anything, and an estimate must not stop a sweep
        return None
    states = sorted(wanted, reverse=True)[: gang_size * slots]
    return DiskNeed(
        num_bytes=sum(wanted),
        peak_bytes=sum(wanted) + STATE_FACTOR * sum(states) // 2,
        free_bytes=shutil.disk_usage(_existing(workspace.runs)).free,
    )


def missing_bytes(
    plan: SweepPlan, workspace: Workspace, *, gang_size: int = DEFAULT_GANG_SIZE, slots: int = 1
) -> int:
    """Return how much room the runs that are still to do need beyond what is free; 0 if that is not known."""
    states = workspace.store.states([run.key for run in (*plan.teachers, *plan.runs)])
    need = estimate_disk(
        dataclasses.replace(plan, states=states), workspace, gang_size=gang_size, slots=slots
    )
    return max(need.peak_bytes - need.free_bytes, 0) if need else 0


def _wanted(plan: SweepPlan, workspace: Workspace) -> list[int]:
    """Return what each run still to do will leave behind."""
    if not plan.ahead:
        return []
    sizes = _Sizes(plan.planner, workspace)
    by_configuration: dict[str, int] = {}
    for run in plan.ahead:  # a seed changes no size
        if run.configuration not in by_configuration:
            by_configuration[run.configuration] = sizes.of(run)
    to_do = [by_configuration[run.configuration] for run in plan.to_do]
    return to_do + plan.num_later * [by_configuration.get(plan.example.configuration, 0)]


class _Sizes:
    """Bytes that runs leave behind."""

    def __init__(self, planner: Planner, workspace: Workspace) -> None:
        self._planner = planner
        measured: dict[str, list[int]] = {}
        for run in workspace.store.runs(state=RunState.FINISHED):
            known = measured.setdefault(_kind(run.plan), [])
            size = 0 if len(known) >= ENOUGH else sum(f.num_bytes for f in workspace.store.artifacts(run.key))
            if size:
                known.append(size)
        self._known = {kind: int(median(sizes)) for kind, sizes in measured.items() if sizes}

    def of(self, plan: RunPlan) -> int:
        kind = _kind(plan.tree())
        if kind not in self._known:
            self._known[kind] = self._counted(plan)
        return self._known[kind]

    def _counted(self, plan: RunPlan) -> int:
        with without_network():
            counts = self._planner.counts(plan)
        return self._planner.structures.weight_bytes(plan, counts) * (3 if counts.num_val else 2)


def _kind(plan: Mapping[str, Any]) -> str:
    """Name what decides the size of a run's models."""
    teachers = [teacher["name"] for teacher in plan["teachers"]]
    data = [plan["data"].get(name) for name in ("name", "num_classes", "val_fraction")]
    return canonical_json([plan["student"], teachers, plan["method"], data])


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that there is."""
    places: Sequence[Path] = (path, *resolved(path).parents)
    return next(place for place in places if place.exists())
