"""What planning needs to know of a workspace."""

from __future__ import annotations

from kdctl.recipe.recipe import PlanContext
from kdctl.workflows.catalog import full_catalog
from kdctl.workflows.data import DataLibrary
from kdctl.workflows.teachers import TeacherLibrary
from kdctl.workflows.workspace import Workspace


def plan_context(workspace: Workspace, library: DataLibrary) -> PlanContext:
    """Return the plug-ins, the data and the teachers that a recipe may name in this workspace."""
    return PlanContext(
        catalog=full_catalog(), fingerprint=library.fingerprint, teachers=TeacherLibrary(workspace)
    )
