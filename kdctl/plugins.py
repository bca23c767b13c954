"""Plug-ins from outside: a Python file named in a recipe, or an installed package.

A plug-in registers methods, projectors, models and data sets with the same decorators as kdctl's
own files. The SHA-256 of its source becomes part of the run key of every run that uses it: of the one
file, or of all Python files of the package.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import IO, Any

from kdctl.errors import KdctlError, UsageError, words_of
from kdctl.files import is_file, read_file
from kdctl.registry import Origin, registering_from
from kdctl.working_folder import kept_working_folder

ENTRY_POINT_GROUP = "kdctl.plugins"

_LARGEST_FILE = 10_000_000
"""Bytes: what is larger is no source."""

_loaded: dict[str, Origin] = {}
"""By source: the version that is registered now."""


def load_plugin_file(path: Path) -> None:
    """Import the plug-in file `path`, unless this version of it is the one in force.

    Raises:
        UsageError: the file is missing, or importing it failed; then it has registered nothing.
    """
    hint = "check `plugins` in the recipe, or --plugin."
    try:
        path = path.resolve()
        content = read_file(path, at_most=_LARGEST_FILE)
    except FileNotFoundError as error:
        raise UsageError(f"there is no plug-in file {path}.", hint) from error
    except (OSError, RuntimeError) as error:  # a loop of links is no OSError here
        why = error.strerror if isinstance(error, OSError) else "its links go round in a circle"
        raise UsageError(f"the plug-in file {path} cannot be read: {why}.", hint) from error
    origin = Origin(source=str(path), sha256=hashlib.sha256(content).hexdigest())
    spec = importlib.util.spec_from_file_location(f"kdctl_plugin_{origin.sha256[:12]}", path)
    if spec is None:
        raise UsageError(f"the plug-in {path} is not a Python file.", "a plug-in is a .py file.")
    module = importlib.util.module_from_spec(spec)

    def run() -> None:
        sys.modules[spec.name] = module
        try:
            # Not through the loader: its bytecode cache does not see two edits within a second.
            exec(compile(content, str(path), "exec"), module.__dict__)  # what was hashed is what runs
        except BaseException:
            del sys.modules[spec.name]
            raise

    _import_once(origin, run, f"the plug-in {path}", "mend the file.")


def loaded_plugin_files() -> tuple[Path, ...]:
    """Return the plug-in files that are in force, for a worker that is to know the same."""
    return tuple(path for source in _loaded if (path := Path(source)).is_absolute())


@functools.cache
def entry_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    """Return what installed packages offer; looked up once, for it reads a file of every package."""
    return tuple(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))


def load_installed_plugins() -> None:
    """Import every installed package that offers the entry point `kdctl.plugins`.

    Raises:
        UsageError: importing one failed; then it has registered nothing.
    """
    for point in entry_points():
        what = f"the installed plug-in '{point.name}'"
        try:
            origin = Origin(source=point.value, sha256=_package_sha256(point))
        except OSError as error:
            raise UsageError(
                f"{what} cannot be read: {error.filename} ({error.strerror}).",
                "mend the package that brings it, or uninstall that.",
            ) from error
        _import_once(origin, point.load, what, "update or uninstall the package that brings it.")


def load_plugins(files: Iterable[Path] | None) -> None:
    """Import what installed packages offer, then the plug-in files that a command line names.

    Raises:
        UsageError: as `load_plugin_file`.
    """
    load_installed_plugins()
    for path in files or ():
        load_plugin_file(path)


def _import_once(origin: Origin, run: Callable[[], object], what: str, remedy: str) -> None:
    if _loaded.get(origin.source) == origin:
        return
    try:
        with registering_from(origin), _kept_process():
            run()
    except KdctlError as error:
        raise UsageError(f"{what}: {error.problem}", error.hint) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's code may raise
        raise UsageError(f"{what} failed to import: {words_of(error)}.", remedy) from error
    _loaded[origin.source] = origin


class _Messages:
    """Standard error for strangers: who closes it closes nothing."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Leave it open."""


@contextlib.contextmanager
def _kept_process() -> Generator[None]:
    """Keep what an import has no say in: the streams and the working folder.

    What is printed goes to standard error, for results are alone on standard output.
    """
    messages: Any = _Messages(sys.stderr)
    with (
        kept_working_folder(),
        contextlib.redirect_stdout(messages),
        contextlib.redirect_stderr(messages),
    ):
        yield


def _package_sha256(point: importlib.metadata.EntryPoint) -> str:
    """Return the hash of all Python files of the package an entry point names, and of its version.

    What only has such a name is left out: editors keep links that point nowhere beside what they edit.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256((point.dist.version if point.dist else "unknown").encode())
    spec = importlib.util.find_spec(point.module.partition(".")[0])  # of a top level: imports nothing
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    single = [Path(spec.origin)] if spec and spec.origin and not folders else []
    for file in [*single, *(file for folder in folders for file in sorted(folder.rglob("*.py")))]:
        if is_file(file):
            digest.update(read_file(file))
    return digest.hexdigest()
