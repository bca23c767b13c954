"""Names of runs that tell each from the others it is shown with: by what differs between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdctl.cli.formatting import describe, setting
from kdctl.records import StoredRun
from kdctl.report.fields import distinguishing_fields, read_field, short_names

if TYPE_CHECKING:
    from kdctl.recipe.plan import RunPlan

_BRIEF = {"learning_rate": "lr"}


class Titles:
    """Names runs among all that it has been shown."""

    def __init__(self, runs: Iterable[RunPlan | StoredRun] = ()) -> None:
        """Begin with these runs."""
        self._trees: dict[str, Mapping[str, Any]] = {}
        self._seeds: set[int] = set()
        self._fields: Sequence[str] = ()
        self._names: dict[str, str] = {}
        self.learn(runs)

    def learn(self, runs: Iterable[RunPlan | StoredRun]) -> None:
        """Name from now on among these runs as well."""
        known = len(self._trees)
        for run in runs:
            self._seeds.add(run.seed)
            if run.configuration not in self._trees:
                self._trees[run.configuration] = _tree(run)
        if len(self._trees) > known:
            self._fields = distinguishing_fields(list(self._trees.values()))
            self._names = short_names(self._fields)

    def brief(self, run: RunPlan | StoredRun, beside: Sequence[RunPlan | StoredRun] = ()) -> str:
        """Return only what differs: 'simkd · lr 0.05 · seed 1'; the method where nothing does.

        Args:
            run: one that was shown before.
            beside: the runs that it is seen together with; what tells it from these comes first, since
                the end of a long title is cut off.
        """
        near = {other.configuration: _tree(other) for other in beside}
        first = distinguishing_fields(list(near.values())) if len(near) > 1 else []
        words = self._settings(run, first)
        seed = [f"seed {run.seed}"] if len(self._seeds) > 1 else []
        if len({other.seed for other in beside}) > 1:
            words, seed = [*words, *seed], []
        words += [*self._settings(run, [field for field in self._fields if field not in first]), *seed]
        return " · ".join(words) or str(read_field(_tree(run), "method.name"))

    def settings(self, run: RunPlan | StoredRun) -> str:
        """Return which settings tell a run from the others, without its seed; empty where none does."""
        return " · ".join(self._settings(run, self._fields))

    def _settings(self, run: RunPlan | StoredRun, fields: Sequence[str]) -> list[str]:
        tree = _tree(run)
        words: list[str] = []
        for field in fields:
            value, name = read_field(tree, field), self._names.get(field, field)
            if value is None:
                continue
            speaks_for_itself = field.endswith(".name") or field in ("teachers", "protocol")
            title = _BRIEF.get(name, name.replace("_", " "))
            words.append(setting(value) if speaks_for_itself else f"{title} {setting(value)}")
        return words


def told_apart(plans: Iterable[RunPlan]) -> dict[str, str]:
    """Return by run key what tells runs of the same title and learning rate apart: 'temperature 4'."""
    alike: dict[str, list[RunPlan]] = {}
    for plan in plans:
        alike.setdefault(describe(plan), []).append(plan)
    told: dict[str, str] = {}
    known: dict[tuple[str, ...], Titles] = {}
    for same in alike.values():
        configurations = tuple(plan.configuration for plan in same)
        if len(set(configurations)) > 1:
            if configurations not in known:  # one for each seed
                known[configurations] = Titles(same)
            told |= {plan.key: known[configurations].settings(plan) for plan in same}
    return told


def _tree(run: RunPlan | StoredRun) -> Mapping[str, Any]:
    return run.plan if isinstance(run, StoredRun) else run.tree()
