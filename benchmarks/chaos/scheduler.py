"""Sweep the recipe in a folder with a short lease: `python scheduler.py FOLDER SLOTS LEASE_SECONDS`."""

from __future__ import annotations

import sys
from pathlib import Path

from kdctl import workflows
from kdctl.cli.signals import StopSignals
from kdctl.execution.local_executor import LocalConfig
from kdctl.store.leases import LeaseConfig


def main(folder: Path, slots: int, seconds: float) -> int:
    lease = LeaseConfig(
        seconds=seconds, heartbeat_seconds=seconds / 10, max_crashes=1000
    )  # what kills is not the runs
    executor = LocalConfig(slots=slots, lease=lease) if slots else None
    with (
        workflows.open_workspace(folder / "runs", folder / "data", num_threads=1) as workspace,
        StopSignals() as stop,
    ):
        outcome = workflows.sweep(
            folder / "chaos.toml", workspace, executor=executor, stop=stop, gang_size=2 if slots else 8
        )
    return 0 if outcome.complete and not outcome.failures else stop.exit_code or 3


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
