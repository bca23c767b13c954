"""The tables, as SQLAlchemy sees them.

They share their file with Optuna's: every name begins with `kdctl_`. The statements that create
them are in `migrations.py`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kdctl.evaluation_records import Evaluation
from kdctl.records import Environment, EpochResult, RunResult, RunState
from kdctl.store.column_types import (
    Checked,
    JsonRecord,
    MomentText,
    PackedLines,
    PlainText,
    RealNumber,
    StateName,
    WholeNumber,
)

Moment = Annotated[str, "UTC, ISO 8601"]


class Table(DeclarativeBase):
    """What the tables have in common."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads a plain dict here
        str: PlainText(),
        int: WholeNumber(),
        float: RealNumber(),
        Moment: MomentText(),
        RunState: StateName(),
        Mapping[str, Any]: JsonRecord(dict[str, Any]),
        Environment: JsonRecord(Environment),
        RunResult: JsonRecord(RunResult),
        EpochResult: JsonRecord(EpochResult),
        Evaluation: JsonRecord(Evaluation),
        bytes: PackedLines(),
    }

    def __init_subclass__(cls, **options: Any) -> None:
        """Make the values of columns required in which every row has one."""
        super().__init_subclass__(**options)
        for column in cls.__table__.columns:
            if isinstance(column.type, Checked) and not column.nullable:
                column.type = column.type.copy()
                column.type.required = True


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
