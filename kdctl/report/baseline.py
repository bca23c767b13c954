"""The student without a teacher: which rows are compared with which baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kdctl.recipe.engine_options import OF_TEACHERS
from kdctl.report.fields import flatten, read_field
from kdctl.report.moderated import moderated_tests
from kdctl.report.replicates import Replicates
from kdctl.report.statistics import (
    MeanTest,
    MeanTestKind,
    Summary,
    Verdict,
    holm,
    more_seeds,
    verdict,
    welch,
)
from kdctl.report.subject import SUBJECT_FIELDS
from kdctl.serialization import canonical_json

BASELINE_METHOD = "ce"

_TASK_FIELDS = (*SUBJECT_FIELDS, "data_fingerprint")
_IDENTITY_FIELDS = ("method.name", "teachers", "student.name", *_TASK_FIELDS)
"""A row that pools several values of one of these is compared with nothing: it is about no single thing."""
_OF_TEACHERS = tuple(f"engine.{name}" for name in OF_TEACHERS)
"""How teachers are run: a run without any has the defaults, whatever its recipe says."""
_NOT_REMAINING = (
    *_TASK_FIELDS,
    "data.path",
    "schema",
    "seed",
    "method.",
    "teachers.",
    "student.",
    *_OF_TEACHERS,
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row beside what it is compared with."""

    difference: float
    """Mean minus mean, in points of accuracy."""
    half_width: float | None
    """Of the 95 % confidence interval of the difference; None without a test."""
    p: float | None
    """Of the test, Holm-corrected over the table; None without a test."""
    verdict: Verdict | None
    test: MeanTestKind | None
    """Which test it was."""
    more_seeds: int | None = None
    """How many more, of both rows, would show a difference of this size; None unless undecided, and where
    nobody would run so many."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The baseline of one row, and how it was found."""

    replicates: Replicates
    num_candidates: int
    """Baselines of which it is the best, where their other settings are not those of the row."""
    same_settings: bool
    """Whether all other settings (learning rate, epochs, ...) are those of the row, too."""


def find_baselines(rows: Sequence[Replicates]) -> list[Baseline | None]:
    """Return what each row is measured against: 'ce' with the same student, data, protocol and epochs.

    There is none for a row that averages over methods, teachers or students. Among several, the one
    whose remaining settings equal the row's; else the one with the best mean. Where a table tells seeds
    apart, those of the row only.
    """
    candidates: dict[Hashable, list[Replicates]] = {}
    equals: dict[Hashable, list[Replicates]] = {}
    if all(map(is_baseline, rows)):
        return [None] * len(rows)
    for row in rows:
        if row.top1 and is_baseline(row):
            task = task_of(row)
            candidates.setdefault(task, []).append(row)
            equals.setdefault((task, _remaining(row)), []).append(row)
    return [_baseline_of(row, candidates, equals) if candidates else None for row in rows]


def _baseline_of(
    row: Replicates,
    candidates: Mapping[Hashable, Sequence[Replicates]],
    equals: Mapping[Hashable, Sequence[Replicates]],
) -> Baseline | None:
    """Choose among the baselines by task, and by task and remaining settings."""
    if is_baseline(row) or not _is_about_one(row) or not (known := candidates.get(task := task_of(row))):
        return None
    equal = equals.get((task, _remaining(row)), ())
    if not (others := _with_seeds_of(row, equal or known)):
        return None
    best = max(others, key=lambda other: other.summary.mean if other.summary else 0.0)
    return Baseline(replicates=best, num_candidates=len(others), same_settings=bool(equal))


def _with_seeds_of(row: Replicates, baselines: Sequence[Replicates]) -> Sequence[Replicates]:
    """Leave out baselines with other seeds than the row, where a table tells seeds apart."""
    configurations = {frozenset(run.configuration for run in other.runs) for other in baselines}
    if len(configurations) == len(baselines):
        return baselines
    seeds = {run.seed for run in row.runs}
    return [other for other in baselines if {run.seed for run in other.runs} == seeds]


