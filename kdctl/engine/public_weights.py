"""Weights as public repositories publish them: found in their files, given to a model of ours piece by piece.

A file may be what torch saved (`.pth`, `.pt`, `.th`) or `.safetensors`. The tensors may lie in it bare
or in a dictionary (`model`, `state_dict`, ...) beside an optimizer and an epoch, and all their names may
begin with `module.`. No code in a file is ever run.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from kdctl.engine.checkpoint import (
    FORMAT,
    DamagedCheckpointError,
    MisfitCheckpointError,
    read_bytes,
    unpickled,
    verify_checksums,
)
from kdctl.engine.device import shapes_only
from kdctl.engine.file_kinds import is_safetensors, require_weights
from kdctl.engine.plain_tensors import difference, require_finite, require_plain
from kdctl.engine.stand_ins import read_with_stand_ins
from kdctl.errors import KdctlError, UsageError
from kdctl.protocols.backbone import Backbone, BackboneBuilder, HasPublicNames, models

CONTAINERS = ("model", "state_dict", "net", "model_state_dict")
"""Where the tensors of a model lie in a file, the likeliest first."""

COUNTER = "num_batches_tracked"
"""A batch norm's buffer that older versions of torch did not save, and no prediction needs."""

_COUNTED = ("total_ops", "total_params")
"""Buffers that the package thop leaves in every layer after counting operations; no weights."""

_HEADS = ("classifier.weight", "links.heads.class_head.weight")
"""Where a model has as many rows as it tells classes apart."""

_NUM_SHOWN = 8
_NO_RENAMES: Mapping[str, str] = {}
_ANY_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class PublicWeights:
    """The tensors of a model from elsewhere."""

    path: Path
    tensors: Mapping[str, Tensor]
    """By their public name, without a prefix that all of them share."""
    sha256: str
    """Of the file."""


def read_public_weights(
    path: Path, *, prefix: str = "", renames: Mapping[str, str] = _NO_RENAMES
) -> PublicWeights:
    """Read the tensors of a model from a file.

    Args:
        path: the file.
        prefix: only tensors whose names begin so are read, without it: 'module.student.'.
        renames: parts of dotted names -> what they are called instead: 'head' -> 'fc'.

    Raises:
        KdctlError: the file is missing, damaged, holds pickled code, no tensors with names, or numbers that
            are not finite.
    """
    data = read_bytes(path)
    tensors = in_full = _tensors(path, data)
    if not tensors:
        raise DamagedCheckpointError(f"{path} holds no weights.", "name the file that has them.")
    if not any(name.startswith(prefix) for name in tensors):
        tensors = _without_prefix(in_full)  # 'student' will do for 'module.student.'
    if any(name.startswith(f"{prefix}.") for name in tensors):
        prefix += "."
    chosen = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not chosen:
        raise UsageError(f"no tensor of {path} has a name that begins with '{prefix}'.", named_parts(in_full))
    named = {_renamed(name, renames): value for name, value in _without_prefix(chosen).items()}
    if len(named) < len(chosen):
        raise UsageError(f"{path}: after renaming, several tensors have one name.", "rename fewer parts.")
    require_plain(named, path, len(data))
    require_finite(named, path)
    return PublicWeights(path=path, tensors=named, sha256=hashlib.sha256(data).hexdigest())


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    for old, new in renames.items():
        name = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", lambda _, new=new: new, name)
    return name


def named_parts(tensors: Mapping[str, Tensor]) -> str:
    """Say how the names in a file begin."""
    found = _beginnings(tensors)
    return (
        f"its names begin with {', '.join(found)}" if found else f"its first name is {next(iter(tensors))}."
    )


