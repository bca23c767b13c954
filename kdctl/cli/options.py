"""Options that several verbs share."""

from __future__ import annotations

import enum
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdctl.errors import UsageError

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Execution

RECIPE = "What to run"
FOLDERS = "Folders and files"
MACHINE = "Where and how it is computed"
OUTPUT = "Output"
"""Headings of a verb's help, below what is the verb's own."""

MOST_DIGITS = 19
"""Of a whole number on the command line."""


def number(option: str, text: str, *, least: int, most: int | None = None, panel: str | None = None) -> Any:
    """Return an option that takes a whole number within bounds; another one is a problem with a hint.

    Args:
        option: its name, with dashes.
        text: its help.
        least: the smallest number.
        most: the largest one; no bound if not given.
        panel: the heading in a verb's help; that of its own options if not given.
    """
    bounds = f"{least} or more" if most is None else f"from {least} to {most}"

    def read(word: object) -> int:
        return whole_number(option, str(word), least, most, hint=f"give a whole number, {bounds}.")

    return typer.Option(option, parser=read, metavar="N", help=text, rich_help_panel=panel)


def whole_number(option: str, word: str, least: int, most: int | None, *, hint: str) -> int:
    """Read a whole number within bounds; see `number`.

    Raises:
        UsageError: it is none.
    """
    if word.isdecimal() and len(word) <= MOST_DIGITS and least <= int(word) <= (most or int(word)):
        return int(word)
    shown = word if len(word) <= MOST_DIGITS else f"{word[:MOST_DIGITS]}..."
    raise UsageError(f"{option} {shown} is not possible.", hint)


Runs = Annotated[
    Path,
    typer.Option(
        "--runs",
        metavar="FOLDER",
        rich_help_panel=FOLDERS,
        help="Where results lie: a folder for each run, and the database kdctl.db.",
    ),
]
DEFAULT_DATA = Path("data")


def _folder_of_data(path: Path) -> Path:
    """Refuse the name of a data set where the folder of data sets belongs, unless there is such a folder.

    Raises:
        UsageError: it is a data set's name.
    """
    if path != DEFAULT_DATA and path.parent == Path() and not path.exists():
        from kdctl.assembly.catalog import full_catalog

        if full_catalog()["dataset"].find(str(path)):
            raise UsageError(
                f"--data {path} is no folder here; a data set is called so.",
                f"say --dataset {path}, or -o data={path} for a recipe.",
            )
    return path


Data = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="FOLDER",
        rich_help_panel=FOLDERS,
        callback=_folder_of_data,
        help="Data sets are looked for below it.",
    ),
]
DEVICE_NAME = re.compile(r"auto|cpu|cuda(:\d+)?")


def device_name(word: str) -> str:
    """Read the name of a device; whether it is there shows when it is needed."""
    if DEVICE_NAME.fullmatch(word):
        return word
    gpu = "cuda is a GPU; " if word.lower().startswith("gpu") else ""
    raise UsageError(f"'{word}' is not a device.", f"{gpu}use auto, cpu, cuda or cuda:0.")


Device = Annotated[
    str,
    typer.Option(
        "--device",
        parser=device_name,
        metavar="DEVICE",
        rich_help_panel=MACHINE,
        help="What computes: auto (a GPU, if there is one), cpu, cuda or cuda:N.",
    ),
]
Threads = Annotated[
    int | None,
    number(
        "--threads",
        "CPU threads of torch; as many as torch chooses if not given. Another number may round differently.",
        least=1,
        most=1024,
        panel=MACHINE,
    ),
]
Workers = Annotated[
    int | None,
    number(
        "--workers",
        "Processes that decode images which do not lie in memory; as many as threads if not given, 0 for "
        "none. No number depends on it.",
        least=0,
        most=1024,
        panel=MACHINE,
    ),
]
Graphs = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--graphs",
        rich_help_panel=MACHINE,
        help="Replay training steps as CUDA graphs: auto where that is possible; on stops where it is not.",
    ),
]
TeacherCache = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        rich_help_panel=MACHINE,
        help="Keep a teacher's outputs in memory where the same images come again; changes no result.",
    ),
]


def execution(
    device: str,
    threads: int | None,
    workers: int | None,
    graphs: Graphs = "auto",
    teacher_cache: TeacherCache = "auto",
) -> Execution:
    """Return how runs are computed, as a command line says it; what a verb has no option for is auto."""
    return {
        "device": device,
        "num_threads": threads,
        "num_workers": workers,
        "graphs": graphs,
        "teacher_cache": teacher_cache,
    }


Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        rich_help_panel=RECIPE,
        help="Set a field of the recipe: -o method.temperature=2; may repeat.",
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        rich_help_panel=FOLDERS,
        help="Python file with methods, models, figures or other plug-ins of your own; may repeat.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="No progress; errors only.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=OUTPUT, help="Show what would run, and stop.")
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


OutputFormat = Annotated[
    Format, typer.Option("--format", rich_help_panel=OUTPUT, help="How the result is printed.")
]
OutputListFormat = Annotated[
    ListFormat, typer.Option("--format", rich_help_panel=OUTPUT, help="How the list is printed.")
]


def table_formats() -> str:
    """Name the table formats that come with kdctl; each is a file of that name."""
    folder = Path(__file__).parents[1] / "report" / "formats"
    return ", ".join(sorted(file.stem for file in folder.glob("[!_]*.py")))


TableFormat = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        rich_help_panel=OUTPUT,
        help=f"{table_formats()}; or one that a plug-in registers.",
    ),
]
OutputFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=OUTPUT,
        help="Write to this file instead of printing.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", rich_help_panel=OUTPUT, help="Write over a file that is there already.")
]
JsonEvents = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=OUTPUT,
        help="For programs: say what happens, while it happens, in lines of JSON on stdout.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

DEFAULT_RUNS = Path("runs")


def elsewhere(runs: Path, data: Path = DEFAULT_DATA) -> str:
    """Return the options by which a suggested command finds the same folders; none where they are usual."""
    usual = {"--runs": (runs, DEFAULT_RUNS), "--data": (data, DEFAULT_DATA)}
    named = (
        f" {option} {shlex.quote(str(path))}" for option, (path, default) in usual.items() if path != default
    )
    return "".join(named)
