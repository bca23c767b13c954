"""Errors of the machine, told from mistakes: a full disk is no run's fault.

Whoever meets it stops in good order. What was saved is good, and once the machine is mended the same
command goes on.
"""

from __future__ import annotations

import errno
import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kdctl.errors import KdctlError, Mistake, SeveralError, place_of

_Result = TypeVar("_Result")

GOES_ON = "the same command goes on."


def _numbers(*names: str) -> frozenset[int]:
    """Return the error numbers that this system has."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


_NO_ROOM = _numbers("ENOSPC", "EDQUOT", "EFBIG")
"""The disk, a quota or a limit is used up."""

_OF_CODE = _numbers(
    "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY", "EINVAL", "EBADF", "ESPIPE", "EPIPE"
)
"""Code that is wrong gets these answers from a sound machine, too."""

_DISK_GONE = _numbers("EIO", "EROFS", "ESTALE", "ENODEV", "ENXIO", "ENOTCONN", "ESHUTDOWN", "EHOSTDOWN")
"""A device fails, was unplugged or became read-only, or the server of a network disk is away."""


@dataclass(frozen=True, kw_only=True)
class MachineFault:
    """What the machine refused."""

    problem: str
    hint: str
    path: str = ""
    """The file it is about; empty if it is not about one."""
    needs_room: bool = False
    """Whether free space would mend it."""


class MachineError(KdctlError):
    """The machine refuses what it granted before."""

    def __init__(self, fault: MachineFault) -> None:
        super().__init__(fault.problem, fault.hint)
        self.fault = fault
        self.args = (fault,)  # what unpickling calls the class with


def how_it_ended(code: int) -> str:
    """Word the exit code of a process that ended before it should have; below 0 it is a signal's."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal: only the first and the last of them have names
        return f"was killed by signal {-code}"


def unwritable(path: Path, error: OSError) -> MachineError:
    """Say why a file of kdctl's could not be written; there was a time when it could."""
    return MachineError(_refused(str(path), error, "written"))


def refusal(error: OSError, *, named: Sequence[str] = ()) -> Mistake:
    """Word what the system refused, where nothing more is known than its error.

    Args:
        error: its answer.
        named: words in which somebody may have named the place.
    """
    if not error.filename and stands_nowhere():
        return STANDS_NOWHERE
    if _lacks_temporary_folder(error):
        return Mistake(problem=_NO_TEMPORARY_FOLDER.problem, hint=_NO_TEMPORARY_FOLDER.hint)
    place = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = f"{place} cannot be used" if place else "a file or the output cannot be used"
    allowed = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    action = "allow it" if allowed else "free disk space" if error.errno in _NO_ROOM else "mend it"
    hint = f"{action}, or name another place."
    is_named = bool(place) and any(word and word in place for word in named)
    if error.errno in _OF_CODE and error.__traceback__ is not None and not is_named:
        hint += f" If nobody named it, this is a bug: {place_of(error)}."
    return Mistake(problem=f"{what}: {error.strerror}.", hint=hint)


STANDS_NOWHERE = Mistake(problem="the folder you stand in is gone.", hint="change to another one: cd.")


_NO_TEMPORARY_FOLDER = MachineFault(
    problem="no folder for temporary files can be written, neither /tmp nor what TMPDIR names.",
    hint=f"free disk space, or set TMPDIR to a folder that can be written; {GOES_ON}",
)


def require_temporary_folder() -> None:
    """Make sure that there is a place for temporary files, before libraries that need one are half loaded.

    Raises:
        MachineError: there is none, as on a full disk.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise MachineError(_NO_TEMPORARY_FOLDER) from error


def _lacks_temporary_folder(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error)


def stands_nowhere() -> bool:
    """Return whether the working folder was removed; libraries that are loaded then may end the process."""
    try:
        Path.cwd()
    except OSError:
        return True
    return False


def fault_behind(error: BaseException) -> MachineFault | None:
    """Return the fault of the machine that an error, or what caused it, comes from; None if it does not."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MachineError):
            return cause.fault
        if _lacks_temporary_folder(cause):
            return _NO_TEMPORARY_FOLDER
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM | _DISK_GONE:
            return _refused(str(cause.filename or ""), cause, "used")
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def as_machine_errors() -> Generator[None]:
    """Turn what the system says about a fault of the machine into `MachineError`; let all else pass."""
    try:
        yield
    except MachineError:
        raise
    except Exception as error:
        fault = fault_behind(error)
        if fault is None:
            raise
        raise MachineError(fault) from error


@contextmanager
def noted(mistakes: list[Mistake], *, raised_of: str = "") -> Generator[None]:
    """Add what is wrong with one of several things to `mistakes`, so that the others have their turn.

    Args:
        mistakes: all so far.
        raised_of: a fault of the machine is raised only if it is about this file; empty: each is.
    """
    try:
        yield
    except KdctlError as error:
        if isinstance(error, MachineError) and raised_of in ("", error.fault.path):
            raise
        mistakes.extend(error.mistakes)


def results_of(*steps: Callable[[], _Result]) -> list[_Result]:
    """Return what each of some steps gives; all are done, and what is wrong with any is told at the end.

    Raises:
        MachineError: at once; it is no fault of what the steps read.
        KdctlError: some of them failed.
    """
    results: list[_Result] = []
    failures: list[KdctlError] = []
    for step in steps:
        try:
            results.append(step())
        except MachineError:
            raise
        except KdctlError as error:
            failures.append(error)
    if len(failures) > 1:
        raise SeveralError([mistake for error in failures for mistake in error.mistakes])
    if failures:
        raise failures[0]
    return results


_MEND = "mend the disk or its permissions"


def _refused(path: str, error: OSError, done: str) -> MachineFault:
    needs_room = error.errno in _NO_ROOM
    in_the_way = error.errno in (errno.EEXIST, errno.ENOTDIR)
    otherwise = "move the file away that lies where a folder should be" if in_the_way else _MEND
    action = "free disk space" if needs_room else otherwise
    return MachineFault(
        problem=f"{path or 'a file'} cannot be {done} ({error.strerror or error}).",
        hint=f"{action}; {GOES_ON}",
        path=path,
        needs_room=needs_room,
    )
