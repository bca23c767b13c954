"""One run in full, as `kdctl runs show` prints it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from kdctl.cli.console import output, print_json
from kdctl.cli.formatting import duration, file_size, nats, pace, percent, setting
from kdctl.cli.options import Format
from kdctl.records import EpochResult, StoredRun
from kdctl.serialization import to_tree

if TYPE_CHECKING:
    from kdctl.workflows.browsing import RunDetails


Lines = Iterator[tuple[str, str]]
"""Names with their values."""

_MANY = 8
"""At most so many keys are named."""


def show_details(details: RunDetails, form: Format) -> None:
    """Print a run on stdout, the sections one below the other."""
    if form is Format.JSON:
        print_json(**to_tree(details.run), **_measured(details))
        return
    sections = {
        "": list(_heading(details)),
        "result": list(_result(details.run)),
        "curves": list(_curves(details.epochs)),
        "files": list(_files(details)),
        "evaluations": list(_evaluations(details)),
        "environment": list(_environment(details.run)),
        "plan": list(_flat(details.run.plan)),
    }
    for title, lines in sections.items():
        if lines:
            _print(title, lines)


def _print(title: str, lines: Sequence[tuple[str, str]]) -> None:
    console = output()
    if title:
        console.print(f"\n[bold]{title}[/]")
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        console.print(f"{name:<{width}}  {value}".rstrip(), markup=False)


def _measured(details: RunDetails) -> dict[str, Any]:
    return {
        "epoch_results": to_tree(details.epochs),
        "evaluations": to_tree(details.evaluations),
        "artifacts": [
            {**to_tree(item), "present": item.name not in details.missing} for item in details.artifacts
        ],
        "sweeps": list(details.sweeps),
        "teaches": list(details.teaches),
    }


def _heading(details: RunDetails) -> Lines:
    run = details.run
    yield "run", run.key
    yield "state", run.state.value + (f": {run.reason}" if run.reason else "")
    yield "configuration", f"{run.configuration}, seed {run.seed}"
    if details.sweeps:
        yield "sweeps", ", ".join(details.sweeps)
    if details.teaches:
        more = f" and {len(details.teaches) - _MANY} more" if len(details.teaches) > _MANY else ""
        yield "teaches", ", ".join(details.teaches[:_MANY]) + more
    yield "planned", run.created[:19]
    yield "last change", f"{run.updated[:19]}, attempt {run.attempts}"


def _result(run: StoredRun) -> Lines:
    result = run.result
    if result is None:
        return
    for rule, selected in result.selected.items():
        val = "" if selected.val is None else f", val {percent(selected.val.top1, ' %')}"
        yield (
            rule,
            f"epoch {selected.epoch}: test {percent(selected.test.top1, ' %')}, "
            f"top-5 {percent(selected.test.top5, ' %')}, loss {nats(selected.test.loss)}{val}",
        )
    facts = result.facts
    yield "teacher", percent(result.teacher_test_top1, " %")
    yield "parameters", f"{facts.shipped_parameters:,} shipped, {facts.student_parameters:,} of the student"
    if result.images_per_second:  # none of a run that diverged before the end of its first epoch
        yield "training", f"{duration(result.train_seconds)}, {pace(result.images_per_second)}"


def _curves(epochs: Sequence[EpochResult]) -> Lines:
    if not epochs:
        return
    curves = {
        "train loss": [epoch.train_loss for epoch in epochs],
        "train top-1": [epoch.train_top1 for epoch in epochs if epoch.train_top1 is not None],
        "val top-1": [epoch.val.top1 for epoch in epochs if epoch.val is not None],
        "test top-1": [epoch.test.top1 for epoch in epochs],
    }
    for model in dict.fromkeys(name for epoch in epochs for name in epoch.models):
        found = [epoch.models[model] for epoch in epochs if model in epoch.models]
        curves[f"{model} test top-1"] = [metrics.test.top1 for metrics in found]
    for metric in dict.fromkeys(name for epoch in epochs for name in epoch.metrics):
        curves[metric] = [epoch.metrics[metric] for epoch in epochs if metric in epoch.metrics]
    if phases := list(dict.fromkeys(epoch.phase for epoch in epochs if epoch.phase)):
        yield "phases", ", ".join(f"{phase} {_range(epochs, phase)}" for phase in phases)
    for name, values in curves.items():
        if values:
            yield name, f"{sparkline(values)}  {values[0]:.4g} → {values[-1]:.4g}"


def _range(epochs: Sequence[EpochResult], phase: str) -> str:
    """Return the first and the last epoch of a phase so far: '1–60'."""
    within = [epoch.epoch for epoch in epochs if epoch.phase == phase]
    return f"{within[0]}–{within[-1]}"


def _files(details: RunDetails) -> Lines:
    for item in details.artifacts:
        gone = "  (not there any more)" if item.name in details.missing else ""
        yield item.name, f"{file_size(item.num_bytes)}  SHA-256 {item.sha256[:16]}{gone}"


def _evaluations(details: RunDetails) -> Lines:
    for item in details.evaluations:
        agreement = "" if item.teacher_agreement is None else f", agrees {percent(item.teacher_agreement)} %"
        yield (
            f"{item.selection} on {item.split}",
            f"{percent(item.metrics.top1, ' %')}, loss {nats(item.metrics.loss)}{agreement}",
        )


def _environment(run: StoredRun) -> Lines:
    if run.environment is None:
        return
    for name, value in to_tree(run.environment).items():
        if value not in ("", []):
            yield name.replace("_", " "), setting(value)


def _flat(tree: Mapping[str, Any]) -> Lines:
    from kdctl.report.fields import flatten

    for name, value in flatten(tree).items():
        yield name, setting(value)


BLOCKS = "▁▂▃▄▅▆▇█"

MISSING = "·"
"""Stands for a value that is no finite number."""


def sparkline(values: Sequence[float], *, width: int = 60) -> str:
    """Draw values from left to right, the lowest as the lowest block; long curves in means of their parts."""
    points = _shortened(values, width)
    finite = [point for point in points if math.isfinite(point)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    return "".join(_block(point, low, high) for point in points)


def _shortened(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [place * len(values) // width for place in range(width + 1)]
    return [fmean(values[start:end]) for start, end in itertools.pairwise(edges)]


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return MISSING
    height = (value - low) / (high - low) if high > low else 0.0
    return BLOCKS[min(int(height * len(BLOCKS)), len(BLOCKS) - 1)]
