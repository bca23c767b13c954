"""The files of a run folder, `runs/<key>/`, and the records that only they hold.

Beside them lie checkpoints, `*.pt`, which the engine writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kdctl.records import SETTLED, Artifact, Environment, RunResult, RunState, Selection
from kdctl.serialization import values_of

TRAIN_AGAIN = "restore the file from a copy, or remove the run and train it again: `kdctl runs rm {}`."
"""What to do about a file of a run that is not what the run wrote, given its key."""


class RecordFile(StrEnum):
    """Names of the files that hold records."""

    PLAN = "plan.json"
    """What runs."""
    ENVIRONMENT = "environment.json"
    """Where and with what it was computed."""
    EPOCHS = "epochs.jsonl"
    """One line for each epoch."""
    HOLDER = "holder.json"
    """Who works on it, and until when; only while somebody does."""
    RESULT = "result.json"
    """How it ended, and the files it left behind."""
    FAILURE = "failure.json"
    """What stopped it, if it failed."""
    DROPPED = "dropped.json"
    """Why a sweep dropped it, until somebody starts it after all."""
    EVALUATIONS = "evaluations.jsonl"
    """Later looks at its model."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What `result.json` holds: one file, so that a run ends in one instant."""

    result: RunResult
    artifacts: tuple[Artifact, ...]
    run: str = ""
    """Key of the run; empty in what earlier versions wrote."""
    epochs_sha256: str = ""
    """Of the lines of its epochs.jsonl; empty in what earlier versions wrote."""

    def __post_init__(self) -> None:
        """Refuse what no run ends with.

        Raises:
            ValueError: the state is no end, a finished run has no last epoch, or a file's name is a path.
        """
        state, selected = self.result.state, self.result.selected
        if state not in SETTLED | {RunState.FAILED}:
            raise ValueError(f"a run does not end as {state.value}")
        if state is RunState.FINISHED and Selection.LAST.value not in selected:
            raise ValueError("a finished run has a last epoch")
        for name in (artifact.name for artifact in self.artifacts):
            if name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
                raise ValueError(f"{name!r} is no name of a file in the folder")


@dataclass(frozen=True, kw_only=True)
class Whereabouts(Environment):
    """What `environment.json` holds."""

    run: str = ""
    """Key of the run; empty in what earlier versions wrote."""

    @classmethod
    def of(cls, environment: Environment, *, run: str) -> Whereabouts:
        """Return what is written of the environment of a run."""
        return cls(**values_of(environment, Environment), run=run)

    def environment(self) -> Environment:
        """Return it without the run."""
        return Environment(**values_of(self, Environment))


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What `dropped.json` holds."""

    reason: str
