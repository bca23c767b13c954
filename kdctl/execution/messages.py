"""What a scheduler and its workers say to each other: one JSON line each, through a pipe or a file."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdctl.assembly.data import DataLibrary
from kdctl.assembly.run_context import RunContext, TeacherCache
from kdctl.errors import KdctlError
from kdctl.machine_errors import MachineFault
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.sections import Catalog
from kdctl.recipe.stored import read_plan
from kdctl.records import EpochResult
from kdctl.store.leases import LeaseConfig, Owner
from kdctl.text import as_text


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker needs to know before its first gang; paths are absolute."""

    runs: str
    data: str
    plugins: tuple[str, ...]
    device: str
    num_threads: int | None
    num_workers: int | None
    graphs: Literal["auto", "on", "off"]
    teacher_cache: TeacherCache
    lease: LeaseConfig

    @classmethod
    def of(cls, context: RunContext, *, plugins: Sequence[Path], lease: LeaseConfig) -> WorkerSetup:
        """Return the set-up of a worker that does what this process would do.

        Raises:
            KdctlError: a path is no text.
        """
        return cls(
            runs=_path_text(context.runs),
            data=_path_text(context.library.root),
            plugins=tuple(map(_path_text, plugins)),
            device=context.device,
            num_threads=context.num_threads,
            num_workers=context.num_workers,
            graphs=context.graphs,
            teacher_cache=context.teacher_cache,
            lease=lease,
        )

    def context(self) -> RunContext:
        """Return the run folders, data and device that the worker trains with."""
        return RunContext(
            runs=Path(self.runs),
            open_library=lambda: DataLibrary(Path(self.data)),
            device=self.device,
            num_threads=self.num_threads,
            num_workers=self.num_workers,
            graphs=self.graphs,
            teacher_cache=self.teacher_cache,
        )


@dataclass(frozen=True, kw_only=True)
class OrderedRun:
    """A run to train, as its plan's tree, and where the files of weights lie that it names."""

    key: str
    plan: Mapping[str, Any]
    checkpoints: tuple[str, ...]
    """One for each teacher; empty for a teacher that is a run."""
    weights: str = ""
    """Where the file lies that the student starts from; empty without one."""

    @classmethod
    def of(cls, plan: RunPlan) -> OrderedRun:
        """Return the order for a run.

        Raises:
            KdctlError: a path is no text.
        """
        files = (teacher.checkpoint for teacher in plan.teachers)
        checkpoints = tuple(_path_text(Path(file)) if file else "" for file in files)
        file = plan.weights.file if plan.weights else ""
        weights = _path_text(Path(file)) if file else ""
        return cls(key=plan.key, plan=plan.tree(), checkpoints=checkpoints, weights=weights)

    def read(self, catalog: Catalog) -> RunPlan:
        """Return the plan.

        Raises:
            KdctlError: it names plug-ins that are not here, or other versions of them.
        """
        plan = read_plan(self.plan, catalog)
        teachers = tuple(
            dataclasses.replace(teacher, checkpoint=file)
            for teacher, file in zip(plan.teachers, self.checkpoints, strict=True)
        )
        weights = dataclasses.replace(plan.weights, file=self.weights) if plan.weights else None
        return dataclasses.replace(plan, teachers=teachers, weights=weights)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A gang to train."""

    runs: tuple[OrderedRun, ...]
    until: int | None = None
    """The epoch after which they pause; None: they train to their end."""

    @classmethod
    def of(cls, plans: Sequence[RunPlan], *, until: int | None = None) -> Order:
        """Return the order for a gang."""
        return cls(runs=tuple(OrderedRun.of(plan) for plan in plans), until=until)


@dataclass(frozen=True, kw_only=True)
class JobOrder:
    """All that a cluster's job needs to know: gangs to train one after the other."""

    setup: WorkerSetup
    owner: Owner
    gangs: tuple[Order, ...]


class EventKind(enum.StrEnum):
    """What a worker tells."""

    READY = "ready"
    """It can take a gang; `owner` says who will hold it."""
    STARTED = "started"
    STEPPED = "stepped"
    EPOCH = "epoch"
    ENDED = "ended"
    """It works on the run in `keys` no longer; the run's folder says how it ended, `text` why it stopped."""
    IDLE = "idle"
    """Its gang is through."""
    NOTE = "note"
    """Something that people should read."""
    LOST = "lost"
    """Its device failed; it can do nothing more."""
    FAULT = "fault"
    """Its machine has a fault; it leaves."""
    ALIVE = "alive"
    """Nothing new; its process runs."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What a worker sends to its scheduler. Only a hint: how a run stands is read from its folder."""

    kind: EventKind
    keys: tuple[str, ...] = ()
    positions: Mapping[str, float] = field(default_factory=dict[str, float])
    """In epochs, by run key."""
    result: EpochResult | None = None
    owner: Owner | None = None
    text: str = ""
    fault: MachineFault | None = None


def _path_text(path: Path) -> str:
    """Return an absolute path as a message can hold it, which is text.

    Raises:
        KdctlError: it is no text: a worker would wait for ever for a message that cannot be written.
    """
    name = str(path.resolve())
    if as_text(name) != name:
        raise KdctlError(
            f"worker processes cannot be told of {as_text(name)}, which is not in UTF-8.",
            "rename that folder, or train in this process: without --slots.",
        )
    return name
