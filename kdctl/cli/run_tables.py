"""Plans, structures and results of runs, as people and programs want to see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdctl.cli.console import output, print_json
from kdctl.cli.console_tables import print_table
from kdctl.cli.formatting import describe, flop, percent
from kdctl.cli.options import Format
from kdctl.cli.titles import told_apart
from kdctl.records import ENDED, RunState, Selection, StoredRun
from kdctl.serialization import to_tree
from kdctl.text import plural

if TYPE_CHECKING:
    from rich.console import Console

    from kdctl.assembly.structure import MatchedTaps, Structure
    from kdctl.protocols.backbone import Shape
    from kdctl.recipe.plan import RunPlan

NEW = "new"
"""Said of a run that the store does not know."""


def show_plans(
    teachers: Sequence[RunPlan],
    students: Sequence[RunPlan],
    states: Mapping[str, RunState],
    *,
    to: Console | None = None,
) -> None:
    """Print planned runs as a table, on stdout if not told otherwise."""
    rows: list[list[str]] = []
    told = told_apart((*teachers, *students))
    for plan in (*teachers, *students):
        state = states[plan.key].value if plan.key in states else NEW
        first = plan in teachers and state != RunState.FINISHED.value
        rows.append(
            [
                plan.key[:8],
                describe(plan, told.get(plan.key, "")),
                str(plan.epochs),
                str(plan.batch_size),
                plan.precision(),
                f"{state}, a teacher: trained first" if first else state,
            ]
        )
    print_table(("run", "what", ">epochs", ">batch", "precision", "state"), rows, to=to)


def show_summary(
    teachers: Sequence[RunPlan],
    students: Sequence[RunPlan],
    states: Mapping[str, RunState],
    operations: Mapping[str, float],
) -> None:
    """Print many planned runs as a table with a row for each pair of student and teacher.

    Args:
        teachers: runs that are trained first.
        students: all other runs.
        states: of the runs that the store knows.
        operations: of the runs to do, by run key; empty if nobody knows.
    """
    pairs: dict[tuple[str, bool, int], list[RunPlan]] = {}
    for plan in (*teachers, *students):
        pairs.setdefault((plan.pair(), plan in teachers, plan.epochs), []).append(plan)
    rows: list[list[str]] = []
    for (pair, are_teachers, epochs), plans in pairs.items():
        num_done = sum(states.get(plan.key) in ENDED for plan in plans)
        cost = sum(operations.get(plan.key, 0.0) for plan in plans)
        what = "teacher, trained first" if are_teachers else _methods(plans)
        rows.append([pair, what, str(epochs), str(len(plans)), str(num_done), flop(cost) if cost else "—"])
    print_table(("pair", "methods", ">epochs", ">runs", ">done", ">to do"), rows)


def _methods(plans: Sequence[RunPlan]) -> str:
    """Name the methods of plans, each with its number of configurations where these are several."""
    configurations: dict[str, set[str]] = {}
    for plan in plans:
        configurations.setdefault(plan.method.name, set()).add(plan.configuration)
    return ", ".join(f"{name} x{len(of)}" if len(of) > 1 else name for name, of in configurations.items())


def planned_trees(
    teachers: Sequence[RunPlan], students: Sequence[RunPlan], states: Mapping[str, RunState]
) -> list[dict[str, Any]]:
    """Return planned runs for JSON."""
    return [
        {
            "run": plan.key,
            "role": "teacher" if plan in teachers else "student",
            "state": states[plan.key].value if plan.key in states else NEW,
            "plan": plan.tree(),
        }
        for plan in (*teachers, *students)
    ]


def show_results(runs: Iterable[StoredRun], form: Format) -> None:
    """Print what runs came to on stdout."""
    if form is Format.JSON:
        print_json(runs=[to_tree(run) for run in runs])
        return
    told = list(runs)
    validated = any(run.result and Selection.BEST_VAL.value in run.result.selected for run in told)
    rules = [rule for rule in _ACCURACIES if validated or rule is not Selection.BEST_VAL]
    headings = ("run", "state", *(_ACCURACIES[rule] for rule in rules), ">teacher", ">parameters", ">pruned")
    print_table(headings, [_result_row(run, rules) for run in told])


_ACCURACIES = {
    Selection.LAST: ">top-1",
    Selection.BEST_VAL: ">best val",
    Selection.BEST_TEST: ">best test",
}
"""How the accuracy on the test set is headed, by the epoch that it is of."""


def _result_row(run: StoredRun, rules: Sequence[Selection]) -> list[str]:
    result = run.result
    if result is None or Selection.LAST.value not in result.selected:
        return [run.key, run.state.value, *("—" for _ in range(3 + len(rules)))]
    selected = [result.selected.get(rule.value) for rule in rules]
    return [
        run.key,
        run.state.value,
        *(percent(epoch and epoch.test.top1) for epoch in selected),
        percent(result.teacher_test_top1),
        f"{result.facts.shipped_parameters:,}",
        percent(result.facts.pruning_percent, " %"),
    ]


def show_structure(structure: Structure, *, to: Console | None = None) -> None:
    """Print what is matched, trained and shipped, on stdout if not told otherwise."""
    console = to or output()
    matches = [(phase, match) for phase in structure.phases for match in phase.matches]
    if matches:
        console.print()
        rows = [[*_matched(match), _weight(match.weight), phase.name] for phase, match in matches]
        headings = ("student's", ">shape", "teacher's", ">shape", ">weight", "phase")
        blank = [place for place in (4, 5) if not any(row[place].strip("—") for row in rows)]
        kept = [place for place in range(len(headings)) if place not in blank]
        print_table(
            [headings[place] for place in kept], ([row[place] for place in kept] for row in rows), to=console
        )
    console.print()
    for name, text in _facts(structure):
        console.print(f"{name:<12}{text}", markup=False)


def _matched(match: MatchedTaps) -> tuple[str, str, str, str]:
    return match.student, _shape(match.student_shape), match.teacher, _shape(match.teacher_shape)


def _facts(structure: Structure) -> Iterator[tuple[str, str]]:
    facts = structure.facts
    if len(structure.phases) > 1:
        phases = (f"{phase.name} {plural(phase.epochs, 'epoch')}" for phase in structure.phases)
        yield "phases", ", then ".join(phases)
    yield "student", f"{facts.student_parameters:,} parameters"
    if structure.added:
        yield "added", ", ".join(f"{name} {count:,}" for name, count in structure.added.items())
    if facts.other_parameters:
        yield "models", ", ".join(f"{name} {count:,}" for name, count in facts.other_parameters.items())
    for phase in structure.phases:
        where = f" ({phase.name})" if phase.name else ""
        if len(phase.groups) > 1:
            yield "optimizers", f"one each for {', '.join(phase.groups)}{where}"
        if len(phase.updates) > 1:
            yield "a step", f"{', then '.join(phase.updates)}{where}"
    if facts.untrained:
        yield "untrained", ", ".join(facts.untrained)
    yield "shipped", f"{facts.shipped_parameters:,} parameters{_compared(facts.pruning_percent)}"


def _compared(pruning_percent: float | None) -> str:
    """Word by how much the shipped model is smaller than the teacher, or larger."""
    if pruning_percent is None:
        return ""
    word = "less" if pruning_percent >= 0 else "more"
    return f", {abs(pruning_percent):.2f} % {word} than the teacher"


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _weight(weight: float | None) -> str:
    return "—" if weight is None else f"{weight:.3g}"
