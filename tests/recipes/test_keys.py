"""The keys of everything that kdctl 0.1.0 ships stay as they are: results that people have are used again.

`python tests/recipes/test_keys.py` writes the frozen keys anew. That is a decision, told in the changelog:
what people trained under keys that go is not found any more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdctl import workflows
from kdctl.assembly.catalog import full_catalog
from kdctl.protocols.dataset import datasets
from kdctl.protocols.distiller import methods
from kdctl.recipe.component import Spec, past_of, removed_options
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.imported import IMAGENET, ImportedPlan
from kdctl.recipe.layers import Layer
from kdctl.recipe.load import override_layer, preset_layers
from kdctl.recipe.plan import InitialWeights, RunPlan, TeacherRef
from kdctl.recipe.recipe import Recipe, make_recipe
from kdctl.recipe.shipped import preset_names
from kdctl.recipe.teacher_section import PlanContext
from kdctl.registry import Entry

RECIPES = Path(__file__).parents[2] / "recipes"
KEYS = Path(__file__).parents[1] / "golden" / "keys.json"
OPTIONS = KEYS.with_name("options.json")

PAIR = {"student": "resnet8x4", "teacher": "resnet32x4"}
SECTIONS = {
    "method": "method",
    "student": "model",
    "method=simkd method.projector": "projector",
    "data": "dataset",
    "optimizer": "optimizer",
    "schedule": "schedule",
}
"""Fields that name a plug-in -> of which kind."""
NEEDED = dict.fromkeys(("imagefolder", "streamedfolder", "webdataset"), " data.path=photos")
"""What must be said beside the name of a data set."""
TWO_TEACHERS = ' teacher=["resnet32x4","resnet56"]'
"""What must be said beside the name of a method that wants several."""

ENGINE = (
    *("student_precision=fp32", "teacher_precision=fp16", "fold_teacher=false", "teacher_lookahead=4"),
    *("compile_student=true", "deterministic=false"),
)
OTHERS = (
    *("teacher.checkpoint=a.pt", "teacher.run=0123", "teacher.seed=1", "teacher.schedule.epochs=3"),
    *("data.num_classes=10", "data.samples_per_class=7", "data.val_fraction=0.1", "data.split_seed=2"),
    *("data.augmentation=crop", "data.augmentation=none", "data.padding=2", "data.batch_size=32"),
    *("optimizer.nesterov=true", "method=simkd method.projector.reduction=4", "seeds=[5]"),
)


class KnownTeachers:
    """Stands in for a store: one run, and any checkpoint."""

    def by_run(self, key: str, model: str = "") -> TeacherRef:
        """Return the one finished run."""
        return TeacherRef(name="resnet110", run=f"{key:0<16}")

    def by_checkpoint(self, path: Path) -> TeacherRef:
        """Return the teacher of any file."""
        return TeacherRef(name="resnet56", checkpoint_sha256="c" * 64, checkpoint=str(path))

    def weights(self, source: str, student: Spec, data: Spec) -> InitialWeights:
        """Return the weights of any run."""
        return InitialWeights(run=f"{source:0<16}")


def context() -> PlanContext:
    """Return a context without data: published fingerprints, and names for what is published nowhere."""
    return PlanContext(catalog=full_catalog(), fingerprint=fingerprint, teachers=KnownTeachers())


def fingerprint(data: Spec) -> str:
    """Return the data set's published fingerprint, or something that stands for it."""
    return datasets.get(data.name).item.published_fingerprint or f"pixels of {data.name}"


def configurations(recipe: Recipe) -> list[RunPlan]:
    """Return all configurations of a recipe, each with its first seed; of a search, its corners."""
    points = recipe.search.probes() if recipe.search else recipe.points
    known = context()
    return [recipe.plan(point, recipe.seeds[0], known) for point in points]


def keys_of_recipe(path: Path) -> dict[str, list[str]]:
    """Return a recipe's configurations (keys without seeds) and its teachers' run keys, in order."""
    plans = configurations(workflows.open_recipe(path))
    teachers = (teacher.run for plan in plans for teacher in plan.teachers)
    return {
        "configurations": list(dict.fromkeys(plan.configuration for plan in plans)),
        "teachers": list(dict.fromkeys(teachers)),
    }


def plan_of_preset(preset: str, overrides: str) -> RunPlan:
    """Plan a preset's pair with overrides, which blanks part."""
    pair = Layer(source="pair", values=PAIR)
    catalog = full_catalog()
    layers = [*preset_layers(preset), pair, *([override_layer(overrides.split())] if overrides else [])]
    recipe = make_recipe(layers, catalog)
    return recipe.plan(recipe.points[0], recipe.seeds[0], context())


