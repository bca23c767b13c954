from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.errors import KdctlError
from kdctl.evaluation_records import Evaluation
from kdctl.records import Environment, EpochResult, PlannedRun, RunResult
from kdctl.store.json_files import JsonLines, from_json, to_json


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


@pytest.fixture
def lines(tmp_path: Path) -> JsonLines[EpochResult]:
    return JsonLines(tmp_path / "run" / "epochs.jsonl", EpochResult, if_damaged="restore it")


def test_a_missing_file_holds_nothing(lines: JsonLines[EpochResult]) -> None:
    assert lines.read() == []


def test_records_come_back_in_their_order(
    lines: JsonLines[EpochResult], make_epoch: Callable[..., EpochResult]
) -> None:
    for number in (1, 2, 3):
        lines.append(make_epoch(number))

    assert lines.read() == [make_epoch(1), make_epoch(2), make_epoch(3)]


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_a_torn_last_line_is_passed_over_and_then_written_again(
    lines: JsonLines[EpochResult], make_epoch: Callable[..., EpochResult], kept: int
) -> None:
    lines.append(make_epoch(1))
    whole = lines.path.read_bytes()
    lines.path.write_bytes(whole + whole[:kept])

    assert lines.read() == [make_epoch(1)]
    lines.append(make_epoch(2))
    assert lines.read() == [make_epoch(1), make_epoch(2)]


def test_a_file_that_is_one_torn_line_holds_nothing(
    lines: JsonLines[EpochResult], make_epoch: Callable[..., EpochResult]
) -> None:
    lines.path.parent.mkdir()
    lines.path.write_bytes(b'{"epoch":')

    assert lines.read() == []
    lines.append(make_epoch(1))
    assert lines.read() == [make_epoch(1)]


def test_a_damaged_line_is_named(
    lines: JsonLines[EpochResult], make_epoch: Callable[..., EpochResult]
) -> None:
    lines.append(make_epoch(1))
    with lines.path.open("ab") as file:
        file.write(b"nonsense\n")

    with pytest.raises(KdctlError, match=r"epochs\.jsonl is damaged: line 2"):
        lines.read()
