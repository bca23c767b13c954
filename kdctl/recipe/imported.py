"""The plan of a model that was trained elsewhere: which weights these are, and what they were shown."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from kdctl.recipe.component import Spec
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.layers import NAME, Merged
from kdctl.recipe.plan import NUMERICS, SCHEMA, TeacherRef, content_key
from kdctl.recipe.resolve import Resolver
from kdctl.recipe.sections import Catalog
from kdctl.records import PlannedRun
from kdctl.serialization import to_tree

IMPORTED = "imported"
"""Stands in stored plans where others name the method that trained the model."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class InputNormalisation:
    """What a model's input was: (pixel / 255 - mean) / std, per channel."""

    mean: Triple
    std: Triple


IMAGENET = InputNormalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Of torchvision's models, and of much public code for CIFAR."""


@dataclass(frozen=True, kw_only=True)
class ImportedPlan:
    """A run that was not trained here; in the store it stands among those that were."""

    model: Spec
    data: Spec
    """What it is evaluated on."""
    data_fingerprint: str
    weights_sha256: str
    """Of the file they came in."""
    source: str
    """Where that file came from, in its importer's words."""
    normalisation: InputNormalisation | None
    """Of the images it was trained on; None: that of the data."""
    teachers: tuple[TeacherRef, ...] = ()
    engine: EngineOptions = EngineOptions()
    """How it is evaluated."""

    def tree(self) -> dict[str, Any]:
        """Return the plan in the form of all stored plans; how it was trained is not known."""
        return {
            "schema": SCHEMA,
            "numerics": NUMERICS,
            "protocol": IMPORTED,
            "data": self.data.tree(),
            "data_fingerprint": self.data_fingerprint,
            "student": self.model.tree(),
            "teachers": [],
            "method": {
                NAME: IMPORTED,
                "weights_sha256": self.weights_sha256,
                "source": self.source,
                "normalisation": to_tree(self.normalisation),
            },
            "optimizer": {NAME: "unknown"},
            "schedule": {NAME: "unknown", "epochs": 0},
            "engine": to_tree(self.engine),
            "seed": 0,
        }

    @functools.cached_property
    def key(self) -> str:
        """Hash of what decides its numbers: weights, model, normalisation and data."""
        content = {
            "imported": self.weights_sha256,
            "numerics": NUMERICS,
            "model": self.model.content(),
            "normalisation": to_tree(self.normalisation),
            "data": self.data.content(),
            "data_fingerprint": self.data_fingerprint,
        }
        return content_key(content)

    def planned(self) -> PlannedRun:
        """Return the record by which the store gets to know the run."""
        return PlannedRun(key=self.key, configuration=self.key, seed=0, plan=self.tree())


def is_imported(tree: Mapping[str, Any]) -> bool:
    """Whether a stored plan is that of a model from elsewhere."""
    return tree["method"][NAME] == IMPORTED


def trained_normalisation(tree: Mapping[str, Any]) -> InputNormalisation | None:
    """Return the input that a stored plan's model wants; None: its data's own."""
    raw = tree["method"].get("normalisation") if is_imported(tree) else None
    if raw is None:
        return None
    mean, std = (cast(Triple, tuple(raw[field])) for field in ("mean", "std"))
    return InputNormalisation(mean=mean, std=std)


def read_imported(tree: Mapping[str, Any], catalog: Catalog) -> ImportedPlan:
    """Turn what `ImportedPlan.tree` made back into the plan.

    Raises:
        RecipeError: it names a model, data or options that are not there.
    """
    resolver = Resolver(Merged(tree=dict(tree)), catalog, "stored plan", stored=True)
    model = resolver.component("model", tree["student"], "student")
    data = resolver.component("dataset", tree["data"], "data")
    resolver.finish()
    return ImportedPlan(
        model=cast(Spec, model),
        data=cast(Spec, data),
        data_fingerprint=tree["data_fingerprint"],
        weights_sha256=tree["method"]["weights_sha256"],
        source=tree["method"]["source"],
        normalisation=trained_normalisation(tree),
    )
