"""Weights as public repositories publish them, found in their files.

A file may be what torch saved (`.pth`, `.pt`, `.th`) or `.safetensors`. The tensors may lie in it bare
or in a dictionary (`model`, `state_dict`, ...) beside an optimizer and an epoch, and all their names may
begin with `module.`. No code in a file is ever run.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from kdctl.engine.checkpoint import (
    FORMAT,
    DamagedCheckpointError,
    read_bytes,
    unpickled,
    verify_checksums,
)
from kdctl.engine.file_kinds import is_safetensors, require_weights
from kdctl.engine.plain_tensors import require_finite, require_plain
from kdctl.engine.stand_ins import read_with_stand_ins
from kdctl.errors import UsageError

CONTAINERS = ("model", "state_dict", "net", "model_state_dict")
"""Where the tensors of a model lie in a file, the likeliest first."""

_COUNTED = ("total_ops", "total_params")
"""Buffers that the package thop leaves in every layer after counting operations; no weights."""

_NUM_SHOWN = 8
_NO_RENAMES: Mapping[str, str] = {}


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
        tensors = without_shared_prefix(in_full)  # 'student' will do for 'module.student.'
    if any(name.startswith(f"{prefix}.") for name in tensors):
        prefix += "."
    chosen = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not chosen:
        raise UsageError(f"no tensor of {path} has a name that begins with '{prefix}'.", named_parts(in_full))
    named = {_renamed(name, renames): value for name, value in without_shared_prefix(chosen).items()}
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
    found = beginnings(tensors)
    return (
        f"its names begin with {', '.join(found)}" if found else f"its first name is {next(iter(tensors))}."
    )


def beginnings(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the first parts by which the names differ, with what all share: 'module.student.'."""
    parts = [name.split(".") for name in tensors]
    shared = 0
    while all(len(names) > shared + 2 for names in parts) and len({names[shared] for names in parts}) == 1:
        shared += 1
    first = dict.fromkeys(".".join([*names[: shared + 1], ""]) for names in parts if len(names) > shared + 1)
    return list(first)[:_NUM_SHOWN]


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
        inside = f" It holds: {first_of(content)}." if isinstance(content, Mapping) and content else ""
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


def first_of(words: Iterable[Any], separator: str = ", ") -> str:
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


def without_shared_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away what all names begin with: `module.` of DataParallel, `model.` of a wrapper."""
    kept = dict(tensors)
    while len({name.partition(".")[0] for name in kept}) == 1 and all(name.count(".") > 1 for name in kept):
        kept = {name.partition(".")[2]: value for name, value in kept.items()}
    return kept
