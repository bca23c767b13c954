"""The commands of SLURM that kdctl needs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdctl.errors import KdctlError
from kdctl.execution.slurm_job import ask_slurm, work

LOOK_SECONDS = 2.0
"""At most so often the queue is looked at."""


class Slurm:
    """Submits jobs and looks at the queue. Accounting (`sacct`) is not needed."""

    def __init__(self) -> None:
        """Nothing was looked at yet."""
        self._jobs: frozenset[str] | None = None
        self._looked = -LOOK_SECONDS

    def submit(self, orders: Sequence[Path], logs: Path, parameters: Mapping[str, Any]) -> list[str]:
        """Submit one job for each order's folder, several as one array; return their numbers.

        Raises:
            KdctlError: SLURM refuses them.
        """
        from submitit.slurm.slurm import SlurmExecutor  # noqa: PLC0415 - an optional dependency

        known = SlurmExecutor._valid_parameters()  # pyright: ignore[reportPrivateUsage]
        direct = {name: value for name, value in parameters.items() if name in known}
        others = {name.replace("_", "-"): value for name, value in parameters.items() if name not in known}
        try:
            executor = SlurmExecutor(folder=logs / "%j")
            executor.update_parameters(**direct, additional_parameters={"requeue": True, **others})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with executor.batch():
                    jobs = [executor.submit(work, str(order.resolve())) for order in orders]
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise KdctlError(
                f"SLURM refused the jobs: {lines[-1] if lines else type(error).__name__}",
                "mend the --slurm-option it names; `sinfo` shows the partitions.",
            ) from error
        self._looked = -LOOK_SECONDS
        return [str(job.job_id) for job in jobs]

    def jobs(self) -> frozenset[str] | None:
        """Return the numbers of our jobs that wait or run; None when SLURM does not answer."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            user = f"--user={os.getuid()}"
            answer = ask_slurm("squeue", "--noheader", "--array", "--format=%i", user)
            self._jobs = None if answer is None else frozenset(answer.split())
        return self._jobs

    def cancel(self, jobs: Sequence[str]) -> None:
        """End jobs: waiting ones at once, running ones with SIGINT, so that they save."""
        if jobs:
            ask_slurm("scancel", "--state=PENDING", *jobs)
            ask_slurm("scancel", "--signal=INT", *jobs)


def require_slurm() -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        KdctlError: SLURM or submitit is missing.
    """
    missing = [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]
    if missing:
        raise KdctlError(
            f"SLURM is not here: there is no {missing[0]} on this machine.",
            "start the sweep on a submit host of the cluster, or leave out --executor slurm.",
        )
    if importlib.util.find_spec("submitit") is None:
        raise KdctlError(
            "jobs are submitted by the package submitit, which is not installed.",
            "pip install 'kdctl[slurm]'",
        )
