"""Options that several verbs share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kdctl.errors import UsageError


def number(option: str, text: str, *, least: int, most: int | None = None) -> Any:
    """Return an option that takes a whole number within bounds; another one is a problem with a hint.

    Args:
        option: its name, with dashes.
        text: its help.
        least: the smallest number.
        most: the largest one; no bound if not given.
    """
    bounds = f"{least} or more" if most is None else f"from {least} to {most}"

    def read(word: object) -> int:
        digits = str(word)
        if digits.isdecimal() and least <= int(digits) <= (most or int(digits)):
            return int(digits)
        raise UsageError(f"{option} {word} is not possible.", f"give a whole number, {bounds}.")

    return typer.Option(option, parser=read, metavar="N", help=text)


Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders and of the database kdctl.db.")]
Data = Annotated[Path, typer.Option("--data", help="Folder below which data sets are looked for.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[
    int | None, number("--threads", "CPU threads of torch; its own default if not given.", least=1)
]
Graphs = Annotated[
    Literal["auto", "on", "off"],
    typer.Option("--graphs", help="Record steps as CUDA graphs: where it can be, always (or fail), never."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", metavar="KEY=VALUE", help="Set a recipe field: -o method.temperature=2"),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers methods, projectors, models or data sets."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; errors only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run, and stop.")]


LARGEST_GANG = 32


def gang_size(word: str) -> int:
    """Read the number of runs in a gang; `auto` is as many as pay."""
    from kdctl.recipe.gangs import DEFAULT_GANG_SIZE

    if word == "auto":
        return DEFAULT_GANG_SIZE
    if not word.isdecimal() or not 1 <= int(word) <= LARGEST_GANG:
        raise UsageError(
            f"--gang {word} is not possible.",
            f"give a whole number from 1 to {LARGEST_GANG}, or auto: as many runs as pay.",
        )
    return int(word)


GangSize = Annotated[
    int,
    typer.Option(
        "--gang",
        parser=gang_size,
        metavar="auto|N",
        help="Runs that train in lockstep and share the teacher, at most; auto: 8, or what memory holds.",
    ),
]
TeacherCache = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(help="Keep teacher outputs in memory that come again; changes no number."),
]

Slots = Annotated[
    int | None,
    number(
        "--slots",
        "Gangs that train at once: locally one worker process for each GPU, or for each share of the "
        "CPU; on a cluster jobs.",
        least=1,
    ),
]
Executor = Annotated[str, typer.Option("--executor", help="Where gangs train: local or slurm.")]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm-option",
        metavar="KEY=VALUE",
        help="Option of sbatch: partition=gpu, time=240 (minutes), gpus_per_node=1; or gangs_per_job=4.",
    ),
]


class Format(enum.StrEnum):
    """How a result is printed."""

    TEXT = "text"
    JSON = "json"


class ListFormat(enum.StrEnum):
    """How a list is printed."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


OutputFormat = Annotated[Format, typer.Option("--format", help="How the result is printed.")]
OutputListFormat = Annotated[ListFormat, typer.Option("--format", help="How the list is printed.")]
JsonEvents = Annotated[
    bool, typer.Option("--json", help="Say what happens as JSON lines on stdout, instead of progress.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

DEFAULT_RUNS = Path("runs")
DEFAULT_DATA = Path("data")


def slurm_options(words: list[str] | None) -> dict[str, object]:
    """Read `key=value` words; whole numbers and true or false are taken as such.

    Raises:
        UsageError: a word is no `key=value`.
    """
    found: dict[str, object] = {}
    for word in words or []:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--slurm-option {word} is no KEY=VALUE.", "--slurm-option partition=gpu")
        text = value.strip()
        known: dict[str, object] = {"true": True, "false": False}
        found[key.strip().replace("-", "_")] = int(text) if text.isdecimal() else known.get(text, text)
    return found
