"""Leases: for how long a process holds a run, renewed by heartbeats until it releases the run."""

from __future__ import annotations

import functools
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from kdctl.store.clock import utc_now

LONGEST_SECONDS = 86_400.0
"""A lease that ends later than that from now is none: a clock was wrong when it was written, or is now."""

_PROCESSES = Path("/proc")
_STATE, _START = 0, 19
"""Fields of /proc/<pid>/stat, counted from behind the program's name (proc(5) calls them 3 and 22)."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that may hold leases, told apart from a later one that got the same number."""

    host: str
    pid: int
    token: str
    """Tells processes of one host and number apart: 'boot:namespace:start', the first two empty off Linux."""

    @classmethod
    def here(cls) -> Owner:
        """Return this process."""
        pid = os.getpid()
        return cls(host=socket.gethostname(), pid=pid, token=_token(pid) or f"::{_random_mark()}")

    def is_gone(self) -> bool:
        """Return whether the process is known to have ended; False when that cannot be known from here."""
        if self.host != socket.gethostname() or os.name != "posix":
            return False
        boot, *rest = self.token.split(":")
        if len(rest) != 2:  # no process of kdctl wrote this
            return False
        boot_here, namespace_here, _ = Owner.here().token.split(":")
        namespace, _ = rest
        if boot != boot_here:
            return True
        # Containers may share a host's name and boot, but each numbers its processes from 1.
        return namespace == namespace_here and not self._lives_on()

    def _lives_on(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):  # the latter of a number that no process has
            return False
        except PermissionError:  # somebody else's process: it may not even be looked into
            return True
        return _token(self.pid) in {None, self.token} and not _is_zombie(self.pid)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Who holds a run, and until when; every heartbeat writes a new one."""

    owner: Owner
    expires: str
    """UTC, by the clock of the process that wrote it."""

    @property
    def expired(self) -> bool:
        """Whether it has run out, by the clock here."""
        return self.expires <= utc_now()


@dataclass(frozen=True, kw_only=True)
class LeaseConfig:
    """For how long a lease outlives the last heartbeat, and how often workers of a run may crash.

    A process that ended on this machine is noticed at once, whatever its lease says.
    """

    seconds: float = 600.0
    """From the last heartbeat to expiry, when others may claim the run: longer than any evaluation takes."""
    heartbeat_seconds: float = 20.0
    """Between two heartbeats, at least."""
    max_crashes: int = 3
    """A run fails when its worker died so often without getting any further in between."""

    def __post_init__(self) -> None:
        """Refuse leases that nobody would believe."""
        if self.seconds > LONGEST_SECONDS:
            raise ValueError(f"a lease of {self.seconds:g} s is longer than a day")

    @property
    def grace_seconds(self) -> float:
        """How long an expired lease is watched for a heartbeat: the clock it expired by may have been set."""
        return min(3 * self.heartbeat_seconds, self.seconds)


@functools.cache
def _random_mark() -> str:
    return uuid.uuid4().hex


def _token(pid: int) -> str | None:
    """Return boot, process namespace and start time of a process, if the system tells them."""
    try:
        boot = (_PROCESSES / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = (_PROCESSES / f"{pid}/ns/pid").readlink().name
        return f"{boot}:{namespace.strip('pid:[]')}:{_status(pid)[_START]}"
    except (OSError, IndexError):
        return None


def _is_zombie(pid: int) -> bool:
    """Return whether the process has ended and only waits for its parent to notice."""
    try:
        return _status(pid)[_STATE] == "Z"
    except (OSError, IndexError):
        return False


def _status(pid: int) -> list[str]:
    """Return the fields behind the program's name, which may hold blanks, brackets and any bytes."""
    return (_PROCESSES / f"{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
