"""What the columns of our tables hold, looked at whenever it is read."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Dialect, Double, Integer, LargeBinary, String, Text
from sqlalchemy.types import TypeDecorator

from kdctl.records import RunState
from kdctl.store.epoch_lines import pack, unpack
from kdctl.store.faults import DamagedRowError
from kdctl.store.json_files import from_json, to_json


def read_json(record: type[Any], text: str) -> Any:
    """Read a record from what a column holds.

    Raises:
        DamagedRowError: it is none.
    """
    try:
        return from_json(record, text)
    except (ValueError, TypeError, AttributeError) as error:  # SQLite's columns hold values of any type
        raise DamagedRowError(f"a row holds no {getattr(record, '__name__', 'record')}") from error


class Checked(TypeDecorator[Any]):
    """A column whose values are looked at when they are read: a damaged file may have anything in it."""

    cache_ok = True

    def __init__(self, *, required: bool = False) -> None:
        """Read values, of which every row has one if they are `required`."""
        super().__init__()
        self.required = required

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Return the value that a row holds; None if it may hold none, and does.

        Raises:
            DamagedRowError: it holds another kind of value.
        """
        if value is not None:
            return self.checked(value)
        if self.required:
            raise DamagedRowError("a row lacks a value that every row has")
        return None

    def checked(self, value: Any) -> Any:
        """Return what kdctl wrote as `value`.

        Raises:
            DamagedRowError: it never writes that.
        """
        raise TypeError(f"{type(self).__name__} must define checked()")


class JsonRecord(Checked):
    """A column of records, or of trees, kept as canonical JSON text."""

    impl = Text
    cache_ok = True

    def __init__(self, record: type[Any], *, required: bool = False) -> None:
        """Keep records of this type."""
        super().__init__(required=required)
        self.record = record

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Write a record as text."""
        return None if value is None else to_json(value)

    def checked(self, value: Any) -> Any:
        """Read a record from its text."""
        return read_json(self.record, value)


class PackedLines(Checked):
    """A column of lines of text, kept in a quarter of their room."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, *, checksums: bool = True, required: bool = False) -> None:
        """Read lines with their checksums, or without those that would have to be computed."""
        super().__init__(required=required)
        self.checksums = checksums

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """Pack lines."""
        return None if value is None else pack(value)

    def checked(self, value: Any) -> bytes:
        """Unpack lines."""
        try:
            return unpack(value, checksums=self.checksums)
        except (ValueError, TypeError) as error:  # SQLite's columns hold values of any type
            raise DamagedRowError("a row holds no packed epochs") from error


class StateName(Checked):
    """A column of run states, kept by their names."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Write a state as its name."""
        return None if value is None else RunState(value).value

    def checked(self, value: Any) -> RunState:
        """Read a state from its name."""
        try:
            return RunState(value)
        except ValueError as error:
            raise DamagedRowError(f"a run is '{value}', which is no state") from error


class Plain(Checked):
    """A column of values that are kept as they are."""

    cache_ok = True
    kinds: ClassVar[tuple[type, ...]]
    called: ClassVar[str]
    """What such a value is, in words."""

    def checked(self, value: Any) -> Any:
        """Return the value."""
        if isinstance(value, self.kinds):
            return value
        raise DamagedRowError(f"a row holds {_shown(value)} where {self.called} should be")


class PlainText(Plain):
    """A column of text."""

    impl = Text
    cache_ok = True
    kinds, called = (str,), "a text"


class WholeNumber(Plain):
    """A column of whole numbers."""

    impl = Integer
    cache_ok = True
    kinds, called = (int,), "a whole number"


class RealNumber(Plain):
    """A column of numbers."""

    impl = Double
    cache_ok = True
    kinds, called = (int, float), "a number"


class MomentText(Checked):
    """A column of times, as `utc_now` writes them."""

    impl = Text
    cache_ok = True

    def checked(self, value: Any) -> str:
        """Return the time as its text."""
        try:
            datetime.fromisoformat(value)
        except (ValueError, TypeError) as error:
            raise DamagedRowError(f"a row holds {_shown(value)} where a time should be") from error
        return value


def _shown(value: Any) -> str:
    return repr(value)[:40]
