"""The command line, one file per verb; the only room that prints."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from kdctl.cli.app import run

    run(arguments)
