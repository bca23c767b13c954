"""Numbers, times and runs in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kdctl.recipe.layers import flat
from kdctl.records import RunResult, RunState, Selection
from kdctl.text import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdctl.recipe.layers import Layer
    from kdctl.recipe.plan import RunPlan
    from kdctl.records import StoredRun


def counted_seeds(seeds: Sequence[int], baseline_seeds: Sequence[int]) -> str:
    """Return how many seeds there are: '3 seeds', '3 seeds (6 without a teacher)'."""
    words = plural(len(seeds), "seed")
    more = len(baseline_seeds) > len(seeds)
    return f"{words} ({len(baseline_seeds)} without a teacher)" if more else words


def standing(num_runs: int, *, to_do: int, dropped: int = 0, failed: int = 0, told: str = "") -> str:
    """Say how far runs are: '16 runs: 9 done, 6 dropped, 1 to do'; what has ended otherwise is done.

    `told` is said of them before that.
    """
    parts = [f"{num_runs - to_do - dropped - failed} done"]
    parts += [f"{dropped} dropped"] if dropped else []
    parts += [f"{failed} failed (--retry-failed)"] if failed else []
    return f"{plural(num_runs, 'run')}: {told}{', '.join([*parts, f'{to_do} to do'])}"


def duration(seconds: float) -> str:
    """Return a time for people: '12 s', '3 min 05 s', '2 h 10 min', '3 d 04 h'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def file_size(num_bytes: float) -> str:
    """Return a size for people: '512 B', '1.5 KiB', '2.0 GiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def against_divergence(run: StoredRun) -> str:
    """Return what to change in a run that diverged: the rates of what it says that it began with."""
    rates = [
        f"method.{name}"
        for name in flat(run.plan["method"])
        if name.rpartition(".")[2] == "learning_rate" or name.endswith("_rate")
    ]
    if rates and "generator" in run.reason:
        return f"lower {' or '.join(rates)}."
    every = " or ".join(["optimizer.learning_rate", *rates])
    return f"lower {every}, or warm up with schedule.warmup_epochs."


def setting(value: Any) -> str:
    """Return a setting's value as a recipe writes it, without quotes; a dash for none."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(setting, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "—" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def flop(operations: float) -> str:
    """Return a number of floating-point operations for people: '494 GFLOP', '14.2 PFLOP'."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    power = min(int(math.log10(max(operations, 1)) // 3), len(prefixes) - 1)
    return f"{operations / 1000**power:.3g} {prefixes[power]}FLOP"


def assignments(layer: Layer) -> str:
    """Return what a layer of a recipe sets: 'seeds = 1, schedule.epochs = 2'."""
    return ", ".join(f"{dotted} = {value}" for dotted, value in flat(layer.values).items())


def evaluation_only(plans: Iterable[RunPlan]) -> Iterator[str]:
    """Say which methods train on images of their own, so that the data only evaluate them."""
    from kdctl.recipe.data_free import GeneratedImages

    names = dict.fromkeys(
        plan.method.name for plan in plans if isinstance(plan.method.options, GeneratedImages)
    )
    if names:
        yield f"data for evaluation only: {', '.join(names)} (they read no training image)"


def describe(plan: RunPlan, told: str = "") -> str:
    """Return a run's title and learning rate, the field a sweep varies most often; and what `told` adds."""
    return _joined(plan.title(), _rate(plan), told)


def describe_member(plan: RunPlan, told: str = "") -> str:
    """Return what tells a run from the others of its gang, which share data, seed and teachers."""
    return _joined(plan.student.name, plan.method.name, _rate(plan), told)


def _rate(plan: RunPlan) -> str:
    return f"lr {plan.optimizer.options.learning_rate:g}"


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def outcome(state: RunState, result: RunResult | None, reason: str) -> str:
    """Word how a run ended, or why it does not go on for now."""
    if state is RunState.INTERRUPTED and reason:
        return reason
    if result is None or state is not RunState.FINISHED:
        return f"{state.value}: {reason}" if reason else state.value
    last = result.selected[Selection.LAST.value].test.top1
    return f"{state.value}  test {last:.2f} %  {duration(result.train_seconds)}"


def pace(images_per_second: float) -> str:
    """Word a speed: '587 images/s', '0.4 images/s'."""
    decimals = 0 if images_per_second >= 9.95 else 1
    return f"{images_per_second:.{decimals}f} images/s"


def nats(loss: float) -> str:
    """Word a cross-entropy; one of a model that went astray in few digits: '7.678e+15'."""
    return f"{loss:.4f}" if abs(loss) < 1e4 else f"{loss:.4g}"


def percent(value: float | None, unit: str = "") -> str:
    """Return a percentage with two decimals; a dash for one that is not known."""
    return "—" if value is None else f"{value:.2f}{unit}"


def measured(value: float | None, form: str, unit: str) -> str:
    """Return a number with its unit; a dash for one that is not known."""
    return "—" if value is None else f"{value:{form}} {unit}".rstrip()
