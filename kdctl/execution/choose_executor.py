"""Which executor trains a sweep, by what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdctl.errors import UsageError, suggestion
from kdctl.execution.executor import ExecutorConfig, InProcessConfig
from kdctl.store.leases import LeaseConfig

EXECUTORS = ("local", "slurm")
PACK = "gangs_per_job"
"""The one SLURM option that is not SLURM's."""


def choose_executor(
    executor: str = "local",
    *,
    slots: int | None = None,
    slurm_options: Mapping[str, object] | None = None,
    lease: LeaseConfig | None = None,
) -> ExecutorConfig:
    """Return the executor that was asked for. Results do not depend on it.

    Args:
        executor: 'local' or 'slurm'.
        slots: gangs that train at once: 1 locally (then in this process), 64 on a cluster, if not given.
        slurm_options: options of `sbatch` with '_' for '-', and 'gangs_per_job'.
        lease: how long a run is held without a sign of life.

    Raises:
        UsageError: there is no such executor, or it has no such options.
    """
    lease, options = lease or LeaseConfig(), dict(slurm_options or {})
    if executor not in EXECUTORS:
        raise UsageError(f"there is no executor '{executor}'.", suggestion(executor, EXECUTORS, "Executors"))
    if executor == "slurm":
        from kdctl.execution.slurm_executor import SlurmConfig  # noqa: PLC0415 - only where it is wanted
        from kdctl.execution.slurm_options import whole_number  # noqa: PLC0415 - as above

        packed = whole_number(PACK, options.pop(PACK, 1))
        jobs = SlurmConfig(gangs_per_job=packed, options=options, lease=lease)
        return jobs if slots is None else replace(jobs, slots=slots)
    if options:
        raise UsageError("--slurm-option needs --executor slurm.", "add it, or leave the option out.")
    if slots is None or slots == 1:
        return InProcessConfig(lease=lease)
    from kdctl.execution.local_executor import LocalConfig  # noqa: PLC0415 - only where it is wanted

    return LocalConfig(slots=slots, lease=lease)
