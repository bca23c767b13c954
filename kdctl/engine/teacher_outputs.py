"""Which outputs of frozen teachers are read, and rows of them kept in their memory layout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdctl.protocols.backbone import Outputs

RunTeachers = Callable[[Tensor], tuple[Outputs, ...]]
"""Runs all teachers on images [B, 3, H, W], as far as the reads go."""

OutputName = tuple[int, str]
"""A teacher and one of its outputs: a tap, or `LOGITS`."""

LOGITS = ""
"""Stands for the logits among the names of taps."""


@dataclass(frozen=True, kw_only=True)
class TeacherReads:
    """What is read of one teacher."""

    taps: tuple[str, ...]
    logits: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the taps, and that of the logits if they are read."""
        return (*self.taps, LOGITS) if self.logits else self.taps


class KeptRows:
    """Rows of one output of a teacher, kept in the precision and memory layout in which it comes."""

    def __init__(self, example: Tensor, capacity: int) -> None:
        """Make room for `capacity` rows like those of `example` [B, ...]."""
        self._last = is_channels_last(example)
        row = example[0].permute(1, 2, 0) if self._last else example[0]
        with _uninitialised():
            self._values = torch.empty((capacity, *row.shape), dtype=row.dtype, device=row.device)
        self.row_bytes = row.numel() * row.element_size()

    def __len__(self) -> int:
        return len(self._values)

    def write(self, first: int, rows: Tensor) -> None:
        """Put `rows` [B, ...] from row `first` on."""
        self._values[first : first + len(rows)] = rows.permute(0, 2, 3, 1) if self._last else rows

    def read(self, places: Tensor) -> Tensor:
        """Return a copy of the rows at `places` [B], int64: [B, ...]."""
        rows = self._values[places]
        return rows.permute(0, 3, 1, 2) if self._last else rows


def outputs_of(reads: Sequence[TeacherReads]) -> Iterator[OutputName]:
    """Yield the name of each output that is read."""
    return ((teacher, name) for teacher, wanted in enumerate(reads) for name in wanted.names)


def pick(outputs: Sequence[Outputs], place: OutputName) -> Tensor:
    """Return one output of one teacher: [B, ...]."""
    teacher, name = place
    return outputs[teacher].taps[name] if name else outputs[teacher].require_logits()


def gather_outputs(
    reads: Sequence[TeacherReads], read: Callable[[OutputName], Tensor]
) -> tuple[Outputs, ...]:
    """Return the outputs that are read, each as `read` returns it."""
    return tuple(
        Outputs(
            logits=read((teacher, LOGITS)) if wanted.logits else None,
            taps={tap: read((teacher, tap)) for tap in wanted.taps},
        )
        for teacher, wanted in enumerate(reads)
    )


def is_channels_last(features: Tensor) -> bool:
    """Say whether a map lies channels last, and in that way only."""
    return (
        features.dim() == 4 and not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()
    )


@contextmanager
def _uninitialised() -> Generator[None]:
    """Keep `torch.empty` from writing to its memory, as it does in the deterministic mode.

    A system gives a process memory when it is first written to. So a large table that stays half empty takes
    half of its memory.
    """
    switches: Any = torch.utils.deterministic
    before = switches.fill_uninitialized_memory
    switches.fill_uninitialized_memory = False
    try:
        yield
    finally:
        switches.fill_uninitialized_memory = before
