"""The application: its verbs, its errors, its exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import kdctl
from kdctl.cli.console import print_error
from kdctl.cli.evaluate import evaluate
from kdctl.cli.listing import listing
from kdctl.cli.report import report
from kdctl.cli.sweep import sweep
from kdctl.cli.train import train
from kdctl.errors import KdctlError

EPILOG = (
    "Exit codes: 0 done; 1 failed as explained; 2 wrong usage or recipe; 3 a sweep ended with failed runs; "
    "130 interrupted and 143 terminated, state saved: the same command goes on."
)

app = typer.Typer(
    name="kdctl",
    help="Knowledge-distillation experiments that anyone can run, trust and extend.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("train")(train)
app.command("sweep")(sweep)
app.command("eval")(evaluate)
app.command("report")(report)
app.add_typer(listing, name="list")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kdctl {kdctl.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Knowledge-distillation experiments that anyone can run, trust and extend."""


def run(arguments: Sequence[str] | None) -> NoReturn:
    """Run the application; every expected failure ends as problem, hint and exit code."""
    try:
        app(args=None if arguments is None else list(arguments))
    except KdctlError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `kdctl report | head`
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)