def best_of_tasks(rows: Sequence[Replicates]) -> list[Replicates | None]:
    """Return for each row the best one of its task by mean accuracy; None for the best itself.

    A row that averages over methods, teachers or students is neither best nor compared with it.
    """
    best: dict[Hashable, Replicates] = {}
    for row in rows:
        if (summary := row.summary) is None or not _is_about_one(row):
            continue
        leader = best.setdefault(task_of(row), row).summary
        if leader is not None and summary.mean > leader.mean:
            best[task_of(row)] = row
    found = [best.get(task_of(row)) if _is_about_one(row) else None for row in rows]
    return [None if leader is row else leader for leader, row in zip(found, rows, strict=True)]


def is_baseline(row: Replicates) -> bool:
    """Whether the row is a student trained on the labels alone."""
    return {read_field(plan, "method.name") for plan in row.plans} == {BASELINE_METHOD}


def compare_with_baselines(
    pairs: Sequence[tuple[Summary, Summary] | None], tasks: Sequence[Hashable]
) -> list[Comparison | None]:
    """Compare each (row, its baseline); rows of the same task share what they know of the spread.

    The tests are one family for Holm's correction.

    Args:
        pairs: one for each row; None where there is nothing to compare.
        tasks: what each row is about (see `task_of`), or whatever tells such rows apart.
    """
    tests: list[MeanTest | None] = [None] * len(pairs)
    members: dict[Hashable, dict[int, tuple[Summary, Summary]]] = {}
    for place, (pair, task) in enumerate(zip(pairs, tasks, strict=True)):
        if pair is not None:
            members.setdefault(task, {})[place] = pair
    for of_task in members.values():
        for place, test in zip(of_task, moderated_tests(list(of_task.values())), strict=True):
            tests[place] = test
    return _corrected(pairs, tests, could_add_seeds=True)


def compare(pairs: Sequence[tuple[Summary, Summary] | None]) -> list[Comparison | None]:
    """Compare each (ours, theirs) by Welch's test; the tests are one family for Holm's correction."""
    return _corrected(pairs, [welch(*pair) if pair else None for pair in pairs])


def _corrected(
    pairs: Sequence[tuple[Summary, Summary] | None],
    tests: Sequence[MeanTest | None],
    *,
    could_add_seeds: bool = False,
) -> list[Comparison | None]:
    p_values = [test.p for test in tests if test]
    corrected = iter(holm(p_values))
    comparisons: list[Comparison | None] = []
    for pair, test in zip(pairs, tests, strict=True):
        if pair is None:
            comparisons.append(None)
            continue
        difference = pair[0].mean - pair[1].mean
        p = next(corrected) if test else None
        word = verdict(difference, p) if p is not None else None
        asks = word is Verdict.UNDECIDED and could_add_seeds
        comparisons.append(
            Comparison(
                difference=difference,
                half_width=test.half_width if test else None,
                p=p,
                verdict=word,
                test=test.kind if test else None,
                more_seeds=more_seeds(test, *pair, num_comparisons=len(p_values)) if test and asks else None,
            )
        )
    return comparisons


def _is_about_one(row: Replicates) -> bool:
    return all(len({read_field(plan, field) for plan in row.plans}) == 1 for field in _IDENTITY_FIELDS)


def task_of(row: Replicates) -> frozenset[str]:
    """What must be equal for two rows to be compared at all: student, data and protocol."""
    return frozenset(
        canonical_json([plan.get("student"), *(read_field(plan, field) for field in _TASK_FIELDS)])
        for plan in row.plans
    )


def _remaining(row: Replicates) -> frozenset[tuple[str, Fraction]]:
    """Return the settings that a row averages over, each with its share of the runs in the mean."""
    known = {run.configuration: run.plan for run in row.runs}
    settings = {configuration: _remaining_settings(plan) for configuration, plan in known.items()}
    counts = Counter(settings[run.configuration] for run in row.counted or row.runs)
    return frozenset((setting, Fraction(number, counts.total())) for setting, number in counts.items())


def _remaining_settings(plan: Mapping[str, Any]) -> str:
    return canonical_json(
        {field: value for field, value in flatten(plan).items() if not field.startswith(_NOT_REMAINING)}
    )
