"""A bench on which recipes are written, planned, and their mistakes read; no data are needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings

from kdctl.assembly.catalog import full_catalog
from kdctl.errors import KdctlError, UsageError
from kdctl.recipe.component import Spec
from kdctl.recipe.load import override_layer, read_layers
from kdctl.recipe.plan import InitialWeights, RunPlan, TeacherRef
from kdctl.recipe.recipe import Recipe, make_recipe
from kdctl.recipe.teacher_section import PlanContext

settings.register_profile("kdctl", deadline=None)  # a busy machine is no mistake
settings.load_profile("kdctl")

TRAINED = "0123456789abcdef"
"""Key of the only run that the fake store has finished."""


class FakeTeachers:
    def by_run(self, key: str, model: str = "") -> TeacherRef:
        if not TRAINED.startswith(key):
            raise KdctlError(f"there is no run '{key}'.", "see: kdctl list runs")
        return TeacherRef(name="resnet110", run=TRAINED)

    def by_checkpoint(self, path: Path) -> TeacherRef:
        if path.suffix != ".pt":
            raise UsageError(f"{path} is no checkpoint.", "name a .pt file.")
        return TeacherRef(name="resnet56", checkpoint_sha256="c" * 64, checkpoint=str(path))

    def weights(self, source: str, student: Spec, data: Spec) -> InitialWeights:
        return InitialWeights(run=f"{source:0<16}")


def fake_fingerprint(data: Spec) -> str:
    return f"pixels of {data.name}"


@dataclass
class Bench:
    folder: Path
    context: PlanContext = field(
        default_factory=lambda: PlanContext(
            catalog=full_catalog(), fingerprint=fake_fingerprint, teachers=FakeTeachers()
        )
    )

    def write(self, text: str, name: str = "x.toml") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def recipe(self, text: str, *overrides: str) -> Recipe:
        layers = read_layers(self.write(text))
        top = [override_layer(overrides)] if overrides else []
        return make_recipe([*layers, *top], self.context.catalog)

    def plans(self, text: str, *overrides: str) -> list[RunPlan]:
        recipe = self.recipe(text, *overrides)
        return [recipe.plan(point, seed, self.context) for seed in recipe.seeds for point in recipe.points]

    def plan(self, text: str, *overrides: str) -> RunPlan:
        (plan,) = self.plans(text, *overrides)
        return plan

    def mistakes(self, text: str, *overrides: str) -> list[str]:
        """Return 'problem // hint' of everything that is wrong, the folder left out."""
        with pytest.raises(UsageError) as caught:
            self.plans(text, *overrides)
        return [
            f"{mistake.problem} // {mistake.hint}".replace(f"{self.folder}/", "")
            for mistake in caught.value.mistakes
        ]

    def mistake(self, text: str, *overrides: str) -> str:
        (mistake,) = self.mistakes(text, *overrides)
        return mistake


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
