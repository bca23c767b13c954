"""The distance that a recipe chooses between a student's features and a teacher's, or a mix of some."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor

from kdctl.losses.feature_distances import (
    channel_kl,
    cosine_distance,
    l2_distance,
    log_sum_distance,
    smooth_l1_distance,
)

DistanceName = Literal["l2", "kl", "cosine", "smooth_l1", "logsum"]
Distance = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(student, teacher, kept) -> 0-dim."""

NOTHING_TO_DISTIL = (
    "has weight 0, so that nothing is distilled (published grids of such losses were probably plain KD "
    "for this very reason: use the method 'kd' for that)"
)


@dataclass(frozen=True, kw_only=True)
class FeatureLoss:
    """How projected features are held against the teacher's; a method's `Config` adds its own options."""

    loss: DistanceName | tuple[tuple[DistanceName, float], ...] = "l2"
    """A distance by name, or a mix: [["l2", 1.0], ["cosine", 0.5]]; what has weight 0 is not computed.

    l2, smooth_l1: means over the whole map. cosine: of the channels, mean over positions. kl: of softmaxes
    over channels. logsum: logarithm of the sum of fourth powers. cosine and kl leave length or offset of
    the features open, to which a reused classifier is not blind: mix them with one of the others.
    """
    kl_temperature: Annotated[float, Gt(0)] = 4.0
    """T of `kl`: what features are divided by before the softmax. 4, as for logits; no source says more."""
    kl_where: Literal["pooled", "spatial"] = "pooled"
    """`kl` compares the maps' means over positions (what a classifier reads), or each position."""

    def __post_init__(self) -> None:
        """Refuse a mix that names nothing, or names it twice, or does not say what to pull towards."""
        weights = self._weights()
        if len({name for name, _ in weights}) < len(weights):
            raise ValueError(f"loss = {_written(weights)} names a distance twice")
        if any(weight < 0 for _, weight in weights):
            raise ValueError(f"loss = {_written(weights)} has a weight below 0")
        if not any(weight for _, weight in weights):
            raise ValueError(f"loss = {_written(weights)} {NOTHING_TO_DISTIL}")

    def distances(self, student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> dict[str, Tensor]:
        """Return the weighted distances by name, 0-dim each.

        Args:
            student: projected map [B, C, H, W].
            teacher: [B, C, H, W].
            kept: [B], bool: the samples that count; None: all.
        """
        known = self._known()
        return {
            name: weight * known[name](student, teacher, kept)
            for name, weight in self._weights()
            if weight > 0
        }

    def _weights(self) -> tuple[tuple[DistanceName, float], ...]:
        return ((self.loss, 1.0),) if isinstance(self.loss, str) else self.loss

    def _known(self) -> Mapping[DistanceName, Distance]:
        kl = functools.partial(channel_kl, temperature=self.kl_temperature)
        return {
            "l2": l2_distance,
            "kl": functools.partial(_of_means, kl) if self.kl_where == "pooled" else kl,
            "cosine": cosine_distance,
            "smooth_l1": smooth_l1_distance,
            "logsum": log_sum_distance,
        }


def sum_of_places(term: str, places: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sum the distances of all places where features are compared; a mix keeps its distances apart.

    Args:
        term: name of the sum; before the name of each distance in a mix.
        places: the distances by name of each place, 0-dim each.
    """
    sums: dict[str, Tensor] = {}
    for distances in places:
        for name, distance in distances.items():
            sums[name] = sums[name] + distance if name in sums else distance
    return {term if len(sums) == 1 else f"{term}_{name}": total for name, total in sums.items()}


def _of_means(distance: Distance, student: Tensor, teacher: Tensor, kept: Tensor | None) -> Tensor:
    """Return the distance of the means over positions."""
    return distance(student.float().mean(dim=(2, 3)), teacher.float().mean(dim=(2, 3)), kept)


def _written(weights: tuple[tuple[DistanceName, float], ...]) -> str:
    """Write a mix as a recipe does."""
    return "[" + ", ".join(f'["{name}", {weight}]' for name, weight in weights) + "]"
