"""How numbers and rows are worded in captions, cells and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdctl.records import Selection
from kdctl.report.fields import read_field, show_value
from kdctl.report.replicates import Value
from kdctl.report.statistics import SIGNIFICANCE, Spread, Summary, Verdict, spread_of
from kdctl.text import plural

NOTHING = "—"
SELECTION_WORDS = {
    Selection.LAST: "last epoch",
    Selection.BEST_VAL: "best validation epoch",
    Selection.BEST_TEST: "best test epoch (oracle: selected on the test set)",
}
SPREAD_WORDS = {
    Spread.SAMPLE: "sample std (n − 1)",
    Spread.POPULATION: "population std (n)",
    Spread.SEM: "standard error of the mean",
    Spread.CI95: "half the 95 % confidence interval (Student's t)",
}

UNDECIDED_WORDS = "Undecided does not mean equal: more seeds may show a difference."
MORE_SEEDS_WORDS = (
    "After a + stands how many more seeds on both sides would show a difference of this size four times "
    "in five, if it is real."
)

_DECIMALS = 6


def mean_and_spread(summary: Summary | None, kind: Spread = Spread.SAMPLE, *, decimals: int = 2) -> str:
    """Word replicates: '75.05 ± 0.34', and '75.05 ± —' for a single run."""
    if summary is None:
        return NOTHING
    spread = spread_of(summary, kind)
    return f"{summary.mean:.{decimals}f} ± {NOTHING if spread is None else f'{spread:.{decimals}f}'}"


def duration(seconds: float) -> str:
    """Word a time: '12 s', '3.4 min', '1.5 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def signed(difference: float) -> str:
    """Word a difference with its sign: '+1.23', '−0.12'."""
    return f"{difference:+.2f}".replace("-", "−")


def verdict_words(verdict: Verdict, p: float, more_seeds: int | None = None) -> str:
    """Word a test: 'better (p = 0.003)', 'undecided (p = 0.24; +6 seeds)'.

    A p-value has as many digits as show on which side of 5 % it is: 'better (p = 0.0496)'.
    """
    digits = 3
    while p < SIGNIFICANCE <= float(f"{p:.{digits}f}"):
        digits += 1
    words = "p < 0.001" if p < 0.001 else f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.{digits}f}"
    return f"{verdict} ({words}; +{plural(more_seeds, 'seed')})" if more_seeds else f"{verdict} ({words})"


def rounded(number: float | None) -> float | None:
    """Round a raw number far below one test image, so that equal runs give equal files everywhere."""
    return None if number is None else round(number, _DECIMALS)


def title(name: str) -> str:
    """Word a field's short name for a column's head."""
    return name.replace("_", " ").replace(".", " ")


def label(values: Sequence[Value], fields: Sequence[str], names: Sequence[str]) -> str:
    """Name a row: 'simkd, learning rate 0.05'; what it does not have is left out."""
    known = [
        (value, *named) for value, *named in zip(values, fields, names, strict=True) if value is not None
    ]
    if not known and values:
        known = list(zip(values, fields, names, strict=True))
    return ", ".join(setting(*item) for item in known) or "all runs"


def settings_of(plan: Mapping[str, Any], fields: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Word those of `fields` that a plan has, by their short `names`: ['simkd', 'learning rate 0.05']."""
    values = ((field, read_field(plan, field)) for field in fields)
    return [setting(value, field, names[field]) for field, value in values if value is not None]


def setting(value: Value, field: str, name: str) -> str:
    """Word one setting: what has a name needs no field before it."""
    if field == "teachers" and value is None:
        return "no teacher"
    speaks_for_itself = value is not None and (field.endswith(".name") or field in {"teachers", "protocol"})
    return show_value(value) if speaks_for_itself else f"{title(name)} {show_value(value)}"


def counts_words(counts: Iterable[int]) -> str:
    """Word over how many runs means go: 'n = 3', or 'n = 3 to 5'."""
    known = set(counts)
    fewest, most = min(known), max(known)
    return f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"


def words_in_common(labels: Sequence[str]) -> tuple[str, list[str]]:
    """Return what stands before the numbers of labels, if it is the same, and the numbers alone.

    ('learning rate 0.05', 'learning rate 0.1') are 'learning rate' and ['0.05', '0.1']. Other labels stay as
    they are, with nothing before them.
    """
    parts = [label.rpartition(" ") for label in labels]
    if len(labels) < 2 or len({words for words, _, _ in parts}) > 1 or not all(map(_is_number, parts)):
        return "", list(labels)
    return parts[0][0], [number for _, _, number in parts]


def _is_number(parts: tuple[str, str, str]) -> bool:
    try:
        float(parts[2])
    except ValueError:
        return False
    return bool(parts[0])


def enumerated(words: Sequence[str]) -> str:
    """Return 'a, b and c'."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def and_more(labels: Sequence[str], most: int = 2, mark: str = ",") -> str:
    """Name the first labels, with a mark between them, and say how many more there are."""
    more = f"{'' if mark == ',' else mark} and {len(labels) - most} more" if len(labels) > most else ""
    return f"{mark} ".join(labels[:most]) + more
