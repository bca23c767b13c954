"""Why two runs have different keys: the settings in which they differ, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.recipe.plan import RunPlan
from kdctl.report.fields import flatten

LABELS = ("protocol", "schema", "data.path")
"""Fields of a plan that are no part of its key: what it is called, and where its data lie."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field that two runs do not share."""

    field: str
    """Dotted; '<-' leads from a teacher into the run that trained it."""
    left: Any
    right: Any
    counts: bool
    """Whether it is part of the run key."""


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """Two runs beside each other."""

    left: str
    """Key of a run."""
    right: str
    """Key of a run, or of one that a recipe plans."""
    same_configuration: bool
    """They differ in the seed alone, if at all."""
    differences: tuple[Difference, ...]


@dataclass(frozen=True, kw_only=True)
class _Side:
    key: str
    configuration: str
    plan: Mapping[str, Any]


def compare_runs(workspace: Workspace, left: str, right: str | Sequence[RunPlan]) -> RunDifference:
    """Compare a stored run with another, or with the most similar of those that a recipe plans.

    Raises:
        KdctlError: no run, or more than one, has such a key.
    """
    ours = _stored(workspace, left)
    if isinstance(right, str):
        return _difference(workspace, ours, _stored(workspace, right))
    candidates = [_Side(key=plan.key, configuration=plan.configuration, plan=plan.tree()) for plan in right]
    if not candidates:
        raise KdctlError("the recipe plans no run yet.", "a search plans its runs when it is started.")
    flat = flatten(ours.plan)
    theirs = min(candidates, key=lambda side: _distance(flat, flatten(side.plan)))
    return _difference(workspace, ours, theirs, {plan.key: plan.tree() for plan in _teachers(right)})


def differing_fields(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """Return the fields in which two plans differ, in the order of the plan."""
    ours, theirs = flatten(left), flatten(right)
    return [
        Difference(field=name, left=ours.get(name), right=theirs.get(name), counts=name not in LABELS)
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    ]


def is_recipe(word: str) -> bool:
    """Whether a word of the command line means a recipe, not a run."""
    return word.endswith(".toml") or Path(word).is_file()


def _difference(
    workspace: Workspace, left: _Side, right: _Side, planned: Mapping[str, Mapping[str, Any]] | None = None
) -> RunDifference:
    differences = differing_fields(left.plan, right.plan)
    return RunDifference(
        left=left.key,
        right=right.key,
        same_configuration=left.configuration == right.configuration,
        differences=tuple(
            inner for item in differences for inner in _into_teacher(workspace, item, planned or {})
        ),
    )


def _into_teacher(
    workspace: Workspace, item: Difference, planned: Mapping[str, Mapping[str, Any]]
) -> list[Difference]:
    """Follow two teachers that were trained here to what makes them differ."""
    if not item.field.endswith(".run") or not (item.left and item.right):
        return [item]
    plans = [planned.get(key) or _plan_of(workspace, key) for key in (item.left, item.right)]
    if plans[0] is None or plans[1] is None:
        return [item]
    where = item.field.removesuffix(".run")
    inner = [
        Difference(field=f"{where} <- {d.field}", left=d.left, right=d.right, counts=d.counts)
        for d in differing_fields(plans[0], plans[1])
    ]
    return [item, *inner]


def _plan_of(workspace: Workspace, key: str) -> Mapping[str, Any] | None:
    runs = workspace.store.runs(keys=[key])
    return runs[0].plan if runs else None


def _stored(workspace: Workspace, prefix: str) -> _Side:
    run = workspace.store.run(prefix)
    return _Side(key=run.key, configuration=run.configuration, plan=run.plan)


def _teachers(plans: Sequence[RunPlan]) -> list[RunPlan]:
    return [teacher.plan for plan in plans for teacher in plan.teachers if teacher.plan is not None]


def _distance(left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    """Count the settings in which two plans differ; the seed decides only between equals."""
    fields = {name for name in (*left, *right) if left.get(name) != right.get(name)} - set(LABELS)
    return 2 * len(fields - {"seed"}) + ("seed" in fields)
