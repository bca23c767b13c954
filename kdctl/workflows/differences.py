"""Why two runs have different keys: the settings in which they differ, and no others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.recipe.history import align
from kdctl.recipe.plan import RunPlan
from kdctl.records import PlannedRun, StoredRun
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
    plan: dict[str, Any]


def compare_runs(workspace: Workspace, left: str, right: str | Sequence[RunPlan]) -> RunDifference:
    """Compare a stored run with another, or with the most similar of those that a recipe plans.

    Raises:
        KdctlError: no run, or more than one, has such a key.
    """
    if isinstance(right, str):
        keys = [workspace.store.run(prefix).key for prefix in (left, right)]
        sides = {run.key: _side(run) for run in workspace.store.runs(keys=keys)}
        return _difference(workspace, sides[keys[0]], sides[keys[1]])
    if not right:
        raise KdctlError("the recipe plans no run yet.", "a search plans its runs when it is started.")
    ours, candidates = _side(workspace.store.run(left)), [_side(plan.planned()) for plan in right]
    align([side.plan for side in (ours, *candidates)])
    flat = flatten(ours.plan)
    theirs = min(candidates, key=lambda side: _distance(flat, flatten(side.plan)))
    return _difference(workspace, ours, theirs, {plan.key: plan.planned().plan for plan in _teachers(right)})


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
    stored = {run.key: run.plan for run in workspace.store.runs(keys=[item.left, item.right])}
    known = {**stored, **planned}
    if item.left not in known or item.right not in known:
        return [item]
    plans = [copy.deepcopy(dict(known[key])) for key in (item.left, item.right)]
    align(plans)
    where = item.field.removesuffix(".run")
    inner = [
        Difference(field=f"{where} <- {d.field}", left=d.left, right=d.right, counts=d.counts)
        for d in differing_fields(plans[0], plans[1])
    ]
    return [item, *inner]


def _side(run: StoredRun | PlannedRun) -> _Side:
    return _Side(key=run.key, configuration=run.configuration, plan=copy.deepcopy(dict(run.plan)))


def _teachers(plans: Sequence[RunPlan]) -> list[RunPlan]:
    return [teacher.plan for plan in plans for teacher in plan.teachers if teacher.plan is not None]


def _distance(left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    """Count the settings in which two plans differ; the seed decides only between equals."""
    fields = {name for name in (*left, *right) if left.get(name) != right.get(name)} - set(LABELS)
    return 2 * len(fields - {"seed"}) + ("seed" in fields)
