"""Where a project keeps its runs and its data."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from kdctl.assembly.run_context import RunContext, TeacherCache
from kdctl.errors import KdctlError
from kdctl.machine_errors import require_temporary_folder
from kdctl.store.backup import is_writable
from kdctl.store.store import Store

if TYPE_CHECKING:
    from kdctl.assembly.data import DataLibrary

DATABASE = "kdctl.db"


@dataclass(frozen=True, kw_only=True)
class Workspace(RunContext):
    """The store, the run folders and the data of one project."""

    store: Store


class Execution(TypedDict, total=False):
    """How runs are computed on this machine; what is left out is as `RunContext` has it."""

    device: str
    num_threads: int | None
    num_workers: int | None
    graphs: Literal["auto", "on", "off"]
    teacher_cache: TeacherCache


@contextmanager
def open_workspace(
    runs: Path | str = "runs",
    data: DataLibrary | Path | str = "data",
    *,
    create: bool = True,
    read_only: bool = False,
    places: Mapping[str, str] | None = None,
    **execution: Unpack[Execution],
) -> Generator[Workspace]:
    """Open the database in `runs`, creating both unless told not to.

    Args:
        runs: folder of run folders and of the database.
        data: folder below which data sets are looked for, or a library that has read some already.
        create: False: the database must be there.
        read_only: nothing will be written, so that an archive, a colleague's runs or those of an older
            kdctl will do, and stay as they are.
        places: where data lie that were moved since, as `DataLibrary` takes it.
        **execution: how runs are computed here; see `Execution`.

    Raises:
        KdctlError: there is a file where a folder should be; or the database is missing (and may not
            be created), not ours, or cannot be written.
    """
    folder = _require_no_file(runs, "--runs")
    with (
        _collecting_seldom() if read_only else nullcontext(),
        Store.open(folder / DATABASE, create=create, read_only=read_only) as store,
    ):
        opened = _opens(data, places) if isinstance(data, (Path, str)) else lambda: data
        yield Workspace(runs=folder, store=store, open_library=opened, **execution)


def may_be_written(runs: Path | str) -> bool:
    """Return whether the database in `runs` can be written, as one in an archive cannot."""
    return is_writable(Path(runs) / DATABASE)


@contextmanager
def open_for_planning(
    runs: Path | str = "runs",
    data: Path | str = "data",
    *,
    may_fetch: bool = True,
    places: Mapping[str, str] | None = None,
    **execution: Unpack[Execution],
) -> Generator[Workspace]:
    """Open a workspace to plan or to look at checkpoint files: nothing is made that is not there.

    Where there is no database yet, an empty one in a temporary folder stands in. Data that are not
    here are only downloaded if `may_fetch`; `places` is as `DataLibrary` takes it.

    Raises:
        KdctlError: there is a file where a folder should be; or the database is not ours, or cannot
            be written; or temporary files have no place.
    """
    folder = _require_no_file(runs, "--runs")
    require_temporary_folder()
    opened = _opens(data, places, may_fetch=may_fetch)
    with ExitStack() as stack:
        path = folder / DATABASE
        if not path.exists():
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdctl-"))) / DATABASE
        store = stack.enter_context(Store.open(path, read_only=True, called=folder / DATABASE))
        yield Workspace(runs=folder, store=store, open_library=opened, **execution)


@contextmanager
def _collecting_seldom() -> Generator[None]:
    """Look for garbage a seventieth as often: of ten thousand runs that are read, all are kept to the end.

    A report of them takes an eighth less time.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _opens(
    data: Path | str, places: Mapping[str, str] | None, *, may_fetch: bool = True
) -> Callable[[], DataLibrary]:
    """Return what makes a library of the data below a folder.

    Raises:
        KdctlError: there is a file where the folder should be.
    """
    root = _require_no_file(data, "--data")

    def opened() -> DataLibrary:
        from kdctl.assembly.data import DataLibrary  # noqa: PLC0415 - it loads what reads images

        return DataLibrary(root, may_fetch=may_fetch, places=places)

    return opened


def _require_no_file(name: Path | str, option: str) -> Path:
    """Return the path of a folder that is there or may still be made."""
    path = Path(name)
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is not None:
        raise KdctlError(f"{option} {path}: {file} is a file, not a folder.", f"name a folder: {option}.")
    return path