def needed(kind: str, name: str) -> str:
    """Return what must be said beside a plug-in's name."""
    if kind == "method" and methods.get(name).item.num_teachers[0] > 1:
        return TWO_TEACHERS
    return NEEDED.get(name, "")


def words() -> Iterator[str]:
    """Yield an override for every plug-in that a field may name, and for options of all sections."""
    yield ""
    catalog = full_catalog()
    for field, kind in SECTIONS.items():
        yield from (f"{field}={name}{needed(kind, name)}" for name in catalog[kind].names())
    yield from (f"engine.{word}" for word in ENGINE)
    yield from OTHERS


def imported_keys() -> dict[str, str]:
    """Return the keys of models from elsewhere, on two data sets."""
    catalog = full_catalog()
    model = Spec(kind="model", name="resnet20", options=catalog["model"].get("resnet20").config())
    keys: dict[str, str] = {}
    for name in ("cifar10", "cifar100"):
        data = Spec(kind="dataset", name=name, options=catalog["dataset"].get(name).config())
        for normalisation in (None, IMAGENET):
            plan = ImportedPlan(
                model=model,
                data=data,
                data_fingerprint=fingerprint(data),
                weights_sha256="w" * 64,
                source="somewhere",
                normalisation=normalisation,
            )
            keys[f"{name} {'imagenet' if normalisation else 'its own'}"] = plan.key
    return keys


def option_names(config: type) -> str:
    """Return the options that are part of a plug-in's content whatever their value is."""
    histories = {item.name: past_of(item) for item in dataclasses.fields(config)}
    names = [past.formerly or name for name, past in histories.items() if not past.since]
    return " ".join(sorted([*names, *removed_options(config)]))


def options_by_plugin() -> dict[str, dict[str, str]]:
    """Return the options of all plug-ins that kdctl ships, by kind and name, and of the engine."""
    plugins: dict[str, dict[str, str]] = {}
    for kind, registry in sorted(full_catalog().items()):
        entries: list[Entry[Any]] = registry.entries()
        plugins[kind] = {entry.name: option_names(entry.config) for entry in entries}
    return {**plugins, "engine": {"": option_names(EngineOptions)}}


def all_keys() -> dict[str, Any]:
    """Return the keys of all recipes, of the presets with every plug-in, and of imported models."""
    paths = sorted(RECIPES.rglob("*.toml"))
    return {
        "recipes": {str(path.relative_to(RECIPES)): keys_of_recipe(path) for path in paths},
        "presets": {
            preset: {word: plan_of_preset(preset, word).key for word in words()} for preset in preset_names()
        },
        "imported": imported_keys(),
    }


FROZEN_KEYS: dict[str, Any] = json.loads(KEYS.read_text())
FROZEN_OPTIONS: dict[str, dict[str, str]] = json.loads(OPTIONS.read_text())


@pytest.mark.parametrize("path", FROZEN_KEYS["recipes"])
def test_every_run_of_a_recipe_keeps_its_key(path: str) -> None:
    frozen, now = FROZEN_KEYS["recipes"][path], keys_of_recipe(RECIPES / path)
    assert set(frozen["teachers"]) <= set(now["teachers"])
    assert set(frozen["configurations"]) <= set(now["configurations"])


@pytest.mark.parametrize("preset", FROZEN_KEYS["presets"])
def test_every_plugin_and_option_keeps_its_key_under_a_preset(preset: str) -> None:
    frozen = FROZEN_KEYS["presets"][preset]
    assert {overrides: plan_of_preset(preset, overrides).key for overrides in frozen} == frozen


def test_the_key_of_every_plugin_can_be_frozen() -> None:
    new = set(words()) - set(FROZEN_KEYS["presets"]["crd"])
    keys = {overrides: plan_of_preset("crd", overrides).key for overrides in new}
    assert len(set(keys.values())) == len(keys)


def test_models_from_elsewhere_keep_their_keys() -> None:
    assert imported_keys() == FROZEN_KEYS["imported"]


def test_every_option_that_came_later_says_so() -> None:
    """Else it would change the key of every run that has it, also of those that no recipe here has."""
    now = options_by_plugin()
    for kind, plugins in FROZEN_OPTIONS.items():
        for name, options in plugins.items():
            assert now[kind][name] == options, (
                f"{kind} '{name}': declare a later option with option(since=...)"
            )


if __name__ == "__main__":
    KEYS.write_text(json.dumps(all_keys(), indent=0) + "\n")
    OPTIONS.write_text(json.dumps(options_by_plugin(), indent=0) + "\n")
