"""What planning needs to know of the world outside the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kdctl.recipe.component import Spec
from kdctl.recipe.plan import InitialWeights, RunPlan, TeacherRef
from kdctl.recipe.sections import Catalog


class TeacherSource(Protocol):
    """Finds teachers and weights that exist already."""

    def by_run(self, key: str, model: str = "") -> TeacherRef:
        """Return the teacher that the run with this key (or prefix) trained, or another model of that run."""
        ...

    def by_checkpoint(self, path: Path) -> TeacherRef:
        """Return the teacher in a checkpoint file."""
        ...

    def weights(self, source: str, student: Spec, data: Spec) -> InitialWeights:
        """Return the weights of a run (key or prefix) or file that a student is to start from."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlanContext:
    """The plug-ins, the data and the teachers that a recipe may name, for one round of planning."""

    catalog: Catalog
    fingerprint: Callable[[Spec], str]
    """Data set -> SHA-256 of its content."""
    teachers: TeacherSource
    trained_teachers: dict[tuple[object, str], RunPlan] = field(
        default_factory=dict[tuple[object, str], RunPlan], repr=False, compare=False
    )
    """Plans of teachers by recipe, table and data: the thousand points of a grid share a few teachers."""
