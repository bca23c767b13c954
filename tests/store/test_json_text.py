from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from kdctl.records import Environment, EpochResult, Evaluation, PlannedRun, RunResult
from kdctl.store.json_text import from_json, to_json


@pytest.fixture
def records(
    plan_run: Callable[..., PlannedRun],
    make_epoch: Callable[..., EpochResult],
    make_result: Callable[..., RunResult],
    make_evaluation: Callable[..., Evaluation],
    environment: Environment,
) -> list[Any]:
    return [plan_run(), make_epoch(1), make_result(), make_evaluation("abcd"), environment]


def test_every_record_comes_back_as_it_was(records: list[Any]) -> None:
    for record in records:
        assert from_json(type(record), to_json(record)) == record


def test_equal_content_gives_equal_text() -> None:
    assert to_json({"b": 1, "a": (1, 2)}) == to_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'


@pytest.mark.parametrize("loss", [math.inf, -math.inf])
def test_an_infinite_loss_survives(make_epoch: Callable[..., EpochResult], loss: float) -> None:
    epoch = make_epoch(1, test_loss=loss)

    assert from_json(EpochResult, to_json(epoch)) == epoch


def test_a_loss_that_is_not_a_number_survives(make_epoch: Callable[..., EpochResult]) -> None:
    text = to_json(make_epoch(1, test_loss=math.nan))

    assert '"nan"' in text
    assert math.isnan(from_json(EpochResult, text).test.loss)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "property name"),
        ("[]", "dictionary"),
        ('{"epoch":1}', "learning_rate"),
        ('"epoch"', "dictionary"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"epoch":9223372036854775808}', "too large"),
        ('{"epoch":' + "9" * 5000 + "}", "integer string conversion"),
        ('{"phase":"\\ud800"}', "surrogates not allowed"),
        ('{"\\uDFFF":1}', "surrogates not allowed"),
        ("\x00", "Expecting value"),
    ],
)
def test_what_is_no_such_record_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        from_json(EpochResult, text)


def test_a_letter_outside_the_basic_plane_is_no_half_letter() -> None:
    assert from_json(dict[str, str], r'{"face":"\ud83d\ude00"}') == {"face": "\U0001f600"}
