"""Where a project keeps its runs and its data."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdctl.lab.bench import Bench, TeacherCache
from kdctl.lab.data import DataLibrary
from kdctl.store.store import Store

DATABASE = "kdctl.db"


@dataclass(frozen=True, kw_only=True)
class Workspace(Bench):
    """The store, the run folders and the data of one project."""

    store: Store


@contextmanager
def open_workspace(
    runs: Path | str = "runs",
    data: DataLibrary | Path | str = "data",
    *,
    device: str = "auto",
    num_threads: int | None = None,
    graphs: Literal["auto", "on", "off"] = "auto",
    teacher_cache: TeacherCache = "auto",
    create: bool = True,
) -> Generator[Workspace]:
    """Open the database in `runs`, creating both unless told not to.

    Args:
        runs: folder of run folders and of the database.
        data: folder below which data sets are looked for, or a library that has read some already.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        num_threads: CPU threads of torch; None: its default.
        graphs: whether steps are recorded as CUDA graphs: where it can be, always (or an error), never.
        teacher_cache: whether teacher outputs are kept that come again: 'auto', 'on' or 'off'.
        create: False: the database must be there.

    Raises:
        KdctlError: the database is missing (and may not be created), not ours, or cannot be written.
    """
    folder = Path(runs)
    with Store.open(folder / DATABASE, create=create) as store:
        library = data if isinstance(data, DataLibrary) else DataLibrary(Path(data))
        yield Workspace(
            runs=folder,
            store=store,
            library=library,
            device=device,
            num_threads=num_threads,
            graphs=graphs,
            teacher_cache=teacher_cache,
        )


@contextmanager
def open_for_planning(
    runs: Path | str = "runs",
    data: Path | str = "data",
    *,
    device: str = "auto",
    num_threads: int | None = None,
    graphs: Literal["auto", "on", "off"] = "auto",
    teacher_cache: TeacherCache = "auto",
    may_fetch: bool = True,
) -> Generator[Workspace]:
    """Open a workspace to plan or to look at checkpoint files: nothing is made that is not there.

    Where there is no database yet, an empty one in a temporary folder stands in. Data that are not
    here are only downloaded if `may_fetch`.

    Raises:
        KdctlError: the database is not ours, or cannot be written.
    """
    folder = Path(runs)
    library = DataLibrary(Path(data), may_fetch=may_fetch)
    with ExitStack() as stack:
        path = folder / DATABASE
        if not path.exists():
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdctl-"))) / DATABASE
        store = stack.enter_context(Store.open(path))
        yield Workspace(
            runs=folder,
            store=store,
            library=library,
            device=device,
            num_threads=num_threads,
            graphs=graphs,
            teacher_cache=teacher_cache,
        )
