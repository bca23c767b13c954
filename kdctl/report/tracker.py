"""What is exported of a run, and what a tracker must offer."""

from __future__ import annotations

import importlib.util
import math
import shutil
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from kdctl.errors import KdctlError
from kdctl.evaluation_records import Evaluation
from kdctl.machine_errors import unwritable
from kdctl.records import EpochResult, RunState, SplitMetrics, StoredRun
from kdctl.registry import Registry
from kdctl.report.fields import flatten, show_value


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One value at one epoch."""

    name: str
    """Such as 'test/top1'; in words that all trackers allow."""
    epoch: int
    seconds: float
    """When it was known: seconds since 1970, UTC."""
    value: float


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run with all that a tracker shows."""

    run: StoredRun
    name: str
    """What tells it from the others: settings and seed."""
    group: str
    """Name of its sweep, or of all runs together."""
    epochs: tuple[EpochResult, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved plan as plain values by dotted name."""
        leaves = flatten(self.run.plan)
        return {
            field: show_value(value) if isinstance(value, tuple) else value
            for field, value in leaves.items()
            if value is not None
        }

    @property
    def ends(self) -> list[float]:
        """When each epoch ended, in seconds since 1970.

        Earlier versions wrote only how long an epoch took: then the times follow each other from the moment
        when the run was planned.
        """
        clock = _seconds(self.run.created)
        found: list[float] = []
        for epoch in self.epochs:
            clock = epoch.ended_at.timestamp() if epoch.ended_at else clock + epoch.seconds
            found.append(clock)
        return found

    @property
    def started(self) -> float:
        """When the first epoch began, in seconds since 1970; without one, when the run was planned."""
        return self.ends[0] - self.epochs[0].seconds if self.epochs else _seconds(self.run.created)

    @property
    def ended(self) -> float | None:
        """When the run ended, in seconds since 1970; None while it has not."""
        if self.run.state in (RunState.PLANNED, RunState.RUNNING, RunState.INTERRUPTED):
            return None
        return self.ends[-1] if self.epochs else _seconds(self.run.updated)

    def scalars(self) -> Iterator[Scalar]:
        """Return everything that was measured, epoch by epoch; what is no number is left out."""
        for epoch, seconds in zip(self.epochs, self.ends, strict=True):
            for name, value in _values(epoch).items():
                if value is not None and math.isfinite(value):
                    yield Scalar(name=name, epoch=epoch.epoch, seconds=seconds, value=value)

    def results(self) -> dict[str, float]:
        """Return the numbers that a run ends with, by selection rule, and what `kdctl eval` found."""
        found: dict[str, float] = {}
        if self.run.result is not None:
            for rule, selected in self.run.result.selected.items():
                found |= {f"{rule}/{name}": value for name, value in _of_split("test", selected.test).items()}
                found[f"{rule}/epoch"] = float(selected.epoch)
            found["parameters"] = float(self.run.result.facts.shipped_parameters)
        for item in self.evaluations:
            measured = {
                "ece": item.calibration_error,
                "agreement": item.teacher_agreement,
                "kl": item.teacher_kl,
            }
            found |= {
                f"{item.selection}/{item.split}/{name}": value
                for name, value in measured.items()
                if value is not None
            }
        return {name: value for name, value in found.items() if math.isfinite(value)}


Export = Callable[[Sequence[TrackedRun], Path], str | None]
"""Writes runs into a folder, all or nothing (`staged`); doing so again replaces what it wrote, and adds
nothing twice. Returns the command that shows them, quoted for a shell, if there is one."""

trackers: Registry[Export] = Registry("tracker", "kdctl.report.trackers")
"""Programs that show runs, by name."""


def require_package(module: str, extra: str) -> None:
    """Make sure that a tracker's own package is installed.

    Raises:
        KdctlError: it is not.
    """
    if importlib.util.find_spec(module) is None:
        raise KdctlError(
            f"an export to {extra} needs the package {module}, which is not installed.",
            f"pip install 'kdctl[{extra}]'.",
        )


@contextmanager
def staged(folder: Path) -> Generator[Path]:
    """Give an empty folder to write into; at the end its files are moved into `folder`, over older ones.

    If anything fails before, `folder` stays as it was: no export is half there.

    Raises:
        MachineError: the disk is full, or may not be written.
    """
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    stage = place / f".{folder.name}.{uuid.uuid4().hex}.tmp"  # on the same disk: moving takes no time
    try:
        stage.mkdir()
        yield stage
        _move_into(folder, stage)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move_into(folder: Path, stage: Path) -> None:
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage.rename(folder)
        return
    for path in sorted(stage.rglob("*")):
        target = folder / path.relative_to(stage)
        if path.is_dir() and not path.is_symlink():
            target.mkdir(exist_ok=True)
        else:
            path.replace(target)


def _values(epoch: EpochResult) -> dict[str, float | None]:
    return {
        **_of_split("test", epoch.test),
        **(_of_split("val", epoch.val) if epoch.val else {}),
        "train/loss": epoch.train_loss,
        "train/top1": epoch.train_top1,
        **{f"train/terms/{name}": value for name, value in epoch.train_terms.items()},
        **{f"train/metrics/{name}": value for name, value in epoch.metrics.items()},
        "learning_rate": epoch.learning_rate,
        "time/epoch_seconds": epoch.seconds,
        "time/images_per_second": epoch.images_per_second,
    }


def _of_split(split: str, metrics: SplitMetrics) -> Mapping[str, float]:
    return {f"{split}/top1": metrics.top1, f"{split}/top5": metrics.top5, f"{split}/loss": metrics.loss}


def _seconds(text: str) -> float:
    return (datetime.fromisoformat(text) - datetime.fromisoformat(_EPOCH)) / timedelta(seconds=1)


_EPOCH = "1970-01-01T00:00:00+00:00"
