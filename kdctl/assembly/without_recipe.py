"""Methods without a recipe: built by name, around models that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdctl.assembly.assemble import join, make_projector
from kdctl.assembly.catalog import full_catalog
from kdctl.errors import UsageError
from kdctl.protocols.backbone import POOLED, Backbone, Link
from kdctl.protocols.distiller import Distiller, methods
from kdctl.protocols.step import WHOLE_STEP
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.layers import NAME
from kdctl.recipe.stored import read_component
from kdctl.recipe.teacher_section import takes
from kdctl.text import plural

_MAP = "stage1"


def build_method(
    method: str,
    options: Mapping[str, Any],
    student: Backbone,
    *teachers: Backbone,
    num_samples: int = 1,
    seed: int = 0,
    student_name: str = "",
) -> Distiller:
    """Build a method around a student and its teachers, ready for its last phase.

    `student_name` is that of the student's model, for methods that draw parts of it again (`one`).

    Raises:
        UsageError: there is no such method, an option is wrong, or it takes another number of teachers.
        KdctlError: student, teachers and method do not fit together.
    """
    spec = read_component("method", {NAME: method, **options}, full_catalog(), "kdctl.modules")
    _require_backbones(student, *teachers)
    if not takes(methods.get(spec.name).item.num_teachers, len(teachers)):
        raise UsageError(
            f"method '{spec.name}' does not take {plural(len(teachers), 'teacher')}.",
            f"kdctl show {spec.name} says how many.",
        )
    return join(
        spec, student, teachers,
        seed=seed, student_name=student_name, num_samples=num_samples, rng=torch.Generator("cpu"),
        projector=make_projector,
    )  # fmt: skip


def require_one_loss(distiller: Distiller, method: str) -> None:
    """Raise UsageError unless a method is one loss of images from elsewhere, the same in each step."""
    why, hint = "", "train with kdctl."
    if isinstance(distiller.config, GeneratedImages):
        why = "makes the images that it learns from, and takes none from elsewhere"
    elif len(distiller.phases()) > 1:
        why = "has several phases, which take a trainer that begins each"
        hint = "train with kdctl, or choose options of a single phase."
    elif distiller.updates() != (WHOLE_STEP,) or any(group.optimizer for group in distiller.optimized()):
        why = "takes several updates or optimizers in a step; one loss cannot say that"
    if why:
        raise UsageError(f"method '{method}' {why}.", hint)


def logits_only(num_classes: int) -> Backbone:
    """Return a stand-in for a model of which only logits are known."""
    links = [
        Link(name=_MAP, module=nn.Identity(), shape=(1, 1, 1)),
        Link(name=POOLED, module=nn.Flatten(), shape=(1,)),
    ]
    return Backbone(links, classifier=nn.Linear(1, num_classes), stage_taps=(_MAP,), input_size=1)


def _require_backbones(student: object, *teachers: object) -> None:
    """Refuse models of which nobody said where their features are.

    Raises:
        UsageError: one is no `Backbone`.
    """
    for place, model in enumerate((student, *teachers)):
        if not isinstance(model, Backbone):
            raise UsageError(
                f"{'a teacher' if place else 'the student'} is a {type(model).__name__}, which does not say "
                "where its features are.",
                "wrap it: as_backbone({'stem': ..., 'stage1': ...}, classifier, input_size=32); for logits "
                "of any model there is LogitLoss.",
            )
