"""Where a project keeps its runs and its data."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdctl.store.folder import RunFolder
from kdctl.store.store import Store

DATABASE = "kdctl.db"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The store, the run folders and the data of one project."""

    runs: Path
    """Folder of run folders and of the database."""
    store: Store
    data_root: Path
    """Folder below which data sets are looked for."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    num_threads: int | None = None
    """CPU threads of torch; None: its default."""

    def folder(self, key: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.runs, key)


@contextmanager
def open_workspace(
    runs: Path | str = "runs",
    data: Path | str = "data",
    *,
    device: str = "auto",
    num_threads: int | None = None,
    create: bool = True,
) -> Generator[Workspace]:
    """Open the database in `runs`, creating both unless told not to.

    Raises:
        KdctlError: the database is missing (and may not be created), not ours, or cannot be written.
    """
    folder = Path(runs)
    with Store.open(folder / DATABASE, create=create) as store:
        yield Workspace(
            runs=folder, store=store, data_root=Path(data), device=device, num_threads=num_threads
        )
