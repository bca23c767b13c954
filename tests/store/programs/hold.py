"""Claim a run for an hour, and wait."""

from __future__ import annotations

import sys
from pathlib import Path

from kdctl.store.leases import Owner
from kdctl.store.store import Store

with Store.open(Path(sys.argv[1])) as store:
    claimed = store.claim(sys.argv[2], Owner.here(), lease_seconds=3600)
    sys.stdout.write(f"{claimed}\n")
    sys.stdout.flush()
    sys.stdin.readline()