def _beginnings(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the first parts by which the names differ, with what all share: 'module.student.'."""
    parts = [name.split(".") for name in tensors]
    shared = 0
    while all(len(names) > shared + 2 for names in parts) and len({names[shared] for names in parts}) == 1:
        shared += 1
    first = dict.fromkeys(".".join([*names[: shared + 1], ""]) for names in parts if len(names) > shared + 1)
    return list(first)[:_NUM_SHOWN]


def adopt(builder: BackboneBuilder, weights: PublicWeights, input_size: int) -> Backbone:
    """Build a model with weights from elsewhere, for as many classes as they tell apart.

    Raises:
        UsageError: nobody said what this model's pieces are called elsewhere.
        MisfitCheckpointError: tensors are missing, left over, or of another shape; the first are listed.
    """
    if not isinstance(builder, HasPublicNames):
        raise UsageError(
            f"{weights.path} cannot be matched: what this model's pieces are called elsewhere is not known.",
            "give the model's class a method public_names: see kdctl/models/resnet.py.",
        )
    match = _Match.of(builder, weights, input_size)
    if match.differences:
        raise MisfitCheckpointError(
            f"{weights.path} holds the weights of another architecture: {_first(match.differences, '; ')}.",
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
    for beginning in _beginnings(weights.tensors):
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
    if not isinstance(builder, HasPublicNames):
        return False
    try:
        backbone = _without_numbers(builder, _ANY_CLASSES, input_size)
        names = {theirs for _, theirs in _names(builder, backbone, weights.tensors)}
        if not all(name.endswith(COUNTER) for name in names ^ weights.tensors.keys()):
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
    def of(cls, builder: HasPublicNames, weights: PublicWeights, input_size: int) -> _Match:
        backbone = _without_numbers(builder, _ANY_CLASSES, input_size)
        names = dict(_names(builder, backbone, weights.tensors))
        rows = next((weights.tensors.get(names[head]) for head in _HEADS if head in names), None)
        num_classes = (len(rows) if rows is not None and rows.dim() else 0) or _ANY_CLASSES
        if num_classes != backbone.num_classes:
            backbone = _without_numbers(builder, num_classes, input_size)
        return cls(
            names=names,
            num_classes=num_classes,
            differences=list(_differences(backbone.state_dict(), names, weights.tensors)),
        )


def _without_numbers(builder: HasPublicNames, num_classes: int, input_size: int) -> Backbone:
    """Build a model of which only names and shapes count."""
    with shapes_only():
        return builder(num_classes, input_size)


def _names(
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


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    require_weights(path, data)
    if is_safetensors(path, data):
        try:
            return _without_counts(safetensors.torch.load(data))
        except Exception as error:  # whatever its reader meets in bytes of others
            raise DamagedCheckpointError(
                f"{path} is damaged, or no safetensors file.", "use another copy."
            ) from error
    if data.startswith(b"PK"):  # torch before 1.6 wrote no archives
        verify_checksums(path, data)
    content = unpickled(path, data, read_with_stand_ins)
    found = content if _is_state_dict(content) else None
    if isinstance(content, Mapping) and found is None:
        found = next((content[key] for key in CONTAINERS if _is_state_dict(content.get(key))), None)
    if found is None and isinstance(content, Mapping) and content.get("format") == FORMAT:
        raise DamagedCheckpointError(
            f"{path} is a checkpoint that kdctl wrote: it needs no import.",
            f"use it as it is: --teacher {shlex.quote(str(path))}, or student.weights in a recipe.",
        )
    if isinstance(content, Mapping) and found is None:
        found = _side_by_side(content)
    if found is None:
        inside = f" It holds: {_first(content)}." if isinstance(content, Mapping) and content else ""
        raise DamagedCheckpointError(
            f"{path} holds no weights by name, bare or under {', '.join(CONTAINERS)}.{inside}",
            "save the model's state dict to a file of its own: torch.save(model.state_dict(), ...).",
        )
    return _without_counts(found)


def _side_by_side(content: Mapping[Any, Any]) -> dict[str, Tensor] | None:
    """Return the tensors of models under other names, each name before its dot; None if there are none."""
    found = {str(key): value for key, value in content.items() if _is_state_dict(value)}
    if len(found) == 1:
        return next(iter(found.values()))
    return {f"{key}.{name}": value for key, part in found.items() for name, value in part.items()} or None


def _first(words: Iterable[Any], separator: str = ", ") -> str:
    """Return the first words, and how many more there are."""
    listed = list(map(str, words))
    more = [f"and {len(listed) - _NUM_SHOWN} more"] if len(listed) > _NUM_SHOWN else []
    return separator.join([*listed[:_NUM_SHOWN], *more])


def _without_counts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in _COUNTED}


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away what all names begin with: `module.` of DataParallel, `model.` of a wrapper."""
    kept = dict(tensors)
    while len({name.partition(".")[0] for name in kept}) == 1 and all(name.count(".") > 1 for name in kept):
        kept = {name.partition(".")[2]: value for name, value in kept.items()}
    return kept
