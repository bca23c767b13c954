"""Runs and curves in few bytes: a thousand runs of 240 epochs fit into a page of a few megabytes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdctl.records import EpochResult, Selection, StoredRun
from kdctl.report.fields import distinguishing_fields, flatten
from kdctl.report.figure import COLOURS, DASHES
from kdctl.report.replicates import group_by_configuration
from kdctl.report.series import averaged_runs, divide
from kdctl.serialization import to_tree

STEPS = 65534
"""Steps between the smallest and the largest value; one more stands for no value."""

_PERCENT = (0.0, 100.0)
METRICS: Mapping[str, tuple[str, Callable[[EpochResult], float | None], bool]] = {
    "test_top1": ("test top-1 (%)", lambda epoch: epoch.test.top1, True),
    "train_top1": ("training top-1 (%)", lambda epoch: epoch.train_top1, True),
    "val_top1": ("validation top-1 (%)", lambda epoch: epoch.val.top1 if epoch.val else None, True),
    "test_top5": ("test top-5 (%)", lambda epoch: epoch.test.top5, True),
    "test_loss": ("test loss (nats)", lambda epoch: epoch.test.loss, False),
    "val_loss": ("validation loss (nats)", lambda epoch: epoch.val.loss if epoch.val else None, False),
    "train_loss": ("training loss (sum of terms)", lambda epoch: epoch.train_loss, False),
}
"""Label, value, and whether it is in percent."""


def encode_columns(runs: Sequence[StoredRun]) -> dict[str, Any]:
    """Return what is known of runs by dotted field: one value for all, or all values and who has which."""
    rows = [_known(run) for run in runs]
    fields = dict.fromkeys(field for row in rows for field in row)
    return {field: _column([row.get(field) for row in rows]) for field in fields}


def encode_curves(
    runs: Sequence[StoredRun], epochs: Sequence[Sequence[EpochResult]]
) -> dict[str, Any] | None:
    """Return the curves of runs, packed, with the configurations they belong to; None without any epoch.

    Args:
        runs: in the order of the page.
        epochs: of each run.
    """
    lengths = [max((epoch.epoch for epoch in each), default=0) for each in epochs]
    if not any(lengths):
        return None
    starts = np.concatenate([[0], np.cumsum(lengths)])
    metrics: dict[str, Any] = {}
    for name, (label, read, is_percent) in METRICS.items():
        values = np.full(int(starts[-1]), np.nan)
        for start, each in zip(starts, epochs, strict=False):
            for epoch in each:
                value = read(epoch)
                values[start + epoch.epoch - 1] = np.nan if value is None else value
        if np.isfinite(values).any():
            metrics[name] = {"label": label, **_packed(values, is_percent=is_percent)}
    place = {run.key: at for at, run in enumerate(runs)}
    fields = distinguishing_fields([run.plan for run in runs])
    groups = group_by_configuration(runs, fields, Selection.LAST)
    return {
        "metrics": metrics,
        "starts": starts.tolist(),
        "colours": COLOURS,
        "dashes": DASHES,
        "configurations": [
            {
                "name": item.name or "all runs",
                "runs": [place[run.key] for run in item.group.runs],
                "averaged": [place[run.key] for run in averaged_runs(item.group)],
            }
            for item in divide(groups, fields, None)
        ],
    }


def _known(run: StoredRun) -> dict[str, Any]:
    tree = to_tree(run)
    nested = {name: tree.pop(name) or {} for name in ("plan", "environment", "result")}
    return {
        **{f"run.{name}": value for name, value in tree.items()},
        **{f"{part}.{name}": value for part in nested for name, value in flatten(nested[part]).items()},
    }


def _column(values: Sequence[Any]) -> dict[str, Any]:
    places: dict[Any, int] = {}
    at = [places.setdefault((type(value), value), len(places)) for value in values]
    distinct = [value for _, value in places]
    return {"values": distinct} if len(distinct) == 1 else {"values": distinct, "at": at}


def _packed(values: npt.NDArray[np.float64], *, is_percent: bool) -> dict[str, Any]:
    """Return values as 16-bit steps in base64: accuracies to 0.002 points, losses to 1 in a few thousand."""
    there = np.isfinite(values)
    low, high = _PERCENT if is_percent else (float(values[there].min()), float(values[there].max()))
    scale: Callable[[Any], Any] = np.asarray if is_percent else np.arcsinh
    width = float(scale(high)) - float(scale(low))
    share = (scale(np.where(there, values, low)) - float(scale(low))) / (width or 1.0)
    steps = np.where(there, np.rint(np.clip(share, 0.0, 1.0) * STEPS), STEPS + 1).astype("<u2")
    return {
        "low": low,
        "high": high,
        "asinh": not is_percent,
        "packed": base64.b64encode(steps.tobytes()).decode(),
    }
