"""Claims: taking runs so that no two processes ever train the same one.

The database decides who takes a run, in one atomic statement. The run's folder holds a second lease, that of
the worker who writes there. It is needed where the database does not help: a worker without a database renews
it even when the scheduler that claimed the run is gone, and it is still there when the database was deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kdctl.assembly.workspace import Workspace
from kdctl.engine.resume import discard_state
from kdctl.records import RunState
from kdctl.store.folder import RunFolder
from kdctl.store.folder_records import RecordFile
from kdctl.store.ingest import ingest
from kdctl.store.leases import Lease, LeaseConfig, Owner


def is_process_alive(owner: Owner) -> bool | None:
    """Return whether a process lives; None when that cannot be known from here."""
    return False if owner.is_gone() else None


@dataclass(kw_only=True)
class Claims:
    """Takes runs in database and folder, and watches those that others hold.

    Clocks of hosts differ, and are set while they run. So the time at which a lease expires is only a hint.
    Where nobody can tell whether its owner lives, a lease counts as abandoned after this process has seen it
    unchanged, by its own monotonic clock: for the length of a lease, or for a short grace period if it has
    expired.
    """

    workspace: Workspace
    lease: LeaseConfig
    is_alive: Callable[[Owner], bool | None] = is_process_alive
    """Says whether an owner lives: True, False, or None when nobody can tell."""
    now: Callable[[], float] = time.monotonic
    _seen: dict[tuple[str, str], tuple[Lease, float]] = field(
        default_factory=dict[tuple[str, str], tuple[Lease, float]]
    )
    """By run key and place ('store' or 'folder'): the lease that lies there, and since when we know it."""

    def take(self, key: str, owner: Owner, *, retry_failed: bool = False) -> bool:
        """Claim a run for `owner`; return whether it has it now."""
        store = self.workspace.store
        held = store.lease(key)  # before the check: who takes the run after it is not the one found gone
        if not self.is_free(key, owner=owner):
            return False
        taken = store.claim(
            key,
            owner,
            lease_seconds=self.lease.seconds,
            retry_failed=retry_failed,
            silent=held.owner if held else None,
        )
        if taken:
            folder = self.workspace.folder(key)
            folder.hold(owner, lease_seconds=self.lease.seconds)
            folder.discard_failure()  # of an earlier try: this one may end before it has written anything
        return taken

    def reconcile(self, key: str) -> RunState | None:
        """Bring what a run's folder knows into the database; None when there is no folder."""
        folder = self.workspace.folder(key)
        if not (folder.path / RecordFile.PLAN).is_file():
            return None
        held = self.workspace.store.lease(key)
        holder = held.owner if held else None
        abandoned = self._is_abandoned(folder, holder)
        state = ingest(self.workspace.store, folder, abandoned=abandoned, holder=holder)
        if folder.result() is not None and folder.lease() is None:
            discard_state(folder.path)  # whoever ended the run may have died before that
        return state

    def reconcile_if_left(self, key: str) -> RunState | None:
        """Call `reconcile`, unless the folder has a lease: its worker will still write there."""
        if self.workspace.folder(key).lease() is not None:
            return None
        return self.reconcile(key)

    def is_free(self, key: str, *, owner: Owner | None = None) -> bool:
        """Return whether nobody holds a run, as far as is known here."""
        places = {
            "store": self.workspace.store.lease(key),
            "folder": self.workspace.folder(key).lease(),
        }
        held = [  # a list: each place is watched from the first look on
            self._is_held(key, place, lease, owner) for place, lease in places.items() if lease
        ]
        return not any(held)

    def _is_abandoned(self, folder: RunFolder, holder: Owner | None) -> bool:
        """Return whether a result in the folder will not come into the database by its owner."""
        if folder.lease() is not None:
            return False
        return holder is None or holder.host != Owner.here().host or self.is_alive(holder) is False

    def _is_held(self, key: str, place: str, lease: Lease, owner: Owner | None) -> bool:
        if lease.owner == owner:
            return False
        alive = self.is_alive(lease.owner)
        if alive is not None:
            return alive
        seen, since = self._seen.get((key, place), (None, 0.0))
        if seen != lease:
            self._seen[key, place] = (lease, self.now())
            return True
        timeout = self.lease.grace_seconds if lease.expired else self.lease.seconds
        return self.now() - since < timeout
