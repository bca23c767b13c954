from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdctl.evaluation_records import Evaluation, Latency
from kdctl.records import EpochResult, ModelFacts, RunResult, RunState, Selected, SplitMetrics
from kdctl.serialization import canonical_json, from_tree, to_tree

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)
METRICS = SplitMetrics(top1=75.0, top5=93.5, loss=0.98)
FACTS = ModelFacts(
    student_parameters=100,
    shipped_parameters=120,
    teacher_parameters=600,
    projector_parameters=20,
    untrained=("classifier",),
)
RESULT = RunResult(
    state=RunState.FINISHED,
    epochs=240,
    selected={"last": Selected(epoch=240, test=METRICS, val=None)},
    facts=FACTS,
    teacher_test_top1=76.3,
    train_seconds=12.5,
    images_per_second=1e4,
)
EPOCH = EpochResult(
    epoch=1,
    learning_rate=0.05,
    train_loss=4.6,
    train_terms={"task": 4.6},
    train_top1=1.2,
    test=METRICS,
    val=METRICS,
    seconds=1.0,
    images_per_second=5e4,
    phase="hint",
    metrics={"kept_percent": 99.5},
)


@given(TREES)
@pytest.mark.extended
def test_canonical_json_keeps_the_content(tree: Any) -> None:
    assert json.loads(canonical_json(tree)) == tree


@given(st.dictionaries(st.text(), SCALARS), st.randoms())
def test_canonical_json_knows_no_order_of_keys(tree: dict[str, Any], random: Any) -> None:
    keys = list(tree)
    random.shuffle(keys)
    assert canonical_json({key: tree[key] for key in keys}) == canonical_json(tree)


def test_canonical_json_is_without_white_space_and_in_plain_letters() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "±"}) == '{"a":"±","b":[1,2.5]}'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_json_cannot_hold(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": number})


@pytest.mark.parametrize(
    "record",
    [
        RESULT,
        EPOCH,
    ],
)
def test_a_record_survives_its_trip_through_json(record: Any) -> None:
    assert from_tree(type(record), json.loads(canonical_json(to_tree(record)))) == record


def test_an_epoch_of_an_earlier_version_is_still_read() -> None:
    tree = {
        **{"epoch": 1, "learning_rate": 0.05, "train_loss": 4.6, "train_terms": {"task": 4.6}},
        **{"train_top1": 1.2, "test": to_tree(METRICS), "val": None},
        **{"seconds": 1.0, "images_per_second": 5e4},
    }
    epoch = from_tree(EpochResult, tree)
    assert (epoch.phase, epoch.metrics) == ("", {})
    assert (epoch.started, epoch.ended) == ("", "")


def test_an_epoch_began_as_long_before_its_end_as_it_took() -> None:
    epoch = dataclasses.replace(EPOCH, seconds=2.5, ended="2026-01-31T12:00:01.000+00:00")
    assert epoch.started == "2026-01-31T11:59:58.500+00:00"
    assert from_tree(EpochResult, json.loads(canonical_json(to_tree(epoch)))).ended == epoch.ended
    assert dataclasses.replace(epoch, ended="") == epoch, "the time of day is no result"
    east = dataclasses.replace(epoch, ended="2026-01-31T14:00:01+02:00")
    assert (east.ended_at, east.started) == (epoch.ended_at, epoch.started)
    assert dataclasses.replace(epoch, ended="2026-01-31T12:00:01").ended_at == epoch.ended_at


@pytest.mark.parametrize("ended", ["", "yesterday", "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
def test_a_time_that_somebody_else_wrote_may_be_none(ended: str) -> None:
    epoch = dataclasses.replace(EPOCH, ended=ended)
    assert (epoch.ended_at, epoch.started) == (None, "")


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e30])
def test_of_a_length_that_is_none_no_beginning_follows(seconds: float) -> None:
    assert dataclasses.replace(EPOCH, ended="2026-01-31T12:00:01+00:00", seconds=seconds).started == ""


def test_an_evaluation_of_an_earlier_version_is_still_read() -> None:
    tree = {
        "run_key": "0123456789abcdef",
        "selection": "last",
        "split": "test",
        "metrics": to_tree(METRICS),
        "teacher_agreement": None,
        "parameters": 100,
        "checkpoint_sha256": "c" * 64,
    }
    evaluation = from_tree(Evaluation, tree)
    assert evaluation.metrics == METRICS
    assert evaluation.flops is None
    assert from_tree(Evaluation, json.loads(canonical_json(to_tree(evaluation)))) == evaluation


def test_latency_is_no_part_of_what_an_evaluation_says_of_the_model() -> None:
    evaluation = Evaluation(
        run_key="0123456789abcdef",
        selection="last",
        split="test",
        metrics=METRICS,
        teacher_agreement=None,
        parameters=100,
        checkpoint_sha256="c" * 64,
    )
    timed = dataclasses.replace(
        evaluation, latency=(Latency(batch_size=1, ms_per_image=2.0, device="cpu", num_threads=1),)
    )
    assert timed == evaluation
    assert from_tree(Evaluation, to_tree(timed)).latency == timed.latency


@pytest.mark.parametrize("change", [{"epochs": "many"}, {"state": "lost"}, {"facts": None}])
def test_a_tree_that_is_no_such_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        from_tree(RunResult, {**to_tree(RESULT), **change})


def test_a_tree_holds_plain_values_only() -> None:
    tree = to_tree(RESULT)
    assert tree["state"] == "finished"
    assert type(tree["state"]) is str
    assert tree["facts"]["untrained"] == ["classifier"]
    assert to_tree({1: (RunState.FAILED,)}) == {"1": ["failed"]}


def test_the_pruning_ratio_is_what_is_saved_of_the_teacher() -> None:
    assert FACTS.pruning_percent == pytest.approx(80.0)
    alone = from_tree(ModelFacts, {**to_tree(FACTS), "teacher_parameters": None})
    assert alone.pruning_percent is None
