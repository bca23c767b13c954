"""The application: its verbs, its errors, its exit codes."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import kdctl
from kdctl.cli.answers import in_our_words
from kdctl.cli.bench import bench
from kdctl.cli.browse import browsing
from kdctl.cli.cleanup import gc, rm
from kdctl.cli.confirm import confirm
from kdctl.cli.console import ShownWarnings, print_mistakes, say
from kdctl.cli.copy import copy
from kdctl.cli.db import database, sync
from kdctl.cli.eval import evaluate
from kdctl.cli.export import export
from kdctl.cli.import_weights import import_weights
from kdctl.cli.init import init
from kdctl.cli.listing import listing
from kdctl.cli.options import elsewhere
from kdctl.cli.plot import plot
from kdctl.cli.report import report
from kdctl.cli.show import show
from kdctl.cli.standard_streams import (
    bound_width,
    open_closed_streams,
    replace_what_encodings_lack,
    write_nowhere,
)
from kdctl.cli.sweep import sweep
from kdctl.cli.train import train
from kdctl.cli.watch import watch
from kdctl.errors import AbortedError, KdctlError, Mistake, UsageError, words_of
from kdctl.machine_errors import STANDS_NOWHERE, refusal, stands_nowhere
from kdctl.text import as_text, printable

EPILOG = (
    "A first try: kdctl sweep quickstart, then kdctl report.\n\n"
    "Exit codes: 0 done; 1 failed as explained; 2 wrong usage or recipe; 3 a sweep ended with failed runs; "
    "130 interrupted and 143 terminated, state saved: the same command goes on."
)

WRONG_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer raises for words that it does not understand; its module is not the same in all versions."""

BUG = 2
"""Exit code of a mistake in kdctl itself."""

