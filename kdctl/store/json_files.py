"""JSON of files: one document, or one a line, written whole and read with bounds."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from kdctl.errors import KdctlError
from kdctl.files import read_file, unreadable
from kdctl.machine_errors import unwritable
from kdctl.serialization import canonical_json, from_tree, to_tree
from kdctl.store.atomic import write_atomically

Record = TypeVar("Record")

LARGEST_FILE = 2**28
"""Bytes of a file of records: far more than any run or sweep writes."""

LARGEST_NUMBER = 2**63 - 1
"""Of a whole number that SQLite holds; nothing that kdctl counts comes near."""

_CHECKSUM = "checksum"
"""Key of a record in a file, beside its own: of what it is when that is left out."""

_CHECKSUM_NAME = f'"{_CHECKSUM}"'.encode()

_CHECKSUM_KEY = f',"{_CHECKSUM}":'.encode()

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that alone is no letter, and cannot be written as UTF-8."""


def to_json(record: Any) -> str:
    """Return a record, or a tree, as text: equal content gives equal text."""
    try:
        return canonical_json(record)  # plans are plain trees already, and come in tens of thousands
    except (TypeError, ValueError):
        return canonical_json(_spelled(to_tree(record)))


class AlteredError(ValueError):
    """A record is not what was written."""


def with_checksum(text: bytes) -> bytes:
    """Return a record's text, as `to_json` wrote it, with a checksum as its last value.

    It finds what an editor, a script or a disk changed in a record that still reads well.
    """
    return b'%b%b"%b"}' % (text[:-1], _CHECKSUM_KEY, _checksum(text).encode())


def without_checksum(content: bytes) -> bytes | None:
    """Return a record's text without its checksum; None if it has none that fits, or another layout."""
    rest, found, _ = content.rpartition(_CHECKSUM_KEY)
    plain = rest + b"}"
    return plain if found and with_checksum(plain) == content else None


def has_checksum(content: bytes) -> bool:
    """Return whether a record, or one of several lines, has a checksum, right or wrong."""
    return _CHECKSUM_NAME in content


def first_without_checksum(lines: bytes, *, may_begin_later: bool) -> int | None:
    """Return the number of the first line that lacks its checksum; None if none does.

    Args:
        lines: complete ones.
        may_begin_later: earlier versions, which wrote none, may have written all lines or the first ones.
    """
    begin = lines.find(_CHECKSUM_NAME) if may_begin_later else 0
    if begin < 0 or lines.count(_CHECKSUM_NAME, begin) == lines.count(b"\n", begin):
        return None
    first = lines.count(b"\n", 0, begin)
    places = enumerate(lines.split(b"\n")[first:-1], start=first + 1)
    return next((number for number, line in places if not has_checksum(line)), None)


def why_damaged(error: ValueError) -> str:
    """Say in a sentence what `from_json` found wrong with a record in a file."""
    if isinstance(error, AlteredError):
        return "was altered after it was written"
    return "is not one of kdctl's records"


def from_json(record: type[Record], text: str | bytes) -> Record:
    """Read what `to_json` wrote, with a checksum or without.

    Raises:
        AlteredError: it has a checksum that does not fit.
        ValueError: the text is not JSON, does not describe such a record, or holds what `to_json` never
            writes and a database cannot keep: endless nesting, numbers without bounds, half letters.
    """
    content = text.encode() if isinstance(text, str) else text
    try:
        tree = _DECODER.decode(content.decode(json.detect_encoding(content), "surrogatepass"))
        if _SURROGATE.search(content):
            canonical_json(_spelled(tree)).encode()
        if isinstance(tree, dict) and _CHECKSUM in tree:
            _verify(content, tree)
        return from_tree(record, tree)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def is_as_written(content: bytes) -> bool:
    """Return whether a record is letter for letter what was written, by its checksum, or has none."""
    return _CHECKSUM_KEY not in content or without_checksum(content) is not None


