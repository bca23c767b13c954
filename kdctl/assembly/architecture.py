"""Models as they are built before they get their weights: of one architecture, or of what a run ships."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.assembly.assemble import join, make_projector
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import Sizes
from kdctl.engine.checkpoint import ModelCheckpoint, foreign, read_model
from kdctl.protocols.backbone import Backbone, as_backbone, models
from kdctl.protocols.distiller import Distiller, methods
from kdctl.recipe.imported import is_imported
from kdctl.recipe.plan import RunPlan, ShippedModel, TeacherRef, TrainedOn
from kdctl.recipe.stored import is_plan, read_component, read_shipped

Architecture = str | ShippedModel
"""Name of a model, or how one is put together."""

_NUM_SAMPLES = 1
"""No shipped model has anything that grows with the training set."""


def build_architecture(architecture: Architecture, sizes: Sizes) -> Backbone:
    """Build a model with weights of no meaning, its inner features as taps.

    Raises:
        KdctlError: there is no such model, or it is not for such images.
    """
    if isinstance(architecture, str):
        return models.get(architecture).item(*sizes)
    return as_backbone(build_shipped(architecture, sizes), *sizes)


def build_shipped(
    made_of: ShippedModel | RunPlan, sizes: Sizes, num_samples: int = _NUM_SAMPLES
) -> nn.Module:
    """Build what a run ships, with weights of no meaning, as its checkpoints hold it.

    Raises:
        KdctlError: student, teachers and method do not fit together.
    """
    distiller: Distiller = join(
        made_of,
        models.get(made_of.student.name).item(*sizes),
        [build_architecture(teacher.architecture, sizes) for teacher in made_of.teachers],
        num_samples=num_samples,
        rng=torch.Generator("cpu"),
        projector=make_projector,
    )
    return distiller.to(memory_format=torch.channels_last).inference_model()  # type: ignore[call-overload]


def num_classes(weights: Mapping[str, Tensor], otherwise: int) -> int:
    """Return the width of the last linear layer of a classifier; `otherwise` if it is not to be seen."""
    heads = [
        tensor for name, tensor in weights.items() if name.startswith("classifier.") and tensor.dim() == 2
    ]
    return len(heads[-1]) if heads else otherwise


def shipped_by(plan: Mapping[str, Any]) -> TeacherRef:
    """Return what the run of a stored plan ships: its student, or a model that is put together of more."""
    catalog = full_catalog()
    trained_on = TrainedOn(data=plan["data"], fingerprint=str(plan["data_fingerprint"]))
    student = read_component("model", plan["student"], catalog)
    found = TeacherRef(name=student.name, numerics=student.numerics, trained_on=trained_on)
    if is_imported(plan):
        return found
    model = read_shipped(plan, catalog)
    if methods.get(model.method.name).item.ships_student(model.method.options):
        return found
    return dataclasses.replace(found, name=model.name, model=model)


def read_trained(path: Path) -> ModelCheckpoint:
    """Read a model that a run left behind, with the plan that says what it is.

    Raises:
        KdctlError: the file is missing, damaged, unsafe, or was not written by kdctl.
    """
    content = read_model(path)
    if not is_plan(content.plan):
        raise foreign(path)
    return content
