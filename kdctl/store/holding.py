"""A sign of life of the process that works on a run."""

from __future__ import annotations

from dataclasses import dataclass

from kdctl.store.clock import utc_now
from kdctl.store.owner import Owner


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Who works on a run; a new one with every renewal."""

    owner: Owner
    expires: str
    """UTC, by the clock of the process that wrote it."""

    @property
    def expired(self) -> bool:
        """Whether it has run out, by the clock here."""
        return self.expires <= utc_now()