def _verify(content: bytes, tree: dict[str, Any]) -> None:
    """Take the checksum out of a record's tree, and hold it against the rest."""
    stated = tree.pop(_CHECKSUM)
    if not is_as_written(content.rstrip()) and _checksum(canonical_json(_spelled(tree))) != stated:
        raise AlteredError("its checksum does not fit")  # it is not only its layout that changed


def _checksum(text: str | bytes) -> str:
    content = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(content).hexdigest()[:16]


def _whole_number(digits: str) -> int:
    number = int(digits)  # itself refuses thousands of digits
    if abs(number) > LARGEST_NUMBER:
        raise ValueError(f"{number} is too large a number")
    return number


_DECODER = json.JSONDecoder(parse_int=_whole_number)
"""Made once: `json.loads` makes one for each text, and there are tens of thousands."""


def _spelled(tree: Any) -> Any:
    """Write the floats that JSON lacks as 'nan', 'inf' and '-inf'."""
    if isinstance(tree, dict):
        return {name: _spelled(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_spelled(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def read_content(path: Path) -> bytes | None:
    """Return what a file of records holds; None when there is no file.

    Raises:
        KdctlError: it cannot be read.
    """
    try:
        return read_file(path, at_most=LARGEST_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def parse_record(path: Path, content: bytes, record: type[Record], *, if_damaged: str) -> Record:
    """Return the record that a file holds.

    Args:
        path: the file, for the message.
        content: what was read of it.
        record: the type of what it holds.
        if_damaged: what to do about a file that holds something else.

    Raises:
        KdctlError: the file is damaged.
    """
    try:
        return from_json(record, content)
    except ValueError as error:
        raise KdctlError(f"{path} is damaged: it {why_damaged(error)}.", if_damaged) from error


def line_of(record: object) -> bytes:
    """Return a record as a line of a file, with its checksum."""
    return with_checksum(to_json(record).encode()) + b"\n"


def line_like(before: bytes, record: object) -> bytes:
    """Return a record as a line, with a checksum if there was one in what it replaces."""
    return line_of(record) if has_checksum(before) else to_json(record).encode() + b"\n"


def complete_lines(content: bytes) -> bytes:
    """Return lines up to the last line break: what follows it was never completed."""
    return content[: content.rfind(b"\n") + 1]


class JsonLines(Generic[Record]):
    """Records of one type in the order in which they were appended.

    Only a line with its line break counts: what follows the last one was never completed.
    """

    def __init__(self, path: Path, record: type[Record], *, if_damaged: str) -> None:
        """Read and write `path`, which need not exist yet.

        Args:
            path: the file.
            record: the type of what a line holds.
            if_damaged: what to do about a line that holds something else.
        """
        self.path = path
        self._record = record
        self._if_damaged = if_damaged

    def append(self, record: Record) -> None:
        """Add one record; it is on disk when this returns.

        Raises:
            MachineError: the disk is full, or may not be written.
        """
        try:
            self._append(line_of(record))
        except OSError as error:
            raise unwritable(self.path, error) from error

    def read(self) -> list[Record]:
        """Return all complete records; none when there is no file.

        Raises:
            KdctlError: the file cannot be read, or a complete line is not such a record.
        """
        return self.parse(read_content(self.path) or b"")

    def parse(self, content: bytes) -> list[Record]:
        """Return the complete records of what was read of the file.

        Raises:
            KdctlError: a complete line is not such a record.
        """
        lines = complete_lines(content).split(b"\n")[:-1]
        return [self._parse(line, number) for number, line in enumerate(lines, start=1)]

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace all records, atomically."""
        write_atomically(self.path, b"".join(map(line_of, records)))

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            _cut_torn_line(file)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _parse(self, line: bytes, number: int) -> Record:
        try:
            return from_json(self._record, line)
        except ValueError as error:
            raise KdctlError(
                f"{self.path} is damaged: line {number} {why_damaged(error)}.",
                self._if_damaged,
            ) from error


def _cut_torn_line(file: BinaryIO) -> None:
    """Cut off what a killed writer left, lest the next line be glued to it."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
