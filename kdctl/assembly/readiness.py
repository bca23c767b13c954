"""What would stop every run, found before the first of them starts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence

import torch

from kdctl.assembly.assemble import require_lookahead
from kdctl.assembly.teacher_cache import SEVERAL_AT_ONCE, never_again
from kdctl.assembly.teachers import require_teachers
from kdctl.assembly.workspace import Workspace
from kdctl.engine.device import choose_device, has_fast_bf16, require_graphs
from kdctl.engine.optim import lamb_class
from kdctl.errors import KdctlError, UsageError
from kdctl.protocols.dataset import Split, StreamedSplit
from kdctl.recipe.optimization import Lamb
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState, Selection
from kdctl.serialization import canonical_json

_log = logging.getLogger(__name__)


def require_ready(plans: Iterable[RunPlan], workspace: Workspace) -> None:
    """Look for the device, the teachers' models, and read all data that the plans name.

    Raises:
        KdctlError: there is no such device, or it has no CUDA graphs that are asked for, or cannot compute
            in a precision that is; a library is missing; the model of a finished teacher is gone, or is none
            for these data; data are missing or corrupt, or smaller than asked for; or what
            `require_teacher_batches` refuses.
    """
    wanted = list(plans)
    require_device(wanted, workspace)
    require_files_of_teachers(wanted, workspace)
    workspace.library.require(wanted)
    require_teachers(wanted, workspace)
    require_teacher_batches(wanted, workspace)


def require_device(plans: Sequence[RunPlan], workspace: Workspace) -> torch.device:
    """Return the device, once it is known that it can do what the plans ask for; warn if slowly.

    Raises:
        KdctlError: there is no such device, or it has no CUDA graphs that are asked for, or cannot compute
            in a precision that is; a library is missing.
    """
    device = choose_device(workspace.device)
    require_graphs(workspace.graphs, device)
    _require_precision(plans, device)
    warn_of_slow_bf16(plans, workspace)
    if any(isinstance(plan.optimizer.options, Lamb) for plan in plans):
        lamb_class()
    return device


def require_files_of_teachers(plans: Iterable[RunPlan], workspace: Workspace) -> None:
    """Look for the models of teachers that are not trained first.

    Raises:
        KdctlError: one is gone, or its run never came to its end.
    """
    teachers = {teacher.run: teacher for plan in plans for teacher in plan.teachers if teacher.run}
    states = workspace.store.states(sorted(teachers))
    for key, teacher in sorted(teachers.items()):
        path = workspace.folder(key).path / f"{Selection.LAST.value}.pt"
        if path.is_file():
            continue
        if states.get(key) is RunState.FINISHED:
            raise KdctlError(
                f"the teacher, run {key}, is finished, but its model {path} is gone.",
                f"restore the file, or train it again: `kdctl runs rm {key} --force`, then the sweep or "
                "training that it came from.",
            )
        if teacher.plan is not None:  # it is trained first
            continue
        state = states[key].value if key in states else "no longer in the store"
        raise KdctlError(
            f"the teacher, run {key}, is {state}, and there is no model {path}.",
            "train it first, by the sweep or training that it came from.",
        )


def _require_precision(plans: Sequence[RunPlan], device: torch.device) -> None:
    if device.type == "cpu" and any(plan.engine.teacher_precision == "fp16" for plan in plans):
        raise UsageError(
            "engine.teacher_precision = 'fp16' needs a GPU.",
            "use -o engine.teacher_precision=bf16 (or fp32).",
        )


def warn_of_slow_bf16(plans: Iterable[RunPlan], workspace: Workspace) -> None:
    """Say, once, that the device has no instructions for the precision that plans ask for."""
    device = choose_device(workspace.device)
    asked = any("bf16" in (plan.engine.student_precision, plan.engine.teacher_precision) for plan in plans)
    if asked and has_fast_bf16(device) is False:
        _say_once(
            f"{device} has no instructions for bf16: it takes 2 to 10 times as long as fp32 there, for "
            "numbers no better. For fp32: -o engine.student_precision=fp32 -o engine.teacher_precision=fp32"
        )


def require_teacher_batches(plans: Iterable[RunPlan], workspace: Workspace) -> None:
    """Look whether images come to teachers as `engine.teacher_lookahead` and `--teacher-cache on` need them.

    A cache that keeps nothing is warned of. Data that are not here are judged by what the plans say.

    Raises:
        KdctlError: teachers should see batches ahead that are streamed, or whose outputs are to be kept.
    """
    asked = workspace.teacher_cache == "on"
    unlike = {
        canonical_json([plan.data.tree(), plan.method.tree(), plan.engine.teacher_lookahead]): plan
        for plan in plans
        if plan.teachers and (asked or plan.engine.teacher_lookahead > 1)
    }
    for plan in unlike.values():
        train = _training_images(plan, workspace)
        require_lookahead(plan, train)
        if not asked:
            continue
        if why := never_again(plan, train):
            _say_once(f"--teacher-cache on keeps nothing where {why}: no image comes again as it was")
        elif plan.engine.teacher_lookahead > 1:
            raise UsageError(f"--teacher-cache on: {SEVERAL_AT_ONCE}.", "use --teacher-cache auto.")


def _training_images(plan: RunPlan, workspace: Workspace) -> Split | StreamedSplit | None:
    """Return what a run trains on; None if it is not here, which is for others to tell."""
    try:
        return workspace.library.select_for(plan).train
    except KdctlError:
        return None


@functools.cache
def _say_once(line: str) -> None:
    """Warn; a sweep asks for every batch of its runs."""
    _log.warning("%s", line)
