"""Figures of what `kdctl eval` found of classes: names, numbers and configurations that belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kdctl.errors import RecipeError
from kdctl.evaluation_records import Evaluation
from kdctl.records import SplitMetrics, StoredRun
from kdctl.report.figure import FigureData, NothingToDrawError
from kdctl.report.plotting import draw
from kdctl.store.json_files import from_json, to_json
from tests.report.test_plotting import data_of

MakeRun = Callable[..., StoredRun]


def evaluation(run: StoredRun, **found: Any) -> Evaluation:
    """Two of two wasps are found, one of two ants; the labels are 0 and 1."""
    written = Evaluation(
        run_key=run.key,
        selection="last",
        split="test",
        metrics=SplitMetrics(top1=75.0, top5=100.0, loss=1.0),
        teacher_agreement=None,
        parameters=1,
        checkpoint_sha256="0",
        per_class_top1={"wasp": 100.0, "ant": 50.0},
        confusion=((0, 0, 2), (1, 0, 1), (1, 1, 1)),
        class_names=("wasp", "ant"),
    )
    return from_json(Evaluation, to_json(dataclasses.replace(written, **found)))


def evaluated(runs: list[StoredRun], **found: Any) -> FigureData:
    known = {run.key: [evaluation(run, **found)] for run in runs}
    return dataclasses.replace(data_of(runs), evaluations=known.__getitem__)


def test_a_confusion_matrix_names_classes_in_the_order_of_their_labels(make_run: MakeRun) -> None:
    axes, _ = draw("confusion", evaluated([make_run(75.0)])).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["wasp", "ant"]
    (image,) = axes.images
    assert np.asarray(image.get_array()).tolist() == [[100.0, 0.0], [50.0, 50.0]]


def test_an_older_evaluation_that_lost_the_order_of_its_classes_gives_no_confusion_matrix(
    make_run: MakeRun,
) -> None:
    run = make_run(75.0)
    with pytest.raises(NothingToDrawError, match="which classes it takes for which") as raised:
        draw("confusion", evaluated([run], class_names=()))
    assert raised.value.hint == f"evaluate them: kdctl eval {run.key[:8]}"
    alphabetical = {"class_names": (), "confusion": ((0, 1, 1), (0, 0, 1), (1, 1, 2))}
    axes, _ = draw("confusion", evaluated([run], **alphabetical)).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ant", "wasp"]


def test_a_confusion_matrix_says_of_which_setting_and_epoch_it_is(make_run: MakeRun) -> None:
    runs = [make_run(75.0 + rate, settings={"optimizer.learning_rate": rate}) for rate in (0.05, 0.2)]
    told = draw("confusion", evaluated(runs)).get_suptitle()
    assert "the most accurate of those evaluated: learning rate 0.2" in told
    assert "test split, last epoch; mean over evaluated seeds, n = 1" in told


def test_the_most_accurate_is_shown_where_others_know_other_classes(make_run: MakeRun) -> None:
    runs = [make_run(70.0, settings={"data.name": "birds"}), make_run(75.0)]
    other = {"class_names": ("owl", "auk"), "per_class_top1": {"owl": 100.0, "auk": 50.0}}
    known = {runs[0].key: [evaluation(runs[0], **other)], runs[1].key: [evaluation(runs[1])]}
    data = dataclasses.replace(data_of(runs), evaluations=known.__getitem__)
    axes, _ = draw("confusion", data).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["wasp", "ant"]


def test_named_classes_stand_on_an_axis_that_says_their_order(make_run: MakeRun) -> None:
    runs = [make_run(75.0, settings={"method.name": name}) for name in ("kd", "simkd")]
    figure = draw("per_class", evaluated(runs))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "2 classes, sorted by the accuracy of the first configuration"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["wasp", "ant"]
    assert figure.get_suptitle().endswith("n = 1; last epoch")
    (alone,) = draw("per_class", evaluated(runs[:1])).axes
    assert alone.get_xlabel() == "2 classes, sorted by the accuracy"


@pytest.mark.parametrize("most", [0, -1])
def test_no_configuration_at_all_cannot_be_asked_for(make_run: MakeRun, most: int) -> None:
    with pytest.raises(RecipeError, match="greater than or equal to 1"):
        draw("per_class", evaluated([make_run(75.0)]), [f"most={most}"])
