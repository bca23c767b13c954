"""Which crew trains a sweep, by what was asked for."""

from __future__ import annotations

from kdctl.workflows.crew import CrewPlan, InThisProcess
from kdctl.workflows.lease import Lease
from kdctl.workflows.local_crew import LocalWorkers


def choose_crew(*, slots: int = 1, lease: Lease | None = None) -> CrewPlan:
    """Return the crew for so many gangs at once: one is trained in this process, several in workers.

    Args:
        slots: gangs at once.
        lease: how long a run is held without a sign of life.
    """
    patience = lease or Lease()
    return InThisProcess(lease=patience) if slots == 1 else LocalWorkers(slots=slots, lease=patience)
