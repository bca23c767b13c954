"""The epochs of a run as the lines of its file: read at once, and packed once the run has ended.

A store of ten thousand runs has millions of epochs. A row for each takes four times the room, and minutes to
write; nobody asks SQLite for a single one of them after the run has ended.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired

from kdctl.records import EpochResult
from kdctl.store.json_files import LARGEST_NUMBER, is_as_written, with_checksum, without_checksum

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict  # pydantic cannot read that of `typing` there

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_LEVEL = 4
"""Of zlib: 240 epochs take 0.7 ms; level 6 takes twice as long for 1 % less."""

_COLUMNS = b"C"
"""Begins lines that are packed by columns; what zlib writes begins otherwise."""

_CHECKSUMS = b"S"
"""Begins lines that are packed without their checksums."""

_NUMBER = re.compile(rb"([-+.0-9][-+.0-9e]*)")
"""A number in a line, or within a text of it, such as a time: whatever it is, it is put back. A pattern that
tells numbers from what merely looks like one takes three times as long."""

_EXPONENT = b"\1"
"""Stands for the e before a negative exponent while lines are divided: other letters e are no numbers."""

_PLAIN_NUMBER = re.compile(rb"[-+.0-9\1]+")
"""As `_NUMBER`, of lines whose exponents are marked."""

_ONLY_NUMBERS = bytes(byte if byte in b"-+.0123456789\1" else ord(" ") for byte in range(256))
"""Translates all else to blanks."""


def parse_epochs(lines: bytes) -> list[EpochResult]:
    """Return the epochs that complete lines hold, in their order; of one that was repeated, the latest.

    Five times as quick as reading line by line, but it cannot tell which line is at fault.

    Raises:
        ValueError: a line is not one of kdctl's records.
    """
    single = lines.splitlines() if b"\r" not in lines else lines.split(b"\n")[:-1]
    found = _adapter().validate_json(b"[" + b",".join(single) + b"]")
    if not all(map(is_as_written, single)):
        raise ValueError("a line was altered, or has another layout")
    if len(found) != len(single) or any(abs(epoch.epoch) > LARGEST_NUMBER for epoch in found):
        raise ValueError("a line is not one record, or counts beyond what a database holds")
    return in_order(found)


def in_order(epochs: Iterable[EpochResult]) -> list[EpochResult]:
    """Return epochs by their numbers; of one that was repeated, the latest."""
    by_number = {epoch.epoch: epoch for epoch in epochs}
    return [by_number[number] for number in sorted(by_number)]


class _EpochTree(TypedDict):
    """What is asked of an epoch when its run is read in. To pass over the rest takes half the time."""

    epoch: int
    seconds: float
    test: dict[str, Any]
    val: NotRequired[dict[str, Any] | None]
    phase: NotRequired[str]
    device_seconds: NotRequired[float | None]


def parse_trees(lines: bytes) -> Sequence[Mapping[str, Any]] | None:
    """Return the epochs that lines of a known SHA-256 hold, as plain trees; None if there are none.

    The trees have numbers, phase, times and metrics of the splits, and nothing else.
    """
    try:
        trees = _tree_adapter().validate_json(b"[" + b",".join(lines.splitlines()) + b"]")
    except ValueError:
        return None
    by_number = {tree["epoch"]: tree for tree in trees}
    return [by_number[number] for number in sorted(by_number)]


def sha256_of(lines: bytes) -> str:
    """Return the SHA-256 of lines, as `result.json` tells it."""
    return hashlib.sha256(lines).hexdigest()


def seconds_of_trees(trees: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the time of epochs: the run's own share, and what earlier versions wrote undivided."""
    own = [tree.get("device_seconds") for tree in trees]
    alone = (tree["seconds"] for tree, share in zip(trees, own, strict=True) if share is None)
    return sum(float(share) for share in own if share is not None), sum(map(float, alone))


