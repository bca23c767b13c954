"""Records that only files of run folders hold."""

from __future__ import annotations

from dataclasses import dataclass

from kdctl.records import SETTLED, Artifact, Environment, RunResult, RunState, Selection
from kdctl.serialization import values_of


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
