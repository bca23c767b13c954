"""Smaller gangs, where memory does not hold a larger one: by an estimate before, by trial after."""

from __future__ import annotations

import gc
import logging
from collections.abc import Hashable, Sequence

import torch

from kdctl.assembly.data import sizes_of
from kdctl.assembly.memory import available_bytes, run_bytes, weight_bytes
from kdctl.assembly.operations import same_operations
from kdctl.assembly.run_context import RunContext
from kdctl.engine.device import choose_device
from kdctl.errors import ANY_FAILURE
from kdctl.recipe.plan import RunPlan
from kdctl.working_folder import kept_working_folder

SHARE_OF_MEMORY = 0.8
"""Of the free memory: what a gang is planned to take at most."""

OVERHEAD = 1.5
"""On what is counted, for what libraries take for themselves."""

_log = logging.getLogger(__name__)


def fitting_parts(plans: Sequence[RunPlan], context: RunContext) -> list[list[RunPlan]]:
    """Cut a gang into parts that memory should hold, in order; says so where there are several.

    On a CPU members train one after the other within a step, so that activations are there once; on a GPU
    each has its own memory for them. What cannot be counted is left to the trial.
    """
    if len(plans) == 1:
        return [list(plans)]
    try:
        with kept_working_folder():
            costs, room = _costs(plans, context)
    except ANY_FAILURE:  # a plug-in may raise anything; the training will say what it is
        return [list(plans)]
    if room is None:
        return [list(plans)]
    shares_passes = choose_device(context.device).type == "cpu"
    parts: list[list[RunPlan]] = [[]]
    kept, passing = 0.0, 0.0
    for plan, (weights, activations) in zip(plans, costs, strict=True):
        together = max(passing, activations) if shares_passes else passing + activations
        if parts[-1] and kept + weights + together > room:
            parts.append([])
            kept, together = 0.0, activations
        parts[-1].append(plan)
        kept, passing = kept + weights, together
    if len(parts) > 1:
        sizes = ", ".join(str(len(part)) for part in parts)
        _log.warning(
            "%d runs do not fit into %.1f GiB together; they train in gangs of %s",
            len(plans), room / 2**30, sizes,
        )  # fmt: skip
    return parts


def halves(plans: Sequence[RunPlan]) -> list[list[RunPlan]]:
    """Return a gang's two halves, without empty ones."""
    middle = -(-len(plans) // 2)
    return [part for part in (list(plans[:middle]), list(plans[middle:])) if part]


def release_memory(context: RunContext) -> None:
    """Free tables of teacher outputs and cached blocks, before a smaller gang is tried."""
    context.tables.clear()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _costs(plans: Sequence[RunPlan], context: RunContext) -> tuple[list[tuple[float, float]], float | None]:
    """Return what weights and activations of each member take, and the room there is for them, in bytes."""
    first = plans[0]
    available = available_bytes(choose_device(context.device))
    selected = context.library.select_for(first)
    sizes = sizes_of(selected)
    alike = [same_operations(plan, sizes) for plan in plans]
    counted: dict[Hashable, tuple[float, float]] = {}
    for name, plan in dict(zip(alike, plans, strict=True)).items():
        count = run_bytes(plan, sizes, len(selected.train))
        counted[name] = OVERHEAD * count.weights, OVERHEAD * count.activations
    teachers = weight_bytes([teacher.architecture for teacher in first.teachers], sizes, trained=False)
    room = None if available is None else SHARE_OF_MEMORY * available - 2 * teachers
    return [counted[name] for name in alike], room
