"""Open the named database as a user to whom permissions apply; print what went wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kdctl.errors import KdctlError
from kdctl.store.store import Store

NOBODY = 65534

Store.open(Path(sys.argv[2])).close()  # once as before, so that nothing is left to be imported
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
try:
    Store.open(Path(sys.argv[1])).close()
except KdctlError as error:
    sys.stdout.write(f"{error.problem} | {error.hint}\n")
