"""The tables, as SQLAlchemy sees them.

They share their file with Optuna's: every name begins with `kdctl_`. The statements that create
them are in `migrations.py`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import Dialect, ForeignKey, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from kdctl.evaluation_records import Evaluation
from kdctl.records import Environment, EpochResult, RunResult, RunState
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


class JsonRecord(TypeDecorator[Any]):
    """A column of records, or of trees, kept as canonical JSON text."""

    impl = Text
    cache_ok = True

    def __init__(self, record: type[Any]) -> None:
        """Keep records of this type."""
        super().__init__()
        self.record = record

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Write a record as text."""
        return None if value is None else to_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read a record from its text.

        Raises:
            DamagedRowError: it is none.
        """
        return None if value is None else read_json(self.record, value)


class PackedLines(TypeDecorator[bytes]):
    """A column of lines of text, kept in a quarter of their room."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, *, checksums: bool = True) -> None:
        """Read lines with their checksums, or without those that would have to be computed."""
        super().__init__()
        self.checksums = checksums

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """Pack lines."""
        return None if value is None else pack(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:
        """Unpack lines.

        Raises:
            DamagedRowError: there are none in it.
        """
        try:
            return None if value is None else unpack(value, checksums=self.checksums)
        except (ValueError, TypeError) as error:  # SQLite's columns hold values of any type
            raise DamagedRowError("a row holds no packed epochs") from error


class StateName(TypeDecorator[Any]):
    """A column of run states, kept by their names."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Write a state as its name."""
        return None if value is None else RunState(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read a state from its name.

        Raises:
            DamagedRowError: there is no such state.
        """
        try:
            return None if value is None else RunState(value)
        except ValueError as error:
            raise DamagedRowError(f"a run is '{value}', which is no state") from error


class PlainText(TypeDecorator[str]):
    """A column of text: SQLite would keep anything in it."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Return the text.

        Raises:
            DamagedRowError: it is none.
        """
        if value is None or isinstance(value, str):
            return value
        raise DamagedRowError(f"a row holds {_shown(value)} where a text should be")


class WholeNumber(TypeDecorator[int]):
    """A column of whole numbers: SQLite would keep anything in it."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """Return the number.

        Raises:
            DamagedRowError: it is none.
        """
        if value is None or isinstance(value, int):
            return value
        raise DamagedRowError(f"a row holds {_shown(value)} where a whole number should be")


class MomentText(TypeDecorator[str]):
    """A column of times, as `utc_now` writes them."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Return the time as its text.

        Raises:
            DamagedRowError: it is none.
        """
        try:
            if value is not None:
                datetime.fromisoformat(value)
        except (ValueError, TypeError) as error:
            raise DamagedRowError(f"a row holds {_shown(value)} where a time should be") from error
        return value


Moment = Annotated[str, "UTC, ISO 8601"]


def _shown(value: Any) -> str:
    return repr(value)[:40]


class Table(DeclarativeBase):
    """What the tables have in common."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads a plain dict here
        str: PlainText(),
        int: WholeNumber(),
        Moment: MomentText(),
        RunState: StateName(),
        Mapping[str, Any]: JsonRecord(dict[str, Any]),
        Environment: JsonRecord(Environment),
        RunResult: JsonRecord(RunResult),
        EpochResult: JsonRecord(EpochResult),
        Evaluation: JsonRecord(Evaluation),
        bytes: PackedLines(),
    }


class RunRow(Table):
    """A run, and who holds it."""

    __tablename__ = "kdctl_runs"

    number: Mapped[int] = mapped_column(primary_key=True)
    """Counts the runs in the order in which they were planned."""
    key: Mapped[str] = mapped_column(unique=True)
    configuration: Mapped[str] = mapped_column(index=True)
    seed: Mapped[int]
    plan: Mapped[Mapping[str, Any]]
    state: Mapped[RunState] = mapped_column(index=True)
    epochs: Mapped[int]
    attempts: Mapped[int]
    reason: Mapped[str]
    created: Mapped[Moment]
    updated: Mapped[Moment]
    environment: Mapped[Environment | None]
    result: Mapped[RunResult | None]
    lease_host: Mapped[str | None]
    """Host of the process that holds the run; this and the next three only while it runs."""
    lease_pid: Mapped[int | None]
    lease_token: Mapped[str | None]
    lease_expires: Mapped[Moment | None]
    """From then on any process may take the run over."""


class EpochRow(Table):
    """An epoch of a run that has not ended; of one that has, `HistoryRow` holds them."""

    __tablename__ = "kdctl_epochs"

    run_key: Mapped[str] = mapped_column(ForeignKey("kdctl_runs.key", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    result: Mapped[EpochResult]


class HistoryRow(Table):
    """All epochs of a run that has ended."""

    __tablename__ = "kdctl_histories"

    run_key: Mapped[str] = mapped_column(ForeignKey("kdctl_runs.key", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str]
    """Of the lines, before they are packed."""
    latest: Mapped[int]
    """Number of the last epoch."""
    device_seconds: Mapped[float]
    """Of all epochs: the run's own share of a gang's time."""
    undivided_seconds: Mapped[float]
    """Of epochs that earlier versions wrote, whose time was not divided among a gang."""
    lines: Mapped[bytes]
    """One JSON document for each epoch, packed by zlib."""


class EvaluationRow(Table):
    """The latest evaluation of a run's model, for each selection rule and split."""

    __tablename__ = "kdctl_evaluations"

    run_key: Mapped[str] = mapped_column(ForeignKey("kdctl_runs.key", ondelete="CASCADE"), primary_key=True)
    selection: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    evaluation: Mapped[Evaluation]


class ArtifactRow(Table):
    """A file that a run left behind."""

    __tablename__ = "kdctl_artifacts"

    run_key: Mapped[str] = mapped_column(ForeignKey("kdctl_runs.key", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    num_bytes: Mapped[int]


class SweepRow(Table):
    """A sweep with its recipe."""

    __tablename__ = "kdctl_sweeps"

    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    recipe: Mapped[Mapping[str, Any]]
    created: Mapped[Moment]


class SweepRunRow(Table):
    """A run's place in a sweep."""

    __tablename__ = "kdctl_sweep_runs"
    __table_args__ = (UniqueConstraint("sweep_name", "run_key", "role"),)

    number: Mapped[int] = mapped_column(primary_key=True)
    """Counts the members in the order in which they were added."""
    sweep_name: Mapped[str] = mapped_column(ForeignKey("kdctl_sweeps.name", ondelete="CASCADE"))
    run_key: Mapped[str] = mapped_column(ForeignKey("kdctl_runs.key", ondelete="CASCADE"), index=True)
    role: Mapped[str]
