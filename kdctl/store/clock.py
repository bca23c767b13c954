"""The store's clock: UTC in one fixed-width spelling, so that times compare as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def utc_now(*, seconds_ahead: float = 0.0) -> str:
    """Return the time now, or some seconds ahead of it: '2026-01-31T12:00:00.000000+00:00'."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds_ahead)
    return moment.isoformat(timespec="microseconds")


def spelled(time: str) -> str:
    """Return a time in the store's spelling; empty for none.

    Raises:
        ValueError: it is not written as ISO 8601 says.
    """
    return datetime.fromisoformat(time).astimezone(UTC).isoformat(timespec="microseconds") if time else ""
