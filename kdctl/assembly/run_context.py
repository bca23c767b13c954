"""What runs are trained with on this machine: run folders, data and a device, but no database."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdctl.store.folder import RunFolder
from kdctl.working_folder import WorkingFolder, return_to, standing_in

if TYPE_CHECKING:
    from kdctl.assembly.data import DataLibrary
    from kdctl.engine.teacher_table import TeacherTable

TeacherCache = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Run folders, data and device of one process; a compute node has nothing else."""

    runs: Path
    """Folder of run folders."""
    open_library: Callable[[], DataLibrary] = field(compare=False)
    """Makes the library: what only looks at the store loads nothing that reads images."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    num_threads: int | None = None
    """CPU threads of torch; None: its default."""
    num_workers: int | None = None
    """Processes that decode images which do not lie in memory; None: as many as threads. No number depends
    on it."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """Whether steps are recorded as CUDA graphs; 'on' stops with an error where they cannot be."""
    teacher_cache: TeacherCache = "auto"
    """Whether teacher outputs are kept that come again; it changes no number."""
    tables: dict[str, TeacherTable] = field(default_factory=dict["str", "TeacherTable"], compare=False)
    """The outputs that are kept for all gangs of this process, by what decides them."""

    _working_folder: WorkingFolder | None = field(default_factory=standing_in, compare=False, repr=False)
    """What relative paths begin in."""

    @functools.cached_property
    def library(self) -> DataLibrary:
        """The data sets."""
        return self.open_library()

    def folder(self, key: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.runs, key)

    def restore_working_folder(self) -> None:
        """Go back to where relative paths begin: a plug-in's code may have gone elsewhere."""
        return_to(self._working_folder)
