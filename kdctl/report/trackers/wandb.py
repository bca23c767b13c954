"""Weights & Biases, without a network: `wandb sync` uploads what is written."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdctl.records import RunState
from kdctl.report.tracker import TrackedRun, require_package, staged, trackers


@trackers.register("wandb", label="Weights & Biases", aliases=("weights_and_biases",))
def export_to_wandb(runs: Sequence[TrackedRun], folder: Path) -> None:
    """Write `folder/wandb/offline-run-...` for `wandb sync folder/wandb/offline-run-*`; needs no account.

    A project is a sweep, a group the replicates of a configuration. The run key is W&B's run id, so that an
    upload again goes on with the same run.
    """
    require_package("wandb", "wandb")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing is sent anywhere
    with staged(folder) as stage:
        for run in runs:
            _write(run, stage)
        _close()
        for run in runs:
            for earlier in (folder / "wandb").glob(f"offline-run-*-{run.run.key}"):
                shutil.rmtree(earlier)


def _write(run: TrackedRun, folder: Path) -> None:
    import wandb  # noqa: PLC0415 - optional, slow to import

    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        x_disable_stats=True,
        x_disable_meta=True,
        save_code=False,
    )
    made: Any = wandb.init(
        mode="offline",
        dir=str(folder),
        project=run.group,
        group=run.run.configuration,
        name=run.name,
        id=run.run.key,
        config={**run.settings, "kdctl_state": run.run.state.value, "kdctl_created": run.run.created},
        settings=settings,
        reinit="create_new",
    )
    for epoch, items in itertools.groupby(run.scalars(), key=lambda item: item.epoch):
        listed = list(items)
        made.log({item.name: item.value for item in listed} | {"_timestamp": listed[0].seconds}, step=epoch)
    made.summary.update(run.results())
    made.finish(exit_code=0 if run.run.state is RunState.FINISHED else 1)


def _close() -> None:
    """End W&B's own process: on a busy machine it still writes when the last run says it is finished."""
    import wandb  # noqa: PLC0415 - optional, slow to import

    wandb.teardown()
