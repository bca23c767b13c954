"""Options of `sbatch` as a command line or a program gives them; what cannot be one is refused at once."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kdctl.errors import KdctlError, UsageError
from kdctl.text import printable

TIME = "time"
"""How long a job may take: the one option that is needed."""

TASKS = ("ntasks", "nodes", "ntasks_per_node")
"""What tells how many tasks a job has."""

_OURS = frozenset(
    {
        *("additional_parameters", "array", "no_requeue", "parsable"),
        *("requeue", "signal", "test_only", "wait", "wrap"),
    }
)
"""What kdctl says of its jobs. Otherwise jobs start twice, lose what they save, or hide their numbers."""

_LISTS = frozenset({"setup", "teardown", "srun_args"})
"""Of submitit, not of `sbatch`: a text would be taken letter by letter."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}|infinite|unlimited", re.IGNORECASE)


def require_options(options: Mapping[str, object]) -> None:
    """Make sure that these are options that a job can be submitted with, as far as kdctl knows.

    Raises:
        UsageError: one is not.
    """
    for name in TASKS:
        whole_number(name, options.get(name, 1))
    for name, value in options.items():
        given = f"--slurm-option {printable(f'{name}={value}', one_line=True)}"
        if not _NAME.fullmatch(name):
            raise UsageError(f"{given} names no option of sbatch.", "write it as in cpus_per_task=4.")
        if any(not letter.isprintable() for letter in str(value)):
            raise UsageError(
                f"{given} has a line break, or what else is not shown, in it.", "leave that out."
            )
        if name in _OURS:
            raise UsageError(f"{given}: kdctl itself says this of its jobs.", "leave it out.")
        if name in _LISTS and isinstance(value, str):
            raise UsageError(
                f"{given} is no option of sbatch, but a list of submitit's.",
                f"from Python: choose_executor('slurm', slurm_options={{'{name}': [...]}}).",
            )
        if name == TIME and not _TIME.fullmatch(str(value)):
            raise UsageError(
                f"{given} is no time.", "give minutes, time=240, or as SLURM has it: 4:00:00, 1-12:00:00."
            )


def require_time(options: Mapping[str, object]) -> None:
    """Make sure that somebody said how long a job may take.

    Raises:
        KdctlError: nobody did.
    """
    if TIME not in options:
        raise KdctlError(
            "a job of a cluster needs a time limit.",
            "--slurm-option time=MINUTES; a run that needs longer goes on in another job.",
        )


def num_tasks(options: Mapping[str, object]) -> int:
    """Return how many tasks each job has."""
    total, nodes, each = (whole_number(name, options.get(name, 1)) for name in TASKS)
    return total if "ntasks" in options else nodes * each


def whole_number(name: str, value: object) -> int:
    """Return an option that is a number of nodes, tasks or gangs.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(
            f"--slurm-option {name}={value} is no whole number above 0.", f"--slurm-option {name}=2"
        )
    return value
