"""Which stages of a student are held against which of a teacher, and how much each pair counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdctl.errors import KdctlError, suggestion
from kdctl.losses.stages import pair_stages
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.maps import Size, shared_size

Taps = Literal["end", "biased", "all"] | tuple[tuple[float, float], ...]
"""The stages to align: a word, or pairs (relative depth, weight) of which the last has depth 1."""

_WORDS = {
    "end": ((1.0, 1.0),),
    "biased": ((2 / 3, 1.0), (1.0, 2.0)),
}


@dataclass(frozen=True, kw_only=True)
class AlignedPair:
    """A stage of the student held against one of the teacher."""

    student: str
    teacher: str
    size: Size
    """Of the smaller map: the larger one is pooled to it."""
    target: str
    """The name under which the teacher gives its map at that size."""
    share: float
    """Of the loss; those of all pairs sum to 1."""


def aligned_pairs(
    student: Backbone, teacher: Backbone, *, taps: Taps, until: float | str
) -> tuple[AlignedPair, ...]:
    """Return the pairs to align, shallow to deep, of those that lead up to the teacher's stage `until`.

    Depths are relative to those pairs: where six lead up to `until`, 0.5 is the third.

    Raises:
        KdctlError: the teacher has no stage called `until`.
    """
    stage = _stage(teacher, until)
    pairs = pair_stages(student, teacher)
    last = max(place for place, (_, other) in enumerate(pairs) if other == stage)
    shares = depth_shares(taps, last + 1)
    return tuple(_aligned(student, teacher, pairs[place], share) for place, share in sorted(shares.items()))


def check_taps(taps: Taps) -> None:
    """Refuse depths that are out of order or stop before the end, and weights that are not above 0.

    Raises:
        ValueError: what is wrong, in the words of a recipe.
    """
    if isinstance(taps, str):
        return
    depths = [depth for depth, _ in taps]
    written = f"taps = {[list(pair) for pair in taps]}"
    if not depths or depths[-1] != 1:
        raise ValueError(f"{written} does not end at depth 1.0, where the shipped model is read")
    if depths[0] <= 0 or depths != sorted(set(depths)):
        raise ValueError(f"{written}: depths should rise, from above 0 to 1.0")
    if any(weight <= 0 for _, weight in taps):
        raise ValueError(f"{written}: weights should be greater than 0")


def depth_shares(taps: Taps, count: int) -> dict[int, float]:
    """Return the places of the taps among `count` stages, each with its share of the loss.

    Relative depth d is the stage of number d * count, rounded: 2/3 is the second of three and the
    third of four. Depths that meet in one stage add up.
    """
    pairs = tuple(((place + 1) / count, 1.0) for place in range(count)) if taps == "all" else _depths(taps)
    total = sum(weight for _, weight in pairs)
    shares: dict[int, float] = {}
    for depth, weight in pairs:
        place = _place(depth, count)
        shares[place] = shares.get(place, 0.0) + weight / total
    return shares


def _depths(
    taps: Literal["end", "biased"] | tuple[tuple[float, float], ...],
) -> tuple[tuple[float, float], ...]:
    return _WORDS[taps] if isinstance(taps, str) else taps


def _place(depth: float, count: int) -> int:
    """Return the place, from 0, of the stage at relative depth in (0, 1] among `count`."""
    return max(round(depth * count), 1) - 1


def _stage(teacher: Backbone, until: float | str) -> str:
    if not isinstance(until, str):
        return teacher.stage_taps[_place(until, len(teacher.stage_taps))]
    if until not in teacher.stage_taps:
        raise KdctlError(
            f"the teacher has no stage '{until}'.", suggestion(until, teacher.stage_taps, "Stages")
        )
    return until


def _aligned(student: Backbone, teacher: Backbone, pair: tuple[str, str], share: float) -> AlignedPair:
    own, other = pair
    size = shared_size(student.map_shape(own), teacher.map_shape(other))
    target = teacher.tap_at(other, size)
    return AlignedPair(student=own, teacher=other, size=size, target=target, share=share)
