"""The command line, one file per verb; the only room that prints."""

from __future__ import annotations

import os
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # Threads that wait by spinning stall for seconds when another process wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded, so set it first
    from kdctl.cli.app import run

    run(arguments)