_NOT_UTF_8 = "the locale (LC_ALL, LANG) says that names are not in UTF-8"
_SET_LOCALE = "export LC_ALL=C.UTF-8, and unset PYTHONUTF8 if it is 0."

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
app.command("import-weights")(import_weights)
app.command("watch")(watch)
app.command("report")(report)
app.command("plot")(plot)
app.command("export")(export)
app.command("bench")(bench)
app.command("confirm")(confirm)
app.command("sync")(sync)
app.command("init")(init)
app.command("show")(show)
app.add_typer(listing, name="list")
browsing.command("copy")(copy)
browsing.command("rm")(rm)
browsing.command("gc")(gc)
app.add_typer(browsing, name="runs")
app.add_typer(database, name="db")


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
    open_closed_streams()
    replace_what_encodings_lack()
    bound_width()
    log, shown = logging.getLogger("kdctl"), ShownWarnings(logging.WARNING)
    log.addHandler(shown)
    words = [_at_home(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    try:
        _refuse_empty(words)
        if stands_nowhere() and words and "--help" not in words:
            raise KdctlError(STANDS_NOWHERE.problem, STANDS_NOWHERE.hint)
        code = command_line()(args=words, standalone_mode=False)
    except KdctlError as error:
        print_mistakes(_for_this_store(error.mistakes, words))
        sys.exit(error.exit_code)
    except WRONG_USAGE as error:
        print_mistakes(in_our_words(error))
        sys.exit(UsageError.exit_code)
    except AbortedError as error:
        sys.exit(error.exit_code)
    except typer.Abort:
        say("Aborted.")
        sys.exit(1)
    except BrokenPipeError:  # nobody reads the output any more, as `| head` leaves it
        write_nowhere(sys.stdout)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the edge: nobody above us can say it better
        if said := _said_of_machine(error, words):
            print_mistakes([said])
            sys.exit(1)
        traceback.print_exc()
        problem = f"kdctl stumbled: {words_of(error)}."
        print_mistakes(
            [
                Mistake(
                    problem=problem,
                    hint="this is a bug, of kdctl or of a plug-in: the lines above say where.",
                )
            ]
        )
        sys.exit(BUG)
    finally:
        log.removeHandler(shown)
    sys.exit(code or 0)


def _for_this_store(mistakes: Sequence[Mistake], words: Sequence[str]) -> list[Mistake]:
    """Return mistakes whose hints say how the commands that they name find the store of this command."""
    given = [word.removeprefix("--runs=") for word in words if word.startswith("--runs=")]
    given += [value for option, value in itertools.pairwise(words) if option == "--runs"]
    added = elsewhere(Path(given[-1])) if given else ""
    return [
        replace(mistake, hint=f"{mistake.hint} (For this store add{added}.)")
        if added and _ABOUT_STORES.search(mistake.hint) and added not in mistake.hint
        else mistake
        for mistake in mistakes
    ]


_ABOUT_STORES = re.compile(
    r"\bkdctl (confirm|db|eval|export|list runs|plot|report|runs|sweep|sync|train|watch)\b"
)
"""Commands that look at a store, or fill one."""


def _said_of_machine(error: Exception, words: Sequence[str]) -> Mistake | None:
    """Word what is wrong with this machine or with what is installed on it; None if code is."""
    if isinstance(error, OSError) and error.errno is not None:
        values = [word.rpartition("=")[2] for word in words if not word.startswith("--") or "=" in word]
        return refusal(error, named=[value for value in values if "/" in value])
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
        name = printable(str(error.object), one_line=True)
        return Mistake(problem=f"no file can be called {name!r} here: {_NOT_UTF_8}.", hint=_SET_LOCALE)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(kdctl.__name__):
        package = error.name.partition(".")[0]
        return Mistake(
            problem=f"the Python package {package} is not installed, and kdctl needs it here.",
            hint="install kdctl again, so that pip finds what is missing.",
        )
    if package := _package_that_was_loaded(error):
        return Mistake(
            problem=f"the Python package {package} cannot be loaded: {words_of(error)}.",
            hint="unset the environment variable that it cannot read, if it names one; else reinstall it.",
        )
    return None


def _package_that_was_loaded(error: Exception) -> str:
    """Return the package, not one of ours, whose import raised an error; '' if none did."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and package not in {kdctl.__name__, "__main__"}:
            return package
    return ""


@functools.cache  # tests and pages run hundreds of commands, and to build them takes longer than many of them
def command_line() -> Any:
    """Return the application as a command, its flags without the type that help would show of them."""
    command: Any = typer.main.get_command(app)
    for verb, context in _verbs(command, typer.Context(command, info_name="kdctl")):
        for parameter in (*verb.params, verb.get_help_option(context)):
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
    return command


def _verbs(command: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    yield command, context
    for name, inner in getattr(command, "commands", {}).items():
        yield from _verbs(inner, typer.Context(inner, parent=context, info_name=name))


def _at_home(word: str) -> str:
    """Put the home folder in for the `~` of `--runs=~/runs`, which shells leave as it is behind a `=`."""
    option, _, value = word.partition("=")
    is_home = option.startswith("--") and value.startswith("~")
    return f"{option}={os.path.expanduser(value)}" if is_home else word  # noqa: PTH111 - no path is made


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse words without a letter, as unset variables of a shell leave them: `--runs ""` is no folder.

    Raises:
        UsageError: a word is empty, or an option has an empty value; or it is no text that could be stored.
    """
    before = "kdctl"
    for word in words:
        option, equals, value = word.partition("=")
        if not word.strip() or (option.startswith("--") and equals and not value.strip()):
            where = f"{option}=" if equals else f"after {before}"
            raise UsageError(f"there is an empty word: {where}.", "give it a value, or leave the option out.")
        if "\0" in word:
            raise UsageError(f"{printable(word)} has a NUL in it.", "no file or name has one: take it out.")
        if as_text(word) != word:
            if sys.getfilesystemencoding() != "utf-8":
                raise UsageError(f"{printable(word)} cannot be read: {_NOT_UTF_8}.", _SET_LOCALE)
            raise UsageError(
                f"{printable(word)} is not in UTF-8.", "rename what it names, or make a link to it: ln -s."
            )
        before = word
