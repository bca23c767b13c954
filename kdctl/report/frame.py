"""Runs and their epochs as tidy data frames, for notebooks and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdctl.records import EpochResult, Selection, StoredRun
from kdctl.report.fields import HEADLINE_FIELDS, read_field, short_names, varying_fields
from kdctl.report.replicates import selected_epoch

OWN_COLUMNS = (
    "key",
    "configuration",
    "state",
    "seed",
    "epoch",
    "top1",
    "top5",
    "loss",
    "teacher_top1",
    "parameters",
    "pruning_percent",
    "seconds",
)
"""Columns that every frame has; 'loss' is that on the test set, 'seconds' the training's wall time."""

EPOCH_COLUMNS = (
    "epoch",
    "learning_rate_now",
    "train_loss",
    "train_top1",
    "test_top1",
    "test_top5",
    "test_loss",
    "val_top1",
    "val_top5",
    "val_loss",
    "seconds",
)
"""Columns that every frame of epochs has; 'learning_rate_now' is that of the epoch, not the setting."""


def run_frame(runs: Sequence[StoredRun], select: Selection = Selection.LAST) -> pd.DataFrame:
    """Return one row for each run: the fields that vary over the runs, then `OWN_COLUMNS`.

    Data, teacher, student, protocol and method are there even when they do not vary. Only finished
    runs have numbers; they are those of the epoch that `select` picks.

    Args:
        runs: in the order of the rows.
        select: which epoch's numbers to take.
    """
    names = _settings([run.plan for run in runs], taken=OWN_COLUMNS)
    rows = [
        {name: read_field(run.plan, field) for field, name in names.items()} | _numbers(run, select)
        for run in runs
    ]
    return pd.DataFrame(rows, columns=[*names.values(), *OWN_COLUMNS])


def _numbers(run: StoredRun, select: Selection) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "key": run.key,
        "configuration": run.configuration,
        "state": run.state.value,
        "seed": run.seed,
    }
    epoch = selected_epoch(run, select)
    if epoch is None or run.result is None:
        return identity
    facts = run.result.facts
    return identity | {
        "epoch": epoch.epoch,
        "top1": epoch.test.top1,
        "top5": epoch.test.top5,
        "loss": epoch.test.loss,
        "teacher_top1": run.result.teacher_test_top1,
        "parameters": facts.shipped_parameters,
        "pruning_percent": facts.pruning_percent,
        "seconds": run.result.train_seconds,
    }


def epoch_frame(runs: Sequence[StoredRun], epochs: Mapping[str, Sequence[EpochResult]]) -> pd.DataFrame:
    """Return one row for each epoch of each run: the curves, for figures of your own.

    Columns: the run's `key`, what varies over the runs, `seed` and `state`; then `EPOCH_COLUMNS`, and one for
    each term of the loss ('term_task') and each metric of a method ('metric_...') that a run has.

    Args:
        runs: in the order of the rows.
        epochs: of each run, by key.
    """
    names = _settings([run.plan for run in runs], taken=("key", "seed", "state", *EPOCH_COLUMNS))
    rows = [
        {
            "key": run.key,
            **{name: read_field(run.plan, field) for field, name in names.items()},
            "seed": run.seed,
            "state": run.state.value,
            **_curve_point(epoch),
        }
        for run in runs
        for epoch in epochs.get(run.key, ())
    ]
    first = ["key", *names.values(), "seed", "state", *EPOCH_COLUMNS]
    return pd.DataFrame(
        rows, columns=[*first, *dict.fromkeys(key for row in rows for key in row if key not in first)]
    )


def _settings(plans: Sequence[Mapping[str, Any]], taken: Sequence[str]) -> dict[str, str]:
    """Return the fields that a frame shows, with their short names."""
    varying = varying_fields(plans)
    options = [
        field for field in varying if not field.startswith("teachers.") and field not in HEADLINE_FIELDS
    ]
    return short_names([*HEADLINE_FIELDS, *options], taken=taken)


def _curve_point(epoch: EpochResult) -> dict[str, Any]:
    return {
        "epoch": epoch.epoch,
        "learning_rate_now": epoch.learning_rate,
        "train_loss": epoch.train_loss,
        "train_top1": epoch.train_top1,
        "test_top1": epoch.test.top1,
        "test_top5": epoch.test.top5,
        "test_loss": epoch.test.loss,
        "val_top1": epoch.val.top1 if epoch.val else None,
        "val_top5": epoch.val.top5 if epoch.val else None,
        "val_loss": epoch.val.loss if epoch.val else None,
        "seconds": epoch.seconds,
        **{f"term_{name}": value for name, value in epoch.train_terms.items()},
        **{f"metric_{name}": value for name, value in epoch.metrics.items()},
    }
