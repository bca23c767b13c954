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
from kdctl.engine.checkpoint import ModelCheckpoint, altered, foreign, read_model
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone, as_teacher, models
from kdctl.protocols.distiller import AVERAGE, Distiller, methods
from kdctl.recipe.imported import is_imported
from kdctl.recipe.plan import RunPlan, ShippedModel, TeacherRef, TrainedOn
from kdctl.recipe.stored import is_plan, read_component, read_shipped
from kdctl.records import SHIPPED
from kdctl.store.folder import RunFolder

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
    return as_teacher(build_shipped(architecture, sizes, architecture.part), *sizes)


def build_shipped(
    made_of: ShippedModel | RunPlan, sizes: Sizes, part: str = SHIPPED, num_samples: int = _NUM_SAMPLES
) -> nn.Module:
    """Build what a run ships, or another model of the run, as its checkpoints hold it.

    Args:
        made_of: student, method and teachers of the run.
        sizes: of images and classes.
        part: the name of another model of the run; empty: what it ships.
        num_samples: size of the training set.

    Returns:
        The model, with weights of no meaning.

    Raises:
        KdctlError: student, teachers and method do not fit together, or there is no such classifier.
    """
    distiller: Distiller = join(
        made_of.method,
        models.get(made_of.student.name).item(*sizes),
        [build_architecture(teacher.architecture, sizes) for teacher in made_of.teachers],
        seed=made_of.seed,
        student_name=made_of.student.name,
        num_samples=num_samples,
        rng=torch.Generator("cpu"),
        projector=make_projector,
    )
    distiller.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    others = {model.name: model.module for model in distiller.models() if model.is_classifier}
    if part in (SHIPPED, AVERAGE) and part not in others:  # an average is built like what it follows
        return distiller.inference_model()
    if part not in others:
        names = ", ".join(others) or "none"
        raise KdctlError(
            f"method '{made_of.method.name}' has no classifier '{part}' beside the one it ships.",
            f"its other classifiers: {names}.",
        )
    return others[part]


def num_classes(weights: Mapping[str, Tensor], otherwise: int) -> int:
    """Return the width of the last linear layer of a classifier; `otherwise` if it is not to be seen."""
    heads = [
        tensor for name, tensor in weights.items() if name.startswith("classifier.") and tensor.dim() == 2
    ]
    return len(heads[-1]) if heads else otherwise


def shipped_by(plan: Mapping[str, Any], part: str = SHIPPED) -> TeacherRef:
    """Return what the run of a stored plan ships: its student, or a model that is put together of more.

    With the name of another model of the run, that one.

    Raises:
        KdctlError: a model from elsewhere has no other ones.
    """
    catalog = full_catalog()
    trained_on = TrainedOn(data=plan["data"], fingerprint=str(plan["data_fingerprint"]))
    student = read_component("model", plan["student"], catalog)
    found = TeacherRef(name=student.name, numerics=student.numerics, trained_on=trained_on)
    if is_imported(plan):
        if part:
            raise KdctlError("a run of imported weights has one model.", f"leave out model = '{part}'.")
        return found
    model = dataclasses.replace(read_shipped(plan, catalog), part=part)
    if part:
        return dataclasses.replace(found, name=model.name, model=model)
    if methods.get(model.method.name).item.ships_student(model.method.options):
        return found
    return dataclasses.replace(found, name=model.name, model=model)


def require_model(path: Path, key: str, model: str) -> None:
    """Refuse a model that a run has not left behind.

    Raises:
        KdctlError: there is no such file; the models of the run that are there are named.
    """
    if path.is_file():
        return
    rule = path.name.partition(".")[0]
    names = sorted(found.name.split(".")[1] for found in path.parent.glob(f"{rule}.*.pt"))
    raise KdctlError(
        f"run {key} has no model '{model}' ({path.name}).",
        f"its other models: {', '.join(names)}."
        if names
        else "it has no other models than the one it ships.",
    )


def read_trained(path: Path) -> ModelCheckpoint:
    """Read a model that a run left behind, with the plan that says what it is.

    Raises:
        KdctlError: the file is missing, damaged, unsafe, was not written by kdctl, or lies in the folder of a
            run that left another file of this name behind.
    """
    recorded = _recorded_sha256(path)  # before the file: a run writes its result last
    content = read_model(path)
    if not is_plan(content.plan):
        raise foreign(path)
    if recorded not in ("", content.sha256):
        raise altered(path, "train or name another model")
    return content


def _recorded_sha256(path: Path) -> str:
    """Return the SHA-256 that a file had when its run ended; empty of other files, or if it is not known."""
    place = path.absolute().parent
    try:
        artifacts = RunFolder(place.parent, place.name).artifacts()
    except KdctlError:  # what lies beside it is no result of a run
        return ""
    return next((artifact.sha256 for artifact in artifacts if artifact.name == path.name), "")
