"""How a method joins student and teachers, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdctl.cli.console import output, print_table
from kdctl.cli.formatting import counted

if TYPE_CHECKING:
    from rich.console import Console

    from kdctl.assembly.structure import MatchedTaps, Structure
    from kdctl.protocols.backbone import Shape


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
        phases = (f"{phase.name} {counted(phase.epochs, 'epoch')}" for phase in structure.phases)
        yield "phases", ", then ".join(phases)
    yield "student", f"{facts.student_parameters:,} parameters"
    if structure.added:
        yield "added", ", ".join(f"{name} {count:,}" for name, count in structure.added.items())
    if facts.untrained:
        yield "untrained", ", ".join(facts.untrained)
    pruned = "" if facts.pruning_percent is None else f", {facts.pruning_percent:.2f} % less than the teacher"
    yield "shipped", f"{facts.shipped_parameters:,} parameters{pruned}"


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _weight(weight: float | None) -> str:
    return "—" if weight is None else f"{weight:.3g}"
