"""Who trains, and how much at once: options of the verbs that hand gangs to an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli.options import MACHINE, MOST_DIGITS, number, whole_number
from kdctl.errors import UsageError

if TYPE_CHECKING:
    from kdctl.execution.executor import ExecutorConfig

LARGEST_GANG = 32


def gang_size(word: str) -> int:
    """Read the number of runs in a gang; `auto` is as many as pay."""
    from kdctl.recipe.gangs import DEFAULT_GANG_SIZE

    if word == "auto":
        return DEFAULT_GANG_SIZE
    hint = f"give a whole number from 1 to {LARGEST_GANG}, or auto: as many runs as pay."
    return whole_number("--gang", word, 1, LARGEST_GANG, hint=hint)


GangSize = Annotated[
    int,
    typer.Option(
        "--gang",
        parser=gang_size,
        metavar="auto|N",
        rich_help_panel=MACHINE,
        help="At most so many runs train together, as a gang, and share the teacher's work; auto: 8, or as "
        "many as memory holds.",
    ),
]
Slots = Annotated[
    int | None,
    number(
        "--slots",
        "Gangs that train at once: worker processes here, one for each GPU or share of the CPU (1 if not "
        "given), or jobs on a cluster (64).",
        least=1,
        most=1024,
        panel=MACHINE,
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|slurm",
        rich_help_panel=MACHINE,
        help="Who trains: this machine, or the jobs of a cluster.",
    ),
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm-option",
        metavar="KEY=VALUE",
        rich_help_panel=MACHINE,
        help="Option of sbatch: partition=gpu, time=240 (minutes), gpus_per_node=1; or gangs_per_job=4. May "
        "repeat.",
    ),
]


def chosen_executor(executor: str, slots: int | None, slurm_option: list[str] | None) -> ExecutorConfig:
    """Return who trains, by the words of --executor, --slots and --slurm-option.

    Raises:
        UsageError: there is no such executor, or it has no such options.
    """
    from kdctl import workflows

    return workflows.choose_executor(executor, slots=slots, slurm_options=slurm_options(slurm_option))


def slurm_options(words: list[str] | None) -> dict[str, object]:
    """Read `key=value` words; whole numbers and true or false are taken as such.

    Raises:
        UsageError: a word is no `key=value`.
    """
    found: dict[str, object] = {}
    for word in words or []:
        key, equals, text = (part.strip() for part in word.partition("="))
        if not (key and equals and text):
            raise UsageError(f"--slurm-option {word} is no KEY=VALUE.", "--slurm-option partition=gpu")
        known: dict[str, object] = {"true": True, "false": False}
        found[key.replace("-", "_")] = (
            int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else known.get(text, text)
        )
    return found
