"""What kdctl says when something is wrong: a problem, and a hint that is an action."""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One thing to mend: the problem names file, key and value; the hint says what to do."""

    problem: str
    hint: str


class KdctlError(Exception):
    """An expected failure that its reader can mend.

    The command line prints it as `error:` and `hint:` lines and exits with `exit_code`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem, hint)
        self.mistakes: tuple[Mistake, ...] = (Mistake(problem=problem, hint=hint),)

    @property
    def problem(self) -> str:
        """What is wrong, all mistakes joined."""
        return "\n".join(mistake.problem for mistake in self.mistakes)

    @property
    def hint(self) -> str:
        """What to do about it, all mistakes joined."""
        return "\n".join(mistake.hint for mistake in self.mistakes)

    def __str__(self) -> str:
        return self.problem


class UsageError(KdctlError):
    """A command line or a name that cannot be understood."""

    exit_code: ClassVar[int] = 2


class SeveralError(KdctlError):
    """What went wrong in more than one place, told at once."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes[0].problem, mistakes[0].hint)
        self.mistakes = tuple(dict.fromkeys(mistakes))
        self.args = (self.mistakes,)  # what unpickling calls the class with


class RecipeError(SeveralError, UsageError):
    """Everything that is wrong with a recipe, reported at once."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        if not mistakes:
            raise ValueError("a recipe without mistakes is no error")
        super().__init__(mistakes)


class AbortedError(BaseException):
    """Somebody will not wait for the running step; no `Exception`, for it is nobody's failure."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class StoppedError(BaseException):
    """Somebody asked to stop before the first step; no `Exception`, for it is nobody's failure."""


ANY_FAILURE = (Exception, SystemExit, GeneratorExit)
"""What code of others may raise: `sys.exit` in a plug-in must not end what goes on around it."""


def words_of(error: BaseException) -> str:
    """Return the kind of an error and what it says; that of a stranger's code may fail to say anything."""
    try:
        said = str(error)
    except Exception as failure:  # noqa: BLE001 - its own code words it
        said = f"it cannot be worded ({type(failure).__name__})"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


_OURS = Path(__file__).parent


def place_of(error: BaseException) -> str:
    """Return file and line of the innermost code that is no library's: kdctl's, or a plug-in's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(Path(frame.filename))]
    last = (own or frames)[-1]
    return f"{last.filename}, line {last.lineno}"


def _is_own(file: Path) -> bool:
    libraries = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))
    return _OURS in file.parents or not any(folder in file.parents for folder in libraries)


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like `name`, if any comes close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


_MOST_LISTED = 20
"""Names that a hint lists beside the nearest one; where there are more, a verb lists them."""

_LISTED = frozenset({"methods", "models", "recipes"})
"""Kinds of which there are many: what `kdctl list` shows."""


_MOST_NAMES = 100
"""More fill a screen: only those alike are listed."""

_SIMILAR = 6


def suggestion(name: str, known: Iterable[str], plural: str) -> str:
    """Word the hint for an unknown name: the nearest one, then all of them or where to see them."""
    names = sorted(known)
    near = nearest_name(name, names)
    if near and len(names) > _MOST_LISTED and plural.lower() in _LISTED:
        return f"did you mean '{near}'? All {len(names)}: kdctl list {plural.lower()}."
    if len(names) > _MOST_NAMES:
        by_folded = {each.casefold(): each for each in names}
        close = difflib.get_close_matches(name.casefold(), by_folded, n=_SIMILAR, cutoff=0.4)
        alike = [by_folded[folded] for folded in close]
        which = "those alike" if alike else "none is alike; the first"
        return f"{plural}, of {len(names):,} {which}: {', '.join(alike or names[:_SIMILAR])}."
    listing = f"{plural}: {', '.join(names)}." if names else f"There are no {plural.lower()}."
    return f"did you mean '{near}'? {listing}" if near else listing
