"""What can be told of a run: the values that a table's cells, its order and its choice may be made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdctl.errors import UsageError, suggestion
from kdctl.evaluation_records import Evaluation
from kdctl.records import RunResult, Selected, Selection, StoredRun
from kdctl.report.replicates import Replicates, selected_epoch
from kdctl.report.statistics import Summary, summarize

Read = Callable[[RunResult, Selected, Evaluation | None], float | None]
"""Reads a value from a finished run's result, the epoch that counts, and what `kdctl eval` found of it."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One value of a run, and how it is printed."""

    name: str
    title: str
    read: Read
    decimals: int = 2
    scale: float = 1.0
    """What the value is divided by before it is printed; raw formats get it undivided."""
    higher_is_better: bool | None = None
    """None: neither."""
    model: str = ""
    """Of which other model of the run it tells, if of one."""
    by_eval: bool = False
    """Whether `kdctl eval` finds it, later than the training."""


def _of_epoch(read: Callable[[Selected], float | None]) -> Read:
    return lambda _result, epoch, _evaluation: read(epoch)


def _of_evaluation(read: Callable[[Evaluation], float | None]) -> Read:
    return lambda _result, _epoch, evaluation: None if evaluation is None else read(evaluation)


MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            name="top1",
            title="top-1 (%)",
            higher_is_better=True,
            read=_of_epoch(lambda epoch: epoch.test.top1),
        ),
        Measure(
            name="top5",
            title="top-5 (%)",
            higher_is_better=True,
            read=_of_epoch(lambda epoch: epoch.test.top5),
        ),
        Measure(
            name="loss",
            title="test loss",
            decimals=3,
            higher_is_better=False,
            read=_of_epoch(lambda epoch: epoch.test.loss),
        ),
        Measure(
            name="val_top1",
            title="val top-1 (%)",
            higher_is_better=True,
            read=_of_epoch(lambda epoch: epoch.val.top1 if epoch.val else None),
        ),
        Measure(
            name="val_top5",
            title="val top-5 (%)",
            higher_is_better=True,
            read=_of_epoch(lambda epoch: epoch.val.top5 if epoch.val else None),
        ),
        Measure(
            name="val_loss",
            title="val loss",
            decimals=3,
            higher_is_better=False,
            read=_of_epoch(lambda epoch: epoch.val.loss if epoch.val else None),
        ),
        Measure(
            name="agreement",
            title="agreement (%)",
            higher_is_better=True,
            read=_of_evaluation(lambda found: found.teacher_agreement),
            by_eval=True,
        ),
        Measure(
            name="teacher_kl",
            title="KL from teacher (nats)",
            decimals=3,
            higher_is_better=False,
            read=_of_evaluation(lambda found: found.teacher_kl),
            by_eval=True,
        ),
        Measure(
            name="ece",
            title="ECE (%)",
            higher_is_better=False,
            read=_of_evaluation(lambda found: found.calibration_error),
            by_eval=True,
        ),
        Measure(
            name="flops",
            title="FLOPs (M)",
            scale=1e6,
            decimals=1,
            read=_of_evaluation(lambda found: found.flops),
            by_eval=True,
        ),
        Measure(
            name="seconds", title="time (s)", decimals=1, read=lambda result, _epoch, _: result.train_seconds
        ),
        Measure(
            name="images_per_second",
            title="images/s",
            decimals=0,
            read=lambda result, _epoch, _: result.images_per_second,
        ),
        Measure(name="epoch", title="epoch", decimals=1, read=_of_epoch(lambda epoch: epoch.epoch)),
        Measure(
            name="parameters",
            title="params (M)",
            scale=1e6,
            decimals=3,
            read=lambda result, _epoch, _: result.facts.shipped_parameters,
        ),
        Measure(
            name="pruning_percent",
            title="pruned (%)",
            read=lambda result, _epoch, _: result.facts.pruning_percent,
        ),
        Measure(
            name="teacher_top1",
            title="teacher (%)",
            read=lambda result, _epoch, _: result.teacher_test_top1,
        ),
    )
}
"""By the name that `--values` takes."""

TOP1 = MEASURES["top1"]


def find_measures(names: Sequence[str]) -> tuple[Measure, ...]:
    """Return the measures called `names`; 'NAME.before' and 'NAME.top1' tell of a run's other models.

    Raises:
        UsageError: one does not exist.
    """
    return tuple(dict.fromkeys(map(_find, names)))


def require_models(measures: Sequence[Measure], runs: Sequence[StoredRun], select: Selection) -> None:
    """Refuse a value of another model that no run has.

    Raises:
        UsageError: there is such a value.
    """
    models: set[str] = set()
    for run in runs:
        if run.result is not None and (epoch := selected_epoch(run, select)) is not None:
            models.update(run.result.models_before, epoch.models)
    for measure in measures:
        if measure.model and measure.model not in models:
            raise UsageError(
                f"no run has numbers of a model '{measure.model}'.",
                suggestion(measure.model, models, "Other models"),
            )


def _find(name: str) -> Measure:
    model, _, what = name.rpartition(".")
    if model and what in _OF_MODELS:
        return _OF_MODELS[what](model)
    if name not in MEASURES:
        raise UsageError(f"there is no value '{name}'.", suggestion(name, MEASURES, "Values"))
    return MEASURES[name]


def _before(model: str) -> Measure:
    def read(result: RunResult, _epoch: Selected, _evaluation: Evaluation | None) -> float | None:
        found = result.models_before.get(model)
        return found and found.test.top1

    return Measure(
        name=f"{model}.before", title=f"{model} before (%)", higher_is_better=True, read=read, model=model
    )


def _after(model: str) -> Measure:
    def read(_result: RunResult, epoch: Selected, _evaluation: Evaluation | None) -> float | None:
        found = epoch.models.get(model)
        return found and found.test.top1

    return Measure(
        name=f"{model}.top1", title=f"{model} after (%)", higher_is_better=True, read=read, model=model
    )


_OF_MODELS: Mapping[str, Callable[[str], Measure]] = {"before": _before, "top1": _after}
"""Values of a run's other models: 'teacher.before', 'teacher.top1'."""


def values_of(group: Replicates, measure: Measure, evaluations: Mapping[str, Evaluation]) -> list[float]:
    """Return a value of each counted run of a group; of those only that have it."""
    pairs = zip(group.counted, group.selected, strict=True)
    found = [measure.read(run.result, epoch, evaluations.get(run.key)) for run, epoch in pairs if run.result]
    return [value for value in found if value is not None]


def summary_of(group: Replicates, measure: Measure, evaluations: Mapping[str, Evaluation]) -> Summary | None:
    """Return n, mean and std of a value over a group; None when no run has it."""
    values = values_of(group, measure, evaluations)
    return summarize(values) if values else None


def value_of(
    run: StoredRun, measure: Measure, select: Selection, evaluation: Evaluation | None
) -> float | None:
    """Return a value of a run; None unless it finished and has it."""
    epoch = selected_epoch(run, select)
    if epoch is None or run.result is None:
        return None
    return measure.read(run.result, epoch, evaluation)
