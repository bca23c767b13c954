"""Classes as files write them: names, or ranks from 0, which `classes.txt` beside shards may name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdctl.errors import KdctlError
from kdctl.files import read_file, unreadable

CLASS_NAMES = "classes.txt"
"""Beside the shards, one name per line: what ranks are called."""

_MOST_CLASSES = 1_000_000
"""A larger rank is no rank: a model has an output for each."""

_LARGEST_LIST = 100_000_000
"""Bytes of `classes.txt`."""


def class_names_of(folder: Path, labels: set[str]) -> tuple[str, ...]:
    """Return the names of the classes, by rank.

    Args:
        folder: with the shards, and perhaps `classes.txt`.
        labels: of the training samples, as they are written.

    Raises:
        KdctlError: `classes.txt` cannot be read or names a class twice, or a rank is too large.
    """
    path = folder / CLASS_NAMES
    if os.path.lexists(path):
        return _listed_names(path)
    if all(_is_rank(label) for label in labels):
        highest = max(map(_rank_of, labels), default=0)
        if highest >= _MOST_CLASSES:
            raise KdctlError(
                f"the shards in {folder} have classes that are numbers up to {max(labels, key=_rank_of)}, "
                "too large for ranks from 0.",
                f"list what they stand for in {CLASS_NAMES}, one per line.",
            )
        return tuple(str(rank).zfill(len(str(highest))) for rank in range(highest + 1))
    return tuple(sorted(labels))


def ranks_of(written: Iterable[str], class_names: Sequence[str]) -> dict[str, int]:
    """Return the rank that each class means which is written by its name or by its rank; -1: by neither.

    Where classes are called by numbers ('1', '2', '3'), a number alone does not tell which of the two it is.
    So all that is written is read alike: as names if it can be, else as ranks if it can be. Both may be mixed
    only where no name is a rank.

    Args:
        written: all classes of a file, or of files that belong together.
        class_names: by rank.
    """
    labels = set(written)
    names = {name: rank for rank, name in enumerate(class_names)}
    by_name = {label: names.get(label, -1) for label in labels}
    by_rank = {label: _rank_among(label, len(names)) for label in labels}
    if -1 not in by_name.values():
        return by_name
    if -1 not in by_rank.values():
        return by_rank
    if any(_rank_among(name, len(names)) >= 0 for name in names):
        return by_name
    return {label: max(by_name[label], by_rank[label]) for label in labels}


def _rank_among(label: str, num_classes: int) -> int:
    return rank if _is_rank(label) and (rank := _rank_of(label)) < num_classes else -1


def _listed_names(path: Path) -> tuple[str, ...]:
    try:
        text = read_file(path, at_most=_LARGEST_LIST).decode("utf-8-sig")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise KdctlError(f"{path} is not a text file in UTF-8.", "save it as UTF-8.") from error
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names or len(set(names)) < len(names):
        what = "empty lines" if "" in names else "names that come twice"
        raise KdctlError(f"{path} has {what}.", "write one class per line, in the order of their ranks.")
    return tuple(names)


def _is_rank(label: str) -> bool:
    return label.isascii() and label.isdigit()


def _rank_of(label: str) -> int:
    digits = label.lstrip("0") or "0"
    return int(digits) if len(digits) <= len(str(_MOST_CLASSES)) else _MOST_CLASSES
