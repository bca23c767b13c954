"""What it takes to train runs: their folders, data and a device, but no database."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdctl.store.folder import RunFolder
from kdctl.workflows.data import DataLibrary
from kdctl.workflows.teacher_cache import TeacherCache, TeacherTables


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Run folders, data and device of one process. A compute node has nothing else."""

    runs: Path
    """Folder of run folders."""
    library: DataLibrary
    """The data sets."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    num_threads: int | None = None
    """CPU threads of torch; None: its default."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """Whether steps are recorded as CUDA graphs; 'on' stops with an error where they cannot be."""
    teacher_cache: TeacherCache = "auto"
    """Whether teacher outputs are kept that come again; it changes no number."""
    tables: TeacherTables = field(default_factory=TeacherTables, compare=False)
    """The outputs that are kept, for all gangs of this process."""

    def folder(self, key: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.runs, key)
