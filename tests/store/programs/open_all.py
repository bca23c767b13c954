"""Open each of the named databases, at the moment standard input says so; print what went wrong."""

from __future__ import annotations

import sys
from pathlib import Path

from kdctl.errors import KdctlError
from kdctl.store.store import Store

sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.readline()
for name in sys.argv[1:]:
    try:
        Store.open(Path(name)).close()
    except KdctlError as error:
        sys.stdout.write(f"{error.problem} | {error.hint}\n")
