"""Which stage of the student is held against which stage of the teacher, at which size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from kdctl.errors import KdctlError
from kdctl.protocols.backbone import PREACTIVATION, RAW, Backbone
from kdctl.protocols.distiller import Distiller, Match, Setup, Step
from kdctl.protocols.maps import pool_to, shared_size
from kdctl.protocols.shapes import MapShape
from kdctl.recipe.component import Spec

Reading = Literal["activated", "raw"]
"""What stands for a stage: the map that the network goes on with; or, in networks whose blocks begin with
batch norm and ReLU (wide ResNets), the sum of residuals before them, as RepDistiller and mdistiller have
it. Other networks have one map for both."""


def pair_stages(student: Backbone, teacher: Backbone) -> tuple[tuple[str, str], ...]:
    """Pair the stage taps of two models, shallow to deep: (student tap, teacher tap).

    First with first, last with last, the others by relative depth. Where one model has more stages,
    some stages of the other stand in two pairs: none is left out (public code that zips the two lists
    drops MobileNetV2's last stage).

    Raises:
        KdctlError: a stage gives tokens, not maps.
    """
    for model in (student, teacher):
        for stage in model.stage_taps:
            model.map_shape(stage)
    own, other = student.stage_taps, teacher.stage_taps
    count = max(len(own), len(other))
    return tuple((_at(own, place, count), _at(other, place, count)) for place in range(count))


def pair_maps(
    student: Backbone, teacher: Backbone, reading: Reading = "activated"
) -> tuple[tuple[str, str], ...]:
    """Pair stages likewise for a comparison of maps: (student tap, name of the teacher's map).

    The teacher gives each map averaged to the student's size where it is the larger one.
    """
    taps = [
        (map_of(student, own, reading), map_of(teacher, other, reading))
        for own, other in pair_stages(student, teacher)
    ]
    return tuple(
        (own, teacher.tap_at(other, shared_size(student.map_shape(own), teacher.map_shape(other))))
        for own, other in taps
    )


def map_of(backbone: Backbone, stage: str, reading: Reading) -> str:
    """Return the tap that is read as the map of a stage."""
    tap = stage + RAW
    return tap if reading == "raw" and tap in backbone.tap_shapes else stage


def preactivation(backbone: Backbone, stage: str) -> str:
    """Return the tap before the stage's last activation; the stage itself where it ends linearly."""
    tap = stage + PREACTIVATION
    return tap if tap in backbone.tap_shapes else stage


def pair_preactivations(student: Backbone, teacher: Backbone) -> tuple[tuple[str, str], ...]:
    """Pair stages likewise, by the maps before their last activations: (student tap, teacher tap)."""
    return tuple(
        (preactivation(student, own), preactivation(teacher, other))
        for own, other in pair_stages(student, teacher)
    )


def doubling_weights(count: int) -> list[float]:
    """Return a weight for each of `count` stages, shallow to deep: twice the one before, 1 for the last."""
    return [2.0 ** (place - count) for place in range(1, count + 1)]


def last_map(backbone: Backbone) -> str:
    """Return the tap of the map that is pooled: behind the last 1x1 convolution, where there is one."""
    *_, tap, _ = backbone.tap_shapes
    return tap


def _at(stages: tuple[str, ...], place: int, count: int) -> str:
    """Return the stage at relative depth place / (count - 1)."""
    if count == 1:
        return stages[-1]
    return stages[round(place * (len(stages) - 1) / (count - 1))]


def projector_between(setup: Setup, projector: Spec, source: MapShape, target: MapShape) -> nn.Module:
    """Build what takes a student's map to a teacher's channels, both at the size of the smaller one."""
    size = shared_size(source, target)
    return setup.make_projector(projector, (source.channels, *size), (target.channels, *size))


def at_one_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps [B, *, H, W] to the size of the smaller."""
    height, width = second.shape[-2:]
    own_height, own_width = first.shape[-2:]
    return pool_to(first, (height, width)), pool_to(second, (own_height, own_width))


def paired_maps(step: Step, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tensor, Tensor]]:
    """Return the maps of each pair of taps (student's, first teacher's), at one size within a pair."""
    student, teacher = step.student.taps, step.teachers[0].taps
    return [at_one_size(student[own], teacher[other]) for own, other in pairs]


class ComparesStages(Distiller):
    """Pairs all stages by relative depth and reads their maps; a subclass says how they are compared."""

    def __init__(self, config: Any, setup: Setup) -> None:
        """Read the maps of both models, and the teacher's predictions if they have a weight."""
        super().__init__(config, setup)
        self.pairs = pair_maps(setup.student, setup.teacher, config.maps)
        self.student_taps = tuple(own for own, _ in self.pairs)
        self.teacher_taps = (tuple(other for _, other in self.pairs),)
        self.reads_teacher_logits = config.kd_weight > 0

    def matches(self) -> tuple[Match, ...]:
        """Return the pairs of stages; all count alike."""
        return tuple(Match(student=own, teacher=other, weight=1.0) for own, other in self.pairs)

    def compared(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """Return the maps of each pair (student's, teacher's), at one size within a pair."""
        return paired_maps(step, self.pairs)


def require_stage(number: int, count: int, known: str) -> None:
    """Refuse a `stage` that there is not.

    Args:
        number: from 1.
        count: how many there are.
        known: says so.

    Raises:
        KdctlError: there are fewer.
    """
    if number > count:
        hint = f"to a number from 1 to {count}" if count > 1 else "= 1"
        raise KdctlError(f"[method] stage = {number}: {known}.", f"set method.stage {hint}.")
