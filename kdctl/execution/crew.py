"""Who trains gangs: this process, local workers, or jobs of a cluster. All give the same results."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from kdctl.assembly.bench import Bench
from kdctl.assembly.failure import Failure
from kdctl.execution.claims import by_process
from kdctl.execution.gang_run import GangTrainer
from kdctl.execution.journal import FolderJournal
from kdctl.execution.lease import Lease
from kdctl.execution.ledger import Ledger
from kdctl.execution.store_journal import StoreJournal
from kdctl.machine_errors import MachineFault
from kdctl.recipe.plan import RunPlan
from kdctl.store.owner import Owner
from kdctl.store.reserve import spend_reserve


@dataclass(frozen=True, kw_only=True)
class Return:
    """A run that came back from whoever trained it, done or not."""

    plan: RunPlan
    owner: Owner
    reason: str
    """What stopped it, if it did not end."""
    blamed: bool = False
    """Whether its worker died while it trained, so that the run may be what killed it."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How much a crew does at once."""

    slots: int
    """Gangs in training, at most."""
    at_full_speed: float
    """Of these, how many do not share a GPU, or the cores of the CPU, with others."""
    num_threads: int | None
    """Of torch, for each gang; None: its default."""
    queued: bool = False
    """Whether gangs wait for devices that are not here, in a cluster's queue."""


class Crew(Protocol):
    """Trains gangs that were claimed for one of its members."""

    @property
    def slots(self) -> int:
        """How many gangs train at once."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a gang is in training."""
        ...

    @property
    def fault(self) -> MachineFault | None:
        """What the machine refused a member, if all others would meet it too."""
        ...

    def idle(self, wanted: int) -> Sequence[Owner]:
        """Return members that could train a gang now, at most `wanted`; hire some if there are too few."""
        ...

    def train(self, owner: Owner, plans: Sequence[RunPlan], *, until: int | None = None) -> None:
        """Hand a gang to a member that is idle and holds its runs; they pause after the epoch `until`.

        Raises:
            MachineError: the machine has a fault; the runs are given back.
        """
        ...

    def attend(self, seconds: float) -> list[Return]:
        """Listen for at most so long; return the runs that came back."""
        ...

    def lives(self, owner: Owner) -> bool | None:
        """Return whether a member of some crew lives; None when nobody can tell."""
        ...

    def stop(self) -> None:
        """Ask all members to save what they train and to give it back."""
        ...


class CrewPlan(Protocol):
    """Says what crew to hire."""

    @property
    def lease(self) -> Lease:
        """How long it holds runs without a sign of life."""
        ...

    def capacity(self, bench: Bench) -> Capacity:
        """Return how much it would do at once."""
        ...

    def hire(self, ledger: Ledger, stop: Callable[[], bool]) -> AbstractContextManager[Crew]:
        """Return the crew for as long as it is needed."""
        ...


@dataclass(frozen=True, kw_only=True)
class InThisProcess:
    """One gang after the other, here. What `kdctl train` does, and a sweep with one slot."""

    lease: Lease = Lease()

    def capacity(self, bench: Bench) -> Capacity:
        """Return the capacity of one process."""
        return Capacity(slots=1, at_full_speed=1, num_threads=bench.num_threads)

    @contextmanager
    def hire(self, ledger: Ledger, stop: Callable[[], bool]) -> Generator[Crew]:
        """Return this process as the only member."""
        yield _ThisProcess(ledger=ledger, stop_wish=stop, owner=Owner.here())


@dataclass(kw_only=True)
class _ThisProcess:
    ledger: Ledger
    stop_wish: Callable[[], bool]
    owner: Owner
    slots: int = 1
    busy: bool = False
    fault: MachineFault | None = None
    """Always None: `train` raises it."""

    def idle(self, wanted: int) -> Sequence[Owner]:
        return (self.owner,)[:wanted]

    def train(self, owner: Owner, plans: Sequence[RunPlan], *, until: int | None = None) -> None:
        workspace, lease = self.ledger.workspace, self.ledger.lease
        folders = FolderJournal(bench=workspace, owner=owner, lease=lease)
        trainer = GangTrainer(
            bench=workspace,
            journal=StoreJournal(folders=folders, store=workspace.store),
            progress=self.ledger.progress,
            stop=self.stop_wish,
            until=until,
            renew_seconds=lease.renew_seconds,
            on_failure=self._make_room,
        )
        self.ledger.failures.update(trainer.train(plans))

    def attend(self, seconds: float) -> list[Return]:
        time.sleep(seconds)  # `train` came back when everything was done: others are waited for
        return []

    def lives(self, owner: Owner) -> bool | None:
        return by_process(owner)

    def stop(self) -> None:
        """Do nothing: the trainer asks for itself."""

    def _make_room(self, failure: Failure) -> None:
        if failure.fault is not None:
            spend_reserve(self.ledger.workspace.runs)
