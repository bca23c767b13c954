"""The best configurations of a sweep, its teachers, and which of these are worse than their students."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from kdctl.records import Selection, StoredRun
from kdctl.report.baseline import find_baselines
from kdctl.report.best import accuracy_rank, deciding_split
from kdctl.report.fields import distinguishing_fields, read_field, short_names
from kdctl.report.layout import BestBy, Layout
from kdctl.report.replicates import Replicates, group_by_configuration
from kdctl.report.subject import SUBJECT_FIELDS
from kdctl.report.wording import SELECTION_WORDS, label, mean_and_spread
from kdctl.text import plural

_PAIR = (*SUBJECT_FIELDS, "data_fingerprint", "teachers", "student.name")
"""Configurations that differ in one of these do not compete."""
_MAX_PAIRS = 4
_MAX_EACH = 3


def leading_lines(students: Sequence[StoredRun], select: Selection = Selection.LAST) -> list[str]:
    """Return the best configurations of each pair of models, best first; nothing where there is no choice.

    They are ranked by mean validation accuracy where something was held out, else on the test set. The first
    line says which, and of which epoch if not the last. Those on other data, or of another length, do not
    compete.

    Args:
        students: of a sweep; one that teaches others as well is among them.
        select: which epoch counts.
    """
    fields = distinguishing_fields([run.plan for run in students])
    groups = [group for group in group_by_configuration(students, fields, select) if group.top1]
    if len(groups) < 2:
        return []
    by = deciding_split(groups, select)
    pairs: dict[tuple[object, ...], list[Replicates]] = {}
    for group in groups:
        key = tuple(read_field(group.plan, field) for field in _PAIR)
        pairs.setdefault(key, []).append(group)
    where = "validation accuracy" if by == "val" else "test accuracy (oracle: nothing was held out)"
    epoch = "" if select is Selection.LAST else f", {SELECTION_WORDS[select]}"
    lines = [f"best by mean {where}{epoch}:"]
    names = short_names(fields)
    for members in list(pairs.values())[:_MAX_PAIRS]:
        ranked = sorted(members, key=lambda group: accuracy_rank(group, by, select), reverse=True)
        lines += [_line(group, fields, names, by, select) for group in ranked[:_MAX_EACH]]
    if len(pairs) > _MAX_PAIRS:
        lines.append(f"  and those of {plural(len(pairs) - _MAX_PAIRS, 'other pair')}")
    return lines


def _line(
    group: Replicates, fields: Sequence[str], names: dict[str, str], by: BestBy, select: Selection
) -> str:
    named = label(group.values, fields, [names[field] for field in fields])
    test = f"test {mean_and_spread(group.summary)} % (n = {len(group.counted)})"
    val = f"val {accuracy_rank(group, by, select):.2f} %, " if by == "val" else ""
    return f"  {named}: {val}{test}"


def weak_teacher_lines(runs: Sequence[StoredRun], select: Selection = Selection.LAST) -> list[str]:
    """Return a sentence for each teacher whose test accuracy is below that of a student trained by `ce`.

    A teacher of the student's own architecture may be: it is the same training with another seed.
    """
    lines: list[str] = []
    if not any(run.result and run.result.teacher_test_top1 is not None for run in runs):
        return lines
    groups = group_by_configuration(runs, (), select)
    for group, baseline in zip(groups, find_baselines(groups), strict=True):
        accuracy = _of_teacher(group)
        if accuracy is None or baseline is None or baseline.replicates.summary is None:
            continue
        teacher, student = (str(read_field(group.plan, field)) for field in ("teachers", "student.name"))
        mean = baseline.replicates.summary.mean
        if accuracy < mean and teacher != student:
            lines.append(
                f"the teacher {teacher} ({accuracy:.2f} %) is below its student {student} without a teacher "
                f"({mean:.2f} %): train it longer (teacher.schedule.epochs), or name a better one"
            )
    return list(dict.fromkeys(lines))


def teacher_notes(teachers: Sequence[StoredRun], layout: Layout) -> Iterator[str]:
    """Give the teachers that were trained for this table a line each."""
    fields = list(dict.fromkeys(["student.name", *distinguishing_fields([run.plan for run in teachers])]))
    groups = group_by_configuration(teachers, fields, layout.select)
    uses = Counter(group.values[0] for group in groups)
    names = list(short_names(fields).values())
    for group in groups:
        named = group.values[0] if uses[group.values[0]] == 1 else label(group.values, fields, names)
        counted = f"n = {len(group.counted)}"
        yield f"Teacher {named}: {mean_and_spread(group.summary, layout.spread)} ({counted})."


def _of_teacher(group: Replicates) -> float | None:
    known = [
        run.result.teacher_test_top1
        for run in group.counted
        if run.result and run.result.teacher_test_top1 is not None
    ]
    return min(known, default=None)
