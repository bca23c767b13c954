"""Whether a recipe goes on with the sweep of its name, extends it, or would make it another one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe
from kdctl.records import RunState, StoredSweep
from kdctl.report.fields import flatten
from kdctl.serialization import canonical_json
from kdctl.workflows.differences import Difference, compare_runs, differing_fields

_LABELS = (
    *("schema", "extends", "name", "description", "protocol", "plugins"),
    *("report", "reported", "budget", "racing", "pruning"),
)
"""Headings that do not say which runs belong to a sweep."""

_SEARCH_LENGTH = ("trials", "batch")

_MOST_SHOWN = 12


def lost_members(
    workspace: Workspace, recipe: Recipe, runs: Sequence[RunPlan], *, example: RunPlan, replace: bool
) -> tuple[str, ...]:
    """Return the runs that would leave the sweep of this name, which nobody misses.

    More values, more seeds, more trials are an extension: they need no permission. What was only
    planned, and never started, may go as well. Anything else would make two sweeps of one name, and
    a report would silently lose rows or mix them.

    Args:
        workspace: where the sweep may be known.
        recipe: under whose name it is.
        runs: those that the recipe plans so far.
        example: one of them, or one like those that a search will choose.
        replace: let runs leave that were started; they stay in the store.

    Raises:
        UsageError: runs that were started would leave it, with what differs.
    """
    known = {sweep.name: sweep for sweep in workspace.store.sweeps()}.get(recipe.name)
    if known is None or _is_the_same_search(workspace, known, recipe, example):
        return ()
    planned = {plan.key for plan in runs}
    students = [member.run_key for member in known.members if member.role != "teacher"]
    lost = tuple(key for key in students if key not in planned)
    states = workspace.store.states(lost)
    started = [key for key in lost if states[key] not in (RunState.PLANNED, RunState.PRUNED)]
    if started and not replace:
        raise _refusal(workspace, recipe, known, runs, started)
    return lost


def _is_the_same_search(workspace: Workspace, known: StoredSweep, recipe: Recipe, example: RunPlan) -> bool:
    """Whether a search may not know its runs yet, its study being lost, and yet will choose the same ones."""
    if not recipe.search or canonical_json(_content(known.recipe)) != canonical_json(_content(recipe.tree)):
        return False
    plans = [run.plan for run in workspace.store.runs(keys=[member.run_key for member in known.members][-1:])]
    wanted = example.tree()
    return all(plan[name] == wanted[name] for plan in plans for name in ("numerics", "data_fingerprint"))


def _refusal(
    workspace: Workspace, recipe: Recipe, known: StoredSweep, runs: Sequence[RunPlan], started: Sequence[str]
) -> UsageError:
    num_students = sum(member.role != "teacher" for member in known.members)
    differences = differing_fields(_content(known.recipe), _content(recipe.tree))
    if runs and not any(item.field.partition(".")[0] in ("grid", "search", "seeds") for item in differences):
        differences = list(compare_runs(workspace, started[0], runs).differences)
    lines = [f"  {item.field}: {_word(item.left)} → {_word(item.right)}" for item in _gathered(differences)]
    more = [f"  and {len(lines) - _MOST_SHOWN} more"] if len(lines) > _MOST_SHOWN else []
    return UsageError(
        f"{recipe.source}: there is a sweep '{recipe.name}' with other content: "
        f"{len(started)} of its {num_students} runs would not belong to it any more.\n"
        + "\n".join([*lines[:_MOST_SHOWN], *more]),
        f"give this one a name of its own (-o {shlex.quote(f'name={recipe.name}_2')}), or say --replace: "
        f"the name then means the new content, and the other runs stay in the store.",
    )


def _content(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe says about which runs there are."""
    content = {key: value for key, value in tree.items() if key not in _LABELS}
    if isinstance(content.get("search"), Mapping):
        content["search"] = {
            key: value for key, value in content["search"].items() if key not in _SEARCH_LENGTH
        }
    return content


def _gathered(differences: Sequence[Difference]) -> list[Difference]:
    """Leave out what only says the same twice: the field of a teacher's key beside what changed it."""
    inner = any("<-" in item.field for item in differences)
    return [item for item in differences if not (inner and item.field.endswith(".run"))]


def _word(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_word, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_word(item)}" for name, item in flatten(value).items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
