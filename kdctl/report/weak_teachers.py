"""Teachers that do worse than the student without them: whatever they teach, it is not what was meant."""

from __future__ import annotations

from collections.abc import Sequence

from kdctl.records import Selection, StoredRun
from kdctl.report.baseline import find_baseline
from kdctl.report.fields import read_field
from kdctl.report.replicates import Replicates, group_by_configuration


def weak_teacher_lines(runs: Sequence[StoredRun], select: Selection = Selection.LAST) -> list[str]:
    """Return a sentence for each teacher whose test accuracy is below that of a student trained by `ce`.

    A teacher of the student's own architecture may be: it is the same training with another seed.
    """
    lines: list[str] = []
    groups = group_by_configuration(runs, (), select)
    for group in groups:
        baseline = find_baseline(group, groups)
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


def _of_teacher(group: Replicates) -> float | None:
    known = [
        run.result.teacher_test_top1
        for run in group.counted
        if run.result and run.result.teacher_test_top1 is not None
    ]
    return min(known, default=None)
