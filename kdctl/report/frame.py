"""Runs as a tidy data frame: one row for each run, for notebooks and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdctl.records import Selection, StoredRun
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


def run_frame(runs: Sequence[StoredRun], select: Selection = Selection.LAST) -> pd.DataFrame:
    """Return one row for each run: the fields that vary over the runs, then `OWN_COLUMNS`.

    Data, teacher, student, protocol and method are there even when they do not vary. Only finished
    runs have numbers; they are those of the epoch that `select` picks.

    Args:
        runs: in the order of the rows.
        select: which epoch's numbers to take.
    """
    varying = varying_fields([run.plan for run in runs])
    options = [
        field for field in varying if not field.startswith("teachers.") and field not in HEADLINE_FIELDS
    ]
    names = short_names([*HEADLINE_FIELDS, *options], taken=OWN_COLUMNS)
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