def pack(lines: bytes) -> bytes:
    """Return lines in a fifth of their room: column by column, where they differ in numbers only.

    Checksums that are right are left out: they are random letters, and `unpack` computes them again.
    """
    plain = _without_checksums(lines)
    if plain is not None:
        return _CHECKSUMS + pack(plain)
    found = _split_at_once(lines) or _split_line_by_line(lines)
    if found is None:
        return _compressed(lines)
    between, columns = found
    return _COLUMNS + _compressed(b"\n".join([b"\0".join(between), *columns]))


def unpack(packed: bytes, *, checksums: bool = True) -> bytes:
    """Return the lines that were packed; without checksums that would be computed, if these are not wanted.

    Raises:
        ValueError: the bytes are damaged.
    """
    if not checksums:
        packed = packed.removeprefix(_CHECKSUMS)
    if packed.startswith(_CHECKSUMS):
        lines = unpack(packed.removeprefix(_CHECKSUMS)).splitlines()
        return b"".join(with_checksum(line) + b"\n" for line in lines)
    try:
        if not packed.startswith(_COLUMNS):
            return zlib.decompress(packed)
        between, *columns = zlib.decompress(packed.removeprefix(_COLUMNS)).split(b"\n")
    except zlib.error as error:
        raise ValueError("packed epochs are damaged") from error
    rows = list(zip(*(column.split(b" ") for column in columns), strict=True))
    try:
        return _line_with(between.split(b"\0")) * len(rows) % tuple(itertools.chain.from_iterable(rows))
    except TypeError as error:
        raise ValueError("packed epochs are damaged: too few or too many columns") from error


def _without_checksums(lines: bytes) -> bytes | None:
    """Return lines without their checksums; None if one has none, or not as it was written."""
    single = lines.split(b"\n")
    plain = [without_checksum(line) for line in single[:-1]]
    if not plain or single[-1] or b"\r" in lines or None in plain:
        return None
    return b"".join(line + b"\n" for line in plain if line is not None)


_Columns = tuple[list[bytes], list[bytes]]
"""What stands between the numbers of each line, and the numbers: for each place those of all lines."""


def _split_at_once(lines: bytes) -> _Columns | None:
    """Divide lines into texts and numbers; None where that needs a closer look, or they are not alike.

    Millions of lines are divided here, so that no step of it goes line by line.
    """
    marked = lines.replace(b"e-", _EXPONENT + b"-")
    between = _PLAIN_NUMBER.split(marked.partition(b"\n")[0])
    numbers = marked.translate(_ONLY_NUMBERS).split()
    width = len(between) - 1
    if not width or len(numbers) % width or _EXPONENT in lines or b"\0" in lines:
        return None
    if _line_with(between) * (len(numbers) // width) % tuple(numbers) != marked:
        return None
    columns = (b" ".join(numbers[place::width]) for place in range(width))
    return between, [column.replace(_EXPONENT, b"e") for column in columns]


def _split_line_by_line(lines: bytes) -> _Columns | None:
    """Divide lines into texts and numbers; None if they differ in more than their numbers."""
    rows = [_NUMBER.split(line) for line in lines.split(b"\n")]
    is_whole = rows.pop() == [b""] and bool(rows) and b"\0" not in lines
    if not is_whole or len(rows[0]) == 1 or any(row[::2] != rows[0][::2] for row in rows):
        return None
    return rows[0][::2], [b" ".join(column) for column in zip(*(row[1::2] for row in rows), strict=True)]


def _line_with(between: Sequence[bytes]) -> bytes:
    """Return a line that the numbers between these texts are put into by `%`."""
    return b"%b".join(text.replace(b"%", b"%%") for text in between) + b"\n"


def _compressed(content: bytes) -> bytes:
    return zlib.compress(content, _LEVEL)


@functools.cache
def _adapter() -> TypeAdapter[list[EpochResult]]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - `kdctl --help` stays quick without it

    return TypeAdapter(list[EpochResult])


@functools.cache
def _tree_adapter() -> TypeAdapter[list[_EpochTree]]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - as above

    return TypeAdapter(list[_EpochTree])
