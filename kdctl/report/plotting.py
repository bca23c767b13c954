"""How all figures look: colours that colour-blind readers tell apart, and line styles and markers besides.

Figures are made without pyplot: it keeps figures alive, and chooses a window system.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import textwrap
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from kdctl.errors import RecipeError
from kdctl.recipe.layers import Merged
from kdctl.recipe.load import override_layer
from kdctl.recipe.resolve import Resolver
from kdctl.registry import Entry
from kdctl.report.figure import COLOURS, DASHES, Draw, FigureData, figures
from kdctl.report.wording import words_in_common
from kdctl.text import printable

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
LINES: tuple[Any, ...] = tuple((0, dashes) if dashes else "-" for dashes in DASHES)
"""As many as have no common divisor with the colours and markers: 280 looks before one comes again."""
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "errorbar.capsize": 3,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "kdctl",
    "pdf.fonttype": 42,
}
"""Settings of matplotlib: equal data give equal files, and text in a PDF can be selected."""

DPI = 200
_POINTS_PER_LETTER = 4.5
"""Width of a letter of 8.5 points, on average, a little too wide."""
_PAIR = "\u00a0→\u00a0"
"""With spaces at which no line is folded."""
_LEGEND_HANDLE = 11
"""Letters that the line beside a name of a legend takes, with the space up to the next column."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one series of a figure is drawn, everywhere in it."""

    colour: str
    line: Any
    marker: str
    hatch: str


def looks(count: int) -> list[Look]:
    """Return so many looks, each of which differs from the others in colour or without any."""
    return [
        Look(
            colour=COLOURS[place % len(COLOURS)],
            line=LINES[place % len(LINES)],
            marker=MARKERS[place % len(MARKERS)],
            hatch=HATCHES[place % len(HATCHES)],
        )
        for place in range(count)
    ]


def new_figure(
    num_rows: int = 1, num_columns: int = 1, *, panel: tuple[float, float] = (3.4, 2.5), **settings: Any
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a grid of panels, each `panel` inches wide and high.

    Args:
        num_rows: of the grid.
        num_columns: of the grid.
        panel: width and height of one.
        **settings: for `Figure.subplots`: sharex, sharey, ...
    """
    size = (max(panel[0] * num_columns, 4.4) + 0.4, panel[1] * num_rows + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, **settings)
    return figure, [list(row) for row in panels]


def add_title(figure: Figure, title: str, *lines: str) -> None:
    """Put a title above a figure, and below it in plain letters what it is about; folded to its width."""
    letters = int(figure.get_figwidth() * 72 / _POINTS_PER_LETTER)
    folded = [part for line in (title, *lines) if line for part in _folded(line, letters)]
    figure.suptitle("\n".join(folded), fontsize=8.5)


def _folded(line: str, letters: int) -> list[str]:
    """Fold a line into as few lines as there must be, of about the same length: no single word is left."""
    line = line.replace(" → ", _PAIR)  # teacher and student stay together
    fewest = len(textwrap.wrap(line, letters))
    while letters > 1 and len(textwrap.wrap(line, letters - 1)) == fewest:
        letters -= 1
    return [part.replace(_PAIR, " → ") for part in textwrap.wrap(line, letters)]


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str = "") -> None:
    """Put a legend below all panels, where it covers no data; in as many columns as there is room for.

    Without another title, it is headed by what all labels begin with before their numbers.
    """
    if not title:
        title, labels = words_in_common(labels)
    widest = max((len(label) for label in labels), default=1) + _LEGEND_HANDLE
    columns = max(1, int(figure.get_figwidth() * 72 / (_POINTS_PER_LETTER * widest)))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * rows + (0.2 if title else 0.0))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(columns, len(labels)),
        title=title or None,
        title_fontsize=8,
        handlelength=3.2,
    )


def rendered(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a file's content: '.svg', '.pdf' or '.png'; the same figure gives the same bytes.

    Raises:
        ValueError: another suffix.
    """
    undated: Mapping[str, Mapping[str, Any]] = {
        ".svg": {"Date": None, "Creator": "kdctl"},
        ".pdf": {"CreationDate": None, "Creator": "kdctl"},
        ".png": {"Software": "kdctl"},
    }
    if suffix not in undated:
        raise ValueError(f"no figure is written as {suffix}")
    buffer = io.BytesIO()
    _make_harmless(figure)
    with mpl.rc_context(STYLE), _no_date_of_build(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a font without a letter of a name shows a box
        figure.savefig(buffer, format=suffix.removeprefix("."), dpi=DPI, metadata=dict(undated[suffix]))
    return buffer.getvalue()


@contextlib.contextmanager
def _no_date_of_build() -> Generator[None]:
    """Set a variable aside that matplotlib reads although no figure gets a date: it need not be a number."""
    date = os.environ.pop("SOURCE_DATE_EPOCH", None)
    try:
        yield
    finally:
        if date is not None:
            os.environ["SOURCE_DATE_EPOCH"] = date


def _make_harmless(figure: Figure) -> None:
    """Spell what no XML can hold, read no formula into a name, and leave room for axes beside long paths."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        said = [label.get_text() for label in axis.get_ticklabels()]
        if (shown := list(map(_harmless, said))) != said:  # an axis says anew what its ticks are called
            axis.set_ticks(axis.get_ticklocs(), shown)
    for text in figure.findobj(Text):
        if said := text.get_text():
            text.set_text(_harmless(said))
            text.set_parse_math(_OWN_FORMULA in said)  # labels of ticks are formulas


def _harmless(said: str) -> str:
    return _LONG_WORD.sub(r"\1…\2", printable(said))


_LONG_WORD = re.compile(r"(\S{10})\S{11,}(\S{20})")
"""Of which the beginning and the end are shown: the place of a data set may have hundreds of letters."""

_OWN_FORMULA = r"$\mathdefault{"


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make the x axis logarithmic, with a tick and a plain number at every value that was tried."""
    ticks = sorted(set(values))
    axes.set_xscale("log")
    axes.set_xticks(_spaced(ticks), [f"{tick:g}" for tick in _spaced(ticks)])
    axes.set_xticks([], minor=True)


def _spaced(ticks: Sequence[float]) -> list[float]:
    """Leave out ticks whose numbers would overlap: closer than a twelfth of the axis."""
    least = (ticks[-1] / ticks[0]) ** (1 / 12) if len(ticks) > 1 else 1.0
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick / kept[-1] >= least:
            kept.append(tick)
    return kept


OPTION = "--set"


def draw(kind: str, data: FigureData, settings: Sequence[str] = ()) -> Figure:
    """Return a figure of `kind`, drawn with options that words as 'top5=true' set.

    Raises:
        UsageError: there is no such kind, option or value.
        NothingToDrawError: the runs do not hold what it shows.
    """
    entry = figures.get(kind)
    options = _options(entry, settings)
    with mpl.rc_context(STYLE):
        return entry.item(data, options)


def _options(entry: Entry[Draw], settings: Sequence[str]) -> Any:
    """Read options as strictly as those of a recipe's plug-ins."""
    layer = override_layer(settings, OPTION)
    resolver = Resolver(merged=Merged(tree=dict(layer.values)), catalog={}, source=OPTION)
    resolver.mistakes.extend(layer.mistakes)
    options = resolver.record(entry.config, layer.values, entry.name)
    resolver.finish()
    if options is None:
        raise RecipeError(resolver.mistakes)
    return options
