"""Weights from elsewhere, given to a model of ours piece by piece."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from kdctl.engine.checkpoint import MisfitCheckpointError
from kdctl.engine.device import shapes_only
from kdctl.engine.plain_tensors import difference
from kdctl.engine.public_weights import PublicWeights, beginnings, first_of, without_shared_prefix
from kdctl.errors import KdctlError, UsageError
from kdctl.protocols.backbone import Backbone, BackboneBuilder, HasPublicNames, models

COUNTER = "num_batches_tracked"
"""A batch norm's buffer that older versions of torch did not save, and no prediction needs."""

_HEADS = ("classifier.weight", "links.heads.class_head.weight")
"""Where a model has as many rows as it tells classes apart."""

_ANY_CLASSES = 10


def adopt(builder: BackboneBuilder, weights: PublicWeights, input_size: int) -> Backbone:
    """Build a model with weights from elsewhere, for as many classes as they tell apart.

    Raises:
        UsageError: nobody said what this model's pieces are called elsewhere, and the names are not its own.
        MisfitCheckpointError: tensors are missing, left over, or of another shape; the first are listed.
    """
    match = _Match.of(builder, weights, input_size)
    if match.differences:
        raise MisfitCheckpointError(
            f"{weights.path} holds the weights of another architecture: {first_of(match.differences, '; ')}.",
            _one_of_several(builder, weights, input_size) or "choose the model that they were trained with.",
        )
    backbone = builder(match.num_classes, input_size)
    held = {
        ours: weights.tensors[theirs] for ours, theirs in match.names.items() if theirs in weights.tensors
    }
    backbone.load_state_dict({**backbone.state_dict(), **held})
    return backbone


def _one_of_several(builder: BackboneBuilder, weights: PublicWeights, input_size: int) -> str:
    """Say by which prefix a model stands in a file beside others; empty if it does not."""
    for beginning in beginnings(weights.tensors):
        below = {
            name.removeprefix(beginning): value
            for name, value in weights.tensors.items()
            if name.startswith(beginning)
        }
        if below and _fits(builder, replace(weights, tensors=below), input_size):
            return f"the file has that model beside others: --prefix {shlex.quote(beginning[:-1])}."
    return ""


def fitting_models(weights: PublicWeights, input_size: int) -> list[str]:
    """Return the models for images of this size that have just these tensors."""
    return [entry.name for entry in models.entries() if _fits(entry.item, weights, input_size)]


def _fits(builder: BackboneBuilder, weights: PublicWeights, input_size: int) -> bool:
    try:
        backbone = _without_numbers(builder, _ANY_CLASSES, input_size)
        names = _names(builder, backbone, weights)
        if not _are_all(names.values(), weights.tensors):
            return False  # whatever number of classes: most models need not be built for that of the file
        return not _Match.of(builder, weights, input_size).differences
    except KdctlError:  # it does not take such small images
        return False


@dataclass(frozen=True, kw_only=True)
class _Match:
    """A model's tensors beside those of a file."""

    names: Mapping[str, str]
    """Of every tensor: ours -> theirs."""
    num_classes: int
    differences: list[str]
    """What does not fit, in words; empty if all does."""

    @classmethod
    def of(cls, builder: BackboneBuilder, weights: PublicWeights, input_size: int) -> _Match:
        backbone = _without_numbers(builder, _ANY_CLASSES, input_size)
        names = _names(builder, backbone, weights)
        rows = next((weights.tensors.get(names[head]) for head in _HEADS if head in names), None)
        num_classes = (len(rows) if rows is not None and rows.dim() else 0) or _ANY_CLASSES
        if num_classes != backbone.num_classes:
            backbone = _without_numbers(builder, num_classes, input_size)
        return cls(
            names=names,
            num_classes=num_classes,
            differences=list(_differences(backbone.state_dict(), names, weights.tensors)),
        )


def _without_numbers(builder: BackboneBuilder, num_classes: int, input_size: int) -> Backbone:
    """Build a model of which only names and shapes count."""
    with shapes_only():
        return builder(num_classes, input_size)


def _names(builder: BackboneBuilder, backbone: Backbone, weights: PublicWeights) -> dict[str, str]:
    """Return what every tensor of a model is called in a file: as in the model itself, or elsewhere."""
    own = backbone.state_dict()
    as_here = dict(zip(own, without_shared_prefix(own), strict=True))
    if _are_all(as_here.values(), weights.tensors):
        return as_here
    if isinstance(builder, HasPublicNames):
        return dict(_public_names(builder, backbone, weights.tensors))
    raise UsageError(
        f"{weights.path} cannot be matched: what this model's pieces are called elsewhere is not known.",
        "give the model's class a method public_names: see kdctl/models/resnet.py.",
    )


def _are_all(names: Iterable[str], tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the names of all tensors in a file; counters may be missing on either side."""
    return all(name.endswith(COUNTER) for name in set(names) ^ tensors.keys())


def _public_names(
    builder: HasPublicNames, backbone: Backbone, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, str]]:
    """Yield our name and theirs of every tensor of a model; of several spellings the one in the file."""
    ours = {id(module): name for name, module in backbone.named_modules()}
    known = {name.rpartition(".")[0] for name in tensors}
    for spellings, piece in builder.public_names(backbone):
        candidates = spellings.split("|")
        theirs = next((spelling for spelling in candidates if spelling in known), candidates[0])
        for tensor in piece.state_dict():
            yield f"{ours[id(piece)]}.{tensor}", f"{theirs}.{tensor}" if theirs else tensor


def _differences(
    own: Mapping[str, Tensor], names: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> Iterator[str]:
    for ours, theirs in names.items():
        if theirs not in tensors:
            if not theirs.endswith(COUNTER):
                yield f"{theirs} is missing"
        elif differs := difference(tensors[theirs], own[ours]):
            yield f"{theirs} {differs}"
    for unknown in sorted(own.keys() - names.keys()):
        yield f"{unknown} has no public name"
    for surplus in sorted(tensors.keys() - set(names.values())):
        yield f"{surplus} is left over"
