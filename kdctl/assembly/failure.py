"""What stopped a run, in words."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from kdctl.engine.device import choose_device
from kdctl.errors import KdctlError, Mistake, place_of, words_of
from kdctl.machine_errors import GOES_ON, MachineFault, fault_behind
from kdctl.records import RunState, StoredRun
from kdctl.text import as_text

TRACEBACK = "traceback.txt"
"""File in the folder of a run that an unexpected error stopped."""

_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory"),
    *("STATUS_ALLOC_FAILED", "ALLOCATION_FAILED"),
)
"""How torch words it, by device and version; and how cuBLAS and cuDNN name what they lack for themselves."""


_OF_META = ("meta tensor", "meta device", "device meta", "register_meta")
"""How torch words it; the classes of these errors are those of many others."""

_OF_GPU = ("cuda", "nvidia")
"""What torch names where a GPU is missing or a tensor is not on it; most of these errors have no class."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a gang could not go on; holds no reference to its tensors, as the exception does."""

    problem: str
    hint: str
    traceback: str = ""
    """For something that nobody foresaw; else empty."""
    out_of_memory: bool = False
    """Whether a smaller gang might go on."""
    device_lost: bool = False
    """Whether the process can compute nothing more: a GPU that failed once refuses it all further work."""
    fault: MachineFault | None = None
    """What the machine refused, if it was that: no run is to blame, and the next one would meet it too."""

    def mistake(self) -> Mistake:
        """Return what to write down."""
        return Mistake(problem=self.problem, hint=self.hint)


class RunsFailedError(KdctlError):
    """Runs that were asked for could not be trained."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        """Report all of them at once."""
        super().__init__(mistakes[0].problem, mistakes[0].hint)
        self.mistakes = mistakes
        self.args = (mistakes,)


def explain(error: BaseException, device: str) -> Failure:
    """Word an error that came up in training on `device`."""
    fault = fault_behind(error)
    if fault is not None:
        return Failure(problem=fault.problem, hint=fault.hint, fault=fault)
    if isinstance(error, KdctlError):
        return Failure(problem=error.problem, hint=error.hint)
    if is_memory(error):
        first_line = str(error).partition("\n")[0]
        return Failure(
            problem=f"out of memory on {choose_device(device)}: {first_line or type(error).__name__}",
            hint="lower data.batch_size or --gang, choose a smaller student, or use a larger device.",
            out_of_memory=True,
        )
    return Failure(
        problem=f"{brief(error)} ({place_of(error)})",
        hint=f"mend the code it names; {TRACEBACK} in the run's folder says how it came there.",
        traceback=as_text("".join(traceback.format_exception(error))),
        device_lost=isinstance(error, torch.AcceleratorError),
    )


def mistakes_of(runs: Iterable[StoredRun], failures: Mapping[str, Failure]) -> tuple[Mistake, ...]:
    """Return what is to be mended for the failed ones among `runs`, one mistake for each reason.

    Args:
        runs: of any state.
        failures: by run key, those that happened in this process; others have only their reason.
    """
    keys: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if run.state is RunState.FAILED:
            failure = failures.get(run.key)
            hint = failure.hint if failure else "mend it, then start failed runs again with --retry-failed."
            keys.setdefault((run.reason, hint), []).append(run.key)
    return tuple(
        Mistake(problem=f"{named_runs(names)} failed: {reason}", hint=hint)
        for (reason, hint), names in keys.items()
    )


def is_memory(error: BaseException) -> bool:
    """Return whether an error says that there is too little memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def asks_for_numbers(error: BaseException) -> bool:
    """Return whether an error says that a tensor on the meta device was asked for what it has not."""
    said = words_of(error).casefold()
    return any(words in said for words in _OF_META)


def asks_for_gpu(error: BaseException) -> bool:
    """Return whether an error may come from code that only runs on a GPU."""
    said = words_of(error).casefold()
    return isinstance(error, torch.AcceleratorError) or any(word in said for word in _OF_GPU)


def brief(error: BaseException) -> str:
    """Return kind and first line of an error, in letters that can be stored."""
    return as_text(words_of(error).partition("\n")[0])


def named_runs(keys: Sequence[str]) -> str:
    """Name one run, or say how many there are and name the first."""
    return f"run {keys[0]}" if len(keys) == 1 else f"{len(keys)} runs ({keys[0]}, ...)"


def failed_together(failure: Failure) -> MachineFault:
    """Say what ended a training of several processes: the others cannot go on without this one."""
    return MachineFault(problem=failure.problem, hint=failure.hint or GOES_ON)


def lost_device(failure: Failure) -> MachineFault:
    """Say that the device computes nothing more for this process, whichever run it is asked to train."""
    return MachineFault(
        problem=f"the device failed: {failure.problem}",
        hint=f"if one run brings it down again and again, --slots 2 lets the others go on; {GOES_ON}",
    )
