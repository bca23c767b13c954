"""What would stop every run, found before the first of them starts."""

from __future__ import annotations

from collections.abc import Iterable

from kdctl.engine.device import choose_device
from kdctl.recipe.plan import RunPlan
from kdctl.workflows.workspace import Workspace


def require_ready(plans: Iterable[RunPlan], workspace: Workspace) -> None:
    """Look for the device and read all data that the plans name.

    Raises:
        KdctlError: there is no such device; data are missing or corrupt, or smaller than asked for.
    """
    choose_device(workspace.device)
    workspace.library.require(plan.data for plan in plans)
