"""What the mean of a configuration rests on, for a dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from kdctl.records import EpochResult, StoredRun
from kdctl.store.store import Store
from kdctl.sweep.dashboard import Evidence
from kdctl.workflows.racing import accuracy


def evidence(store: Store, runs: Sequence[StoredRun], split: str) -> Evidence:
    """Return seeds, keys, values, mean curve and times of the runs of one configuration.

    Args:
        store: holds their epochs.
        runs: all seeds, whatever became of them.
        split: on which the configuration is measured, 'test' or 'val'.
    """
    epochs = {run.key: store.epochs(run.key) for run in runs}
    values = {run.key: value for run in runs if (value := accuracy(run, split)) is not None}
    curves = [_curve(epochs[key], split) for key in values]
    common = set[int].intersection(*map(set, curves)) if curves else set[int]()
    every = [epoch for each in epochs.values() for epoch in each if epoch.ended]
    return Evidence(
        seeds=tuple(run.seed for run in runs),
        run_keys=tuple(run.key for run in runs),
        values=tuple(values.values()),
        curve={number: fmean(curve[number] for curve in curves) for number in sorted(common)},
        started=min(epoch.started for epoch in every) if every else None,
        ended=max(epoch.ended for epoch in every) if every else None,
    )


def _curve(epochs: Sequence[EpochResult], split: str) -> dict[int, float]:
    metrics = ((epoch.epoch, epoch.val if split == "val" else epoch.test) for epoch in epochs)
    return {number: each.top1 for number, each in metrics if each is not None}
