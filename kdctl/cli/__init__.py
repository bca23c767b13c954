"""The command line, one file per verb; the only room that prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        from kdctl.cli.app import run

        run(arguments)
    except KeyboardInterrupt:  # while modules are loaded: there is nothing to save yet
        sys.exit(130)
