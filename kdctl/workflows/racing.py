"""Which configurations of a sweep go on, judged by the runs in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdctl.recipe.limits import FEWEST_FOR_STD_ERROR, Limits, Pruning
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunState, Selection, StoredRun
from kdctl.report.fields import distinguishing_fields, read_field, short_names, show_value
from kdctl.serialization import canonical_json
from kdctl.store.store import Store
from kdctl.sweep.standings import Standing, in_turn, outside, precise, trailing


def dropped_after(
    store: Store, limits: Limits, racing: Sequence[Sequence[RunPlan]], num_seeds: int
) -> dict[str, str]:
    """Return the configurations that need no more seeds, with the reason.

    Only the first `num_seeds` runs of each count, whatever else is finished already: so a sweep that
    is started again decides as it did before.

    Args:
        store: knows these runs.
        limits: of the recipe.
        racing: the runs of each configuration, in the order of seeds.
        num_seeds: how many seeds of each have ended.
    """
    dropped: dict[str, str] = {}
    ended = [plans[:num_seeds] for plans in racing]
    runs = {run.key: run for run in store.runs(keys=[plan.key for plans in ended for plan in plans])}

    def standings(metric: str, among: str) -> dict[str, Standing]:
        return {
            plans[0].configuration: _standing(plans[0], [runs[plan.key] for plan in plans], metric, among)
            for plans in ended
        }

    race = limits.racing
    if race is not None and num_seeds >= race.min_seeds:
        names = _names([plans[0] for plans in racing])
        dropped |= trailing(standings(race.metric, race.among), margin=race.margin, names=names)
    target = limits.budget.target_std_error
    if target is not None:
        enough = precise(standings("test", "methods"), target=target, fewest=FEWEST_FOR_STD_ERROR)
        dropped = enough | dropped
    return dropped


def dropped_at(
    store: Store, pruning: Pruning, racing: Sequence[Sequence[RunPlan]], epoch: int, *, by_turns: bool
) -> dict[str, str]:
    """Return the configurations that do not go on from a rung, with the reason.

    Their first runs are judged by exactly this epoch, also those that are further already, or have
    ended. One that failed before it is not judged.

    Args:
        store: knows these runs.
        pruning: of the recipe.
        racing: the runs of each configuration, in the order of seeds.
        epoch: of the rung, which lies behind all of their first runs.
        by_turns: whether each is held against those before it alone, as in a search.
    """
    first = [plans[0] for plans in racing]
    keys = [plan.key for plan in first]
    results, states = store.results_at(keys, epoch), store.states(keys)
    standings = {
        plan.configuration: Standing(
            race=race_of(plan, pruning.among),
            values=(_accuracy_at(results[plan.key], pruning.metric),) if plan.key in results else (),
            num_diverged=int(plan.key not in results and states[plan.key] is RunState.DIVERGED),
            rung=f"epoch {epoch} of seed {plan.seed}",
        )
        for plan in first
    }
    names = _names(first)

    def judge(standings: Mapping[str, Standing]) -> dict[str, str]:
        dropped = outside(standings, keep=pruning.keep) if pruning.keep else {}
        return dropped | (trailing(standings, margin=pruning.margin, names=names) if pruning.margin else {})

    return in_turn(standings, judge) if by_turns else judge(standings)


def race_of(plan: RunPlan, among: str) -> str:
    """Name the race that a run takes part in: among settings of one method, or among methods of one pair."""
    tree = plan.tree()
    shared = [plan.data_fingerprint, tree["data"], tree["student"], tree["teachers"]]
    return canonical_json([*shared, plan.method.name] if among == "settings" else shared)


def accuracy(run: StoredRun, metric: str) -> float | None:
    """Return a finished run's last accuracy on 'val', as far as there is one, or 'test'; in percent."""
    if run.state is not RunState.FINISHED or run.result is None:
        return None
    last = run.result.selected[Selection.LAST.value]
    if metric == "val" and last.val is not None:
        return last.val.top1
    return last.test.top1


def _accuracy_at(result: EpochResult, metric: str) -> float:
    return result.val.top1 if metric == "val" and result.val is not None else result.test.top1


def _standing(plan: RunPlan, runs: Sequence[StoredRun], metric: str, among: str) -> Standing:
    return Standing(
        race=race_of(plan, among),
        values=tuple(value for run in runs if (value := accuracy(run, metric)) is not None),
        num_diverged=sum(run.state is RunState.DIVERGED for run in runs),
    )


def _names(plans: Sequence[RunPlan]) -> Mapping[str, str]:
    """Name configurations by the settings that tell them apart."""
    trees = {plan.configuration: plan.tree() for plan in plans}
    fields = distinguishing_fields(list(trees.values()))
    short = short_names(fields)
    return {
        key: ", ".join(f"{short[name]} {show_value(read_field(tree, name))}" for name in fields) or "it"
        for key, tree in trees.items()
    }
