"""What a figure is made of, and what a figure must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdctl.errors import KdctlError
from kdctl.evaluation_records import Evaluation
from kdctl.records import EpochResult, Selection, StoredRun
from kdctl.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".pdf", ".png")
"""The kinds of files that a figure can be written to."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of figures and of the curves of the page: Okabe and Ito's, 'Color Universal Design', 2008, without the
yellow that white paper swallows."""

DASHES = ((), (3.7, 1.6), (6.4, 1.6, 1, 1.6), (1, 1.65), (5, 1, 1, 1, 1, 1))
"""The same for lines: lengths of ink and of gaps in turns, in widths of the line; the first is solid."""


class NothingToDrawError(KdctlError):
    """The runs do not hold what a figure shows; not a fault when all figures are asked for."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What models make of the images of a split before they decide."""

    labels: npt.NDArray[np.int64]
    """[N]."""
    class_names: tuple[str, ...]
    vectors: Mapping[str, npt.NDArray[np.float32]]
    """By model, 'student' and 'teacher': [N, D], each with a D of its own."""


@dataclass(frozen=True, kw_only=True)
class FigureData:
    """The runs that a figure is about; what is large is read when a figure asks for it."""

    runs: tuple[StoredRun, ...]
    """In the order in which they were planned; without those that only taught others."""
    teachers: tuple[StoredRun, ...]
    """Runs that taught those."""
    select: Selection
    """Which epoch's numbers count."""
    totals: Mapping[str, int]
    """Number of classes of data sets, where it is known."""
    epochs: Callable[[str], Sequence[EpochResult]]
    """Reads the epochs of a run, by its key."""
    evaluations: Callable[[str], Sequence[Evaluation]]
    """Reads what `kdctl eval` found of a run, by its key."""
    sweeps: tuple[str, ...] = ()
    """Names of the sweeps that the runs were taken from; empty where all runs of the store are looked at."""
    pictures: Callable[[str], Mapping[int, Path]] = field(default=lambda key: {})
    """Finds the pictures of images that a run's method made, by its key: files by epoch."""
    features: Callable[[str], Features] | None = None
    """Computes the features of a run's models, by its key; None where nothing may be computed."""


Draw = Callable[[FigureData, Any], "Figure"]
"""Draws runs, given the figure's options; raises `NothingToDrawError` where there is nothing to show."""

figures: Registry[Draw] = Registry("figure", "kdctl.report.figures")
"""Functions that draw what a store holds. Looking one up imports matplotlib."""
