from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl.errors import KdctlError
from kdctl.records import EpochResult
from kdctl.store.json_lines import JsonLines


@pytest.fixture
def lines(tmp_path: Path) -> JsonLines[EpochResult]:
    return JsonLines(tmp_path / "run" / "epochs.jsonl", EpochResult)


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
