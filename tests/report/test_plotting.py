"""Figures as files: names are neither obeyed nor read as formulas, and many settings stay legible."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from kdctl.records import EpochResult, Selection, SplitMetrics, StoredRun
from kdctl.registry import NoOptions
from kdctl.report.figure import FigureData, NothingToDrawError
from kdctl.report.figures.bars import MOST_BARS, BarsConfig, draw_bars
from kdctl.report.figures.pruning import PruningConfig, draw_pruning
from kdctl.report.figures.singular_values import draw_singular_values
from kdctl.report.plotting import add_legend, add_title, draw, log_axis, new_figure, rendered
from kdctl.report.wording import words_in_common

if TYPE_CHECKING:
    from tests.report.conftest import MakeRun

HOSTILE = "a\x1b[31m\x07\u202eb $x_{$ 数 <b>"


@pytest.mark.extended
def test_hostile_names_give_sound_files_without_a_warning() -> None:
    figure, [[axes]] = new_figure(1, 1)
    add_title(figure, HOSTILE, HOSTILE)
    (line,) = axes.plot([0.01, 0.1], [1.0, 2.0], label=HOSTILE)
    axes.set_xlabel(HOSTILE)
    axes.set_yscale("log")
    log_axis(axes, [0.01, 0.1])
    add_legend(figure, [line], [HOSTILE], title=HOSTILE)
    written = {suffix: rendered(figure, suffix) for suffix in (".svg", ".png", ".pdf")}
    ET.fromstring(written[".svg"])
    assert rb"a\x1b[31m\x07\u202eb $x_{$" in written[".svg"]


def test_names_of_ticks_are_harmless_and_leave_room_for_the_axes() -> None:
    figure, [[axes]] = new_figure(1, 1)
    axes.bar(range(3), [1.0, 2.0, 3.0])
    axes.set_xticks(range(3), ["esc\x1b[31m", f"path {'d/' * 200}images", "kd"], rotation=30, ha="right")
    rendered(figure, ".svg")  # warnings are errors: there was no room for the axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        r"esc\x1b[31m",
        "path d/d/d/d/d/…d/d/d/d/d/d/d/images",
        "kd",
    ]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {30.0}


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_no_date_of_a_build_gets_into_a_figure(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, [[axes]] = new_figure(1, 1)
    axes.plot([0.01, 0.1], [1.0, 2.0])
    plain = rendered(figure, suffix)
    for date in ("x", "0"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
        assert rendered(figure, suffix) == plain
        assert os.environ["SOURCE_DATE_EPOCH"] == date


def data_of(runs: Sequence[StoredRun]) -> FigureData:
    return FigureData(
        runs=tuple(runs),
        teachers=(),
        select=Selection.LAST,
        totals={},
        epochs=lambda key: (),
        evaluations=lambda key: (),
    )


def test_bars_show_the_best_of_many_settings_in_the_order_of_a_table(make_run: MakeRun) -> None:
    rates = [round(0.001 * (place + 1), 3) for place in range(MOST_BARS + 3)]
    runs = [make_run(50.0 + place, settings={"optimizer.learning_rate": rates[place]}) for place in range(43)]
    figure = draw_bars(data_of(runs[::-1]), BarsConfig())
    (axes,) = figure.axes
    tops = [float(patch.get_window_extent().y1) for patch in axes.patches]
    assert len(tops) == MOST_BARS
    assert tops == sorted(tops)
    names = axes.get_xticklabels()
    assert (axes.get_xlabel(), names[0].get_text()) == ("learning rate", "0.004")
    assert {name.get_horizontalalignment() for name in names} == {"right"}, "a name ends below its bar"
    assert "the best 40 by test accuracy; 3 configurations left out" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("labels", "words", "short"),
    [
        (["learning rate 0.05", "learning rate 1e-05"], "learning rate", ["0.05", "1e-05"]),
        (["learning rate 0.05"], "", ["learning rate 0.05"]),
        (["learning rate 0.05", "kd 0.05"], "", ["learning rate 0.05", "kd 0.05"]),
        (["resnet20 → resnet8", "resnet20 → vgg8"], "", ["resnet20 → resnet8", "resnet20 → vgg8"]),
        (["4", "8"], "", ["4", "8"]),
    ],
)
def test_what_stands_before_all_numbers_is_said_once(labels: list[str], words: str, short: list[str]) -> None:
    assert words_in_common(labels) == (words, short)


def test_settings_that_are_numbers_stand_on_an_axis_and_in_a_legend_with_a_title(make_run: MakeRun) -> None:
    runs = [
        make_run(70.0, settings={"optimizer.learning_rate": rate, "method.name": method})
        for method in ("kd", "simkd")
        for rate in (0.1, 0.2)
    ]
    figure = draw_bars(data_of(runs), BarsConfig(by="learning_rate"))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "learning rate"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.2"]
    (legend,) = draw_bars(data_of(runs), BarsConfig(by="method")).legends
    assert legend.get_title().get_text() == "learning rate"
    assert [text.get_text() for text in legend.get_texts()] == ["0.1", "0.2"]


def test_a_student_alone_has_a_pruning_ratio_beside_each_of_its_teachers(make_run: MakeRun) -> None:
    runs: list[StoredRun] = []
    for name, parameters in (("wrn_40_2", 2_000_000), ("resnet32x4", 8_000_000)):
        run = make_run(75.0, settings={"teachers": [{"name": name, "run": "0123456789abcdef"}]})
        assert run.result is not None
        facts = dataclasses.replace(
            run.result.facts, student_parameters=1_000_000, teacher_parameters=parameters
        )
        runs.append(dataclasses.replace(run, result=dataclasses.replace(run.result, facts=facts)))
    (axes,) = draw_pruning(data_of(runs), PruningConfig()).axes
    points = [np.asarray(line.get_data()).tolist() for line in axes.lines]
    assert [x[0] for x, y in points if y == [0, 1]] == [50.0, 87.5]


def test_a_model_that_is_smaller_than_its_student_has_a_place_in_the_histogram(make_run: MakeRun) -> None:
    runs: list[StoredRun] = []
    for place, shipped in enumerate((1_030_000, 1_010_000, 990_000)):
        run = make_run(75.0, settings={"method.temperature": float(place)})
        assert run.result is not None
        facts = dataclasses.replace(
            run.result.facts,
            student_parameters=1_000_000,
            shipped_parameters=shipped,
            teacher_parameters=2_000_000,
        )
        runs.append(dataclasses.replace(run, result=dataclasses.replace(run.result, facts=facts)))
    (axes,) = draw("pruning_cost", data_of(runs)).axes
    counts = [(patch.get_x(), patch.get_height()) for patch in axes.patches if isinstance(patch, Rectangle)]
    assert sum(height for _, height in counts) == 3
    assert min(x for x, height in counts if height) == pytest.approx(-0.5)


def test_singular_values_are_averaged_over_finished_runs(make_run: MakeRun) -> None:
    runs = [make_run(75.0), make_run(76.0, seed=1), make_run(seed=2, state="diverged")]
    told = {runs[0].key: (2.0, 4.0), runs[1].key: (4.0, 6.0), runs[2].key: (3.0, math.nan)}

    def epochs(key: str) -> list[EpochResult]:
        return list(map(epoch_telling, (1, 2), told[key]))

    data = dataclasses.replace(data_of(runs), epochs=epochs)
    (axes,) = draw_singular_values(data, NoOptions()).axes
    (line,) = axes.lines
    assert np.asarray(line.get_ydata()).tolist() == [3.0, 5.0]


def test_every_panel_of_singular_values_has_epochs_below_it_and_the_colours_of_the_legend(
    make_run: MakeRun,
) -> None:
    runs = [make_run(75.0, settings={"method.temperature": float(place)}) for place in range(4)]
    known = {run.key: range(1, 9 if run is runs[0] else 5) for run in runs}

    def epochs(key: str) -> list[EpochResult]:
        values = {f"singular_value_{rank}": 10.0 / rank for rank in known[key]}
        return [dataclasses.replace(epoch_telling(number, 1.0), metrics=values) for number in (1, 2)]

    figure = draw_singular_values(dataclasses.replace(data_of(runs), epochs=epochs), NoOptions())
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in shown] == ["", "epoch", "epoch", "epoch"]
    numbered = [axes.xaxis.get_tick_params()["labelbottom"] for axes in shown]
    assert numbered == [False, True, True, True]
    colours = [[line.get_color() for line in axes.lines] for axes in shown]
    assert colours[1] == colours[0][:4], "the fourth value of eight looks like the fourth of four"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["no. 1", "no. 5", "no. 8"]


def test_no_two_of_many_configurations_look_alike_in_a_figure_of_pruning(make_run: MakeRun) -> None:
    runs = [
        make_run(70.0, settings={"student.name": student, "method.temperature": float(place)})
        for student in ("resnet8", "resnet8x4")
        for place in range(10)
    ]
    (axes,) = draw_pruning(data_of(runs), PruningConfig(students=False)).axes
    drawn = [line for line in axes.lines if line.get_marker() not in ("_", "|")]
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 20


def test_methods_have_the_colours_of_their_curves_in_a_figure_of_pruning(make_run: MakeRun) -> None:
    alone = make_run(70.0, settings={"method.name": "ce", "teachers": []})
    assert alone.result is not None
    facts = dataclasses.replace(alone.result.facts, teacher_parameters=None)
    alone = dataclasses.replace(alone, result=dataclasses.replace(alone.result, facts=facts))
    runs = [alone, *(make_run(75.0, settings={"method.name": name}) for name in ("kd", "simkd"))]
    data = dataclasses.replace(data_of(runs), epochs=lambda key: [epoch_telling(1, 1.0)])
    (curves, *_) = draw("accuracy_curves", data).axes
    (pruning,) = draw_pruning(data, PruningConfig(students=False)).axes
    drawn = [line for line in pruning.lines if line.get_marker() not in ("_", "|")]
    assert [line.get_color() for line in drawn] == [line.get_color() for line in curves.lines][1:]


def test_a_figure_of_pruning_has_the_baseline_and_says_once_what_all_share(make_run: MakeRun) -> None:
    alone = [
        make_run(top1, seed=seed, settings={"method.name": "ce", "teachers": []})
        for seed, top1 in enumerate((72.0, 74.0))
    ]
    without: list[StoredRun] = []
    for run in alone:
        assert run.result is not None
        facts = dataclasses.replace(run.result.facts, teacher_parameters=None)
        without.append(dataclasses.replace(run, result=dataclasses.replace(run.result, facts=facts)))
    runs = [
        *without,
        *(make_run(76.0, settings={"method.projector.reduction": number}) for number in (2, 4)),
    ]
    figure = draw_pruning(data_of(runs), PruningConfig())
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["reduction 2", "reduction 4", "student alone", "student trained alone"]
    assert ", simkd, " in figure.get_suptitle()
    assert "n = 1 to 2" in figure.get_suptitle()
    (axes,) = figure.axes
    (point,) = [line for line in axes.lines if line.get_marker() == "x"]
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert np.asarray(point.get_data()).tolist() == [[np.asarray(line.get_xdata())[0]], [73.0]]


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ([{"method.loss": "l2"}], "sweep one: [grid] method.projector.reduction = [...]."),
        (
            [{"method.loss": loss, "optimizer.learning_rate": 0.1} for loss in ("l2", "kl")],
            "these differ in loss; see kdctl plot bars --set by=loss.",
        ),
        (
            [
                {"method.loss": loss, "optimizer.learning_rate": rate}
                for loss in ("l2", "kl")
                for rate in (0.1, 0.2)
            ],
            "these differ in loss and learning_rate; "
            "see kdctl plot learning_rate and kdctl plot bars --set by=loss.",
        ),
    ],
    ids=["nothing", "loss", "loss and rate"],
)
def test_where_no_number_varies_the_hint_names_what_does(
    make_run: MakeRun, settings: Sequence[Mapping[str, Any]], hint: str
) -> None:
    runs = [make_run(70.0, settings={"method.projector.reduction": 2, **each}) for each in settings]
    with pytest.raises(NothingToDrawError) as caught:
        draw("sensitivity", data_of(runs))
    assert caught.value.hint == hint


def test_a_method_that_all_lines_share_is_told_in_the_title(make_run: MakeRun) -> None:
    runs = [
        make_run(70.0, settings={"method.loss": loss, "optimizer.learning_rate": rate})
        for loss in ("l2", "kl")
        for rate in (0.1, 0.2)
    ]
    assert ", simkd, " in draw("learning_rate", data_of(runs)).get_suptitle()


def test_losses_of_other_orders_in_panels_have_a_logarithmic_axis(make_run: MakeRun) -> None:
    runs = [
        make_run(70.0, settings={"method.loss": loss, "optimizer.learning_rate": rate})
        for loss in ("l2", "kl")
        for rate in (0.1, 0.2, 0.3, 0.4, 0.5)
    ]
    l2 = {run.key for run in runs[:5]}

    def epochs(key: str) -> list[EpochResult]:
        epoch = epoch_telling(1, 1.0)
        return [dataclasses.replace(epoch, train_loss=8700.0 if key in l2 else 60.0)]

    axes = draw("loss_curves", dataclasses.replace(data_of(runs), epochs=epochs)).axes
    assert [(each.get_title(), each.get_yscale()) for each in axes] == [
        ("loss l2", "linear"),
        ("loss kl", "linear"),
        ("", "log"),
        ("", "log"),
    ]


def test_panels_are_those_that_leave_out_the_fewest(make_run: MakeRun) -> None:
    runs = [
        make_run(70.0, settings={"method.loss": loss, "method.taps": taps, "optimizer.learning_rate": rate})
        for loss, taps in (("l2", "end"), ("l2", "biased"), ("l2", "all"), ("kl", "end"))
        for rate in (0.1, 0.2, 0.3)
    ]
    data = dataclasses.replace(data_of(runs), epochs=lambda key: [epoch_telling(1, 1.0)])
    figure = draw("accuracy_curves", data)
    assert "left out" not in figure.get_suptitle()
    assert figure.axes[0].get_title() == "taps end"


def test_bars_of_few_settings_in_many_places_have_room_for_their_numbers(make_run: MakeRun) -> None:
    alone = make_run(70.0, settings={"method.name": "ce", "teachers": []})
    pairs = [("wrn_40_2", name) for name in ("kd", "dkd", "dist", "at", "simkd")]
    others = [
        make_run(75.0, settings={"method.name": name, "teachers": [{"name": teacher, "run": "0" * 16}]})
        for teacher, name in [*pairs, ("resnet32x4", "kd"), ("resnet32x4", "dkd")]
    ]
    figure = draw_bars(data_of([alone, *others]), BarsConfig())
    (axes,) = figure.axes
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(others) + 1
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
    assert axes.get_xticklabels()[0].get_text() == "no teacher"


def test_a_title_never_parts_a_teacher_from_its_student() -> None:
    figure, _ = new_figure()
    add_title(figure, "Accuracy", "digits (60 images of each class), resnet20 → resnet8, protocol custom")
    assert "resnet20 → resnet8" in figure.get_suptitle()


def test_curves_say_which_runs_they_are_means_of(make_run: MakeRun) -> None:
    runs = [
        *(make_run(75.0 + seed, seed=seed, rules=("best-test",)) for seed in range(2)),
        *(make_run(seed=seed, state="diverged") for seed in (2, 3)),
        make_run(state="running", settings={"method.temperature": 2.0}),
    ]
    epochs = [epoch_telling(number, 1.0) for number in (1, 2)]
    data = dataclasses.replace(data_of(runs), epochs={run.key: epochs for run in runs}.__getitem__)
    told = draw("accuracy_curves", data).get_suptitle().replace("\n", " ")
    assert "over seeds, n = 1 to 2; 2 runs that did not finish left out" in told
    assert "no run of 1 configuration has finished" in told


def epoch_telling(number: int, value: float) -> EpochResult:
    return EpochResult(
        epoch=number,
        learning_rate=0.1,
        train_loss=1.0,
        train_terms={},
        train_top1=50.0,
        test=SplitMetrics(top1=50.0, top5=90.0, loss=1.0),
        val=None,
        seconds=1.0,
        images_per_second=1e3,
        metrics={"singular_value_1": value},
    )
