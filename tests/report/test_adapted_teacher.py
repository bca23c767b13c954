"""The figure of a teacher before and after it adapted."""

from __future__ import annotations

import dataclasses

import pytest

from kdctl.errors import UsageError
from kdctl.records import ModelMetrics, Selection, SplitMetrics, StoredRun
from kdctl.report.build import build_report
from kdctl.report.figure import FigureData, NothingToDrawError
from kdctl.report.plotting import draw


def adapting(run: StoredRun, *, after: float | None) -> StoredRun:
    """Give a run a teacher of 98 %, and its accuracy in each selected epoch unless that is unknown."""
    assert run.result is not None
    models = {} if after is None else {"teacher": metrics(after)}
    selected = {
        rule: dataclasses.replace(epoch, models=models) for rule, epoch in run.result.selected.items()
    }
    result = dataclasses.replace(run.result, selected=selected, models_before={"teacher": metrics(98.0)})
    return dataclasses.replace(run, result=result)


def metrics(top1: float) -> ModelMetrics:
    return ModelMetrics(test=SplitMetrics(loss=0.1, top1=top1, top5=100.0), val=None)


def data(*runs: StoredRun) -> FigureData:
    return FigureData(
        runs=runs,
        teachers=(),
        select=Selection.LAST,
        totals={},
        epochs=lambda _: (),
        evaluations=lambda _: (),
    )


def test_runs_whose_teacher_has_no_accuracy_afterwards_are_left_out(make_run) -> None:
    """A store may hold runs of a version that kept none."""
    settings = {"method.name": "atsc"}
    known = [adapting(make_run(97.0, seed=seed, settings=settings), after=97.5) for seed in (0, 1)]
    unknown = adapting(make_run(96.0, settings={"method.name": "atsc", "method.alpha": 2.0}), after=None)
    figure = draw("adapted_teacher", data(*known, unknown))
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()) == 1
    with pytest.raises(NothingToDrawError, match="no finished run has a teacher that adapts"):
        draw("adapted_teacher", data(unknown))


def test_a_value_of_a_model_that_no_run_has_is_refused_with_those_there_are(make_run) -> None:
    runs = [
        adapting(make_run(97.0, seed=seed, settings={"method.name": "atsc"}), after=97.5) for seed in (0, 1)
    ]
    table = build_report(runs, rows=["method"], values=["teacher.before", "teacher.top1"])
    assert [cell.text for cell in table.rows[0]][1:3] == ["98.00 ± 0.00", "97.50 ± 0.00"]
    with pytest.raises(UsageError, match="no run has numbers of a model 'teacher2'") as refusal:
        build_report(runs, rows=["method"], values=["teacher2.top1"])
    assert refusal.value.hint == "did you mean 'teacher'? Other models: teacher."
    with pytest.raises(UsageError) as refusal:
        build_report([make_run(97.0)], values=["peer_1.before"])
    assert refusal.value.hint == "There are no other models."
