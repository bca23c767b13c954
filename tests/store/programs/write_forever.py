"""Write a file again and again, of a's and of b's in turn, until killed."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from kdctl.store.atomic import write_atomically

path, size = Path(sys.argv[1]), int(sys.argv[2])
for letter in itertools.cycle((b"a", b"b")):
    write_atomically(path, letter * size)
    sys.stdout.write("written\n")
    sys.stdout.flush()
