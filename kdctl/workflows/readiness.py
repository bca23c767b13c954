"""What would stop every run, found before the first of them starts."""

from __future__ import annotations

from collections.abc import Iterable

from kdctl.engine.device import choose_device
from kdctl.errors import KdctlError
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState, Selection
from kdctl.workflows.workspace import Workspace


def require_ready(plans: Iterable[RunPlan], workspace: Workspace) -> None:
    """Look for the device, the teachers' models, and read all data that the plans name.

    Raises:
        KdctlError: there is no such device; the model of a finished teacher is gone; data are
            missing or corrupt, or smaller than asked for.
    """
    wanted = list(plans)
    choose_device(workspace.device)
    _require_teachers(wanted, workspace)
    workspace.library.require(plan.data for plan in wanted)


def _require_teachers(plans: list[RunPlan], workspace: Workspace) -> None:
    keys = sorted({teacher.run for plan in plans for teacher in plan.teachers if teacher.run})
    states = workspace.store.states(keys)
    for key in keys:
        path = workspace.folder(key).path / f"{Selection.LAST.value}.pt"
        if states.get(key) is RunState.FINISHED and not path.is_file():
            raise KdctlError(
                f"the teacher, run {key}, is finished, but its model {path} is gone.",
                f"restore the file, or train it again: `kdctl runs rm {key} --force`, then the same command.",
            )
