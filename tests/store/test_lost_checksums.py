"""A record that has lost its checksum is told from one of kdctl 0.2.0, which wrote none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl.errors import KdctlError, Mistake
from kdctl.evaluation_records import Evaluation
from kdctl.records import Artifact, Environment, EpochResult, PlannedRun, RunResult
from kdctl.store.folder import RunFolder
from kdctl.store.lost_checksums import lost_checksums

CHECKSUM = re.compile(r',"checksum":"[0-9a-f]{16}"')

Writer = Callable[[RunFolder], None]


@pytest.fixture
def start(plan_run: Callable[..., PlannedRun], environment: Environment) -> Writer:
    """Write what the start of a run writes."""

    def write(folder: RunFolder) -> None:
        folder.write_plan(plan_run(1))
        folder.write_environment(environment)

    return write


@pytest.fixture
def folder(
    tmp_path: Path,
    start: Writer,
    plan_run: Callable[..., PlannedRun],
    make_epoch: Callable[..., EpochResult],
    make_result: Callable[..., RunResult],
    make_evaluation: Callable[..., Evaluation],
    artifact: Artifact,
) -> RunFolder:
    """A finished run that was evaluated twice."""
    folder = RunFolder(tmp_path, plan_run(1).key)
    start(folder)
    for number in (1, 2, 3):
        folder.append_epoch(make_epoch(number))
    folder.write_result(make_result(), [artifact])
    for top1 in (70.0, 71.0):
        folder.append_evaluation(make_evaluation(folder.key, top1))
    return folder


def strip(folder: RunFolder, *names: str) -> None:
    for name in names:
        path = folder.path / name
        path.write_text(CHECKSUM.sub("", path.read_text()))


def as_0_2_0_wrote(folder: RunFolder) -> None:
    strip(folder, *(path.name for path in folder.path.iterdir()))


def found(folder: RunFolder) -> list[str]:
    problems = [mistake.problem for mistake in lost_checksums(folder)]
    return [problem.removeprefix(f"{folder.path}/") for problem in problems]


def test_nothing_is_lost_where_all_records_have_checksums(folder: RunFolder) -> None:
    assert found(folder) == []


def test_nothing_is_lost_where_no_record_has_one(folder: RunFolder) -> None:
    as_0_2_0_wrote(folder)
    assert found(folder) == []


@pytest.mark.parametrize("name", ["plan.json", "environment.json", "result.json"])
def test_a_record_without_one_beside_others_is_named(folder: RunFolder, name: str) -> None:
    strip(folder, name)
    assert found(folder) == [f"{name} is damaged: its checksum is missing."]


@pytest.mark.parametrize("kept", ["plan.json", "environment.json", "result.json", "epochs.jsonl"])
def test_a_single_checksum_that_is_left_tells_of_records_that_lost_theirs(
    folder: RunFolder, kept: str
) -> None:
    strip(folder, *(path.name for path in folder.path.iterdir() if path.name != kept))
    lost = [name for name in ("plan.json", "environment.json", "result.json") if name != kept]
    wanted = [f"{name} is damaged: its checksum is missing." for name in lost]
    if kept == "result.json":  # every evaluation came after it
        wanted.append("evaluations.jsonl is damaged: the checksum of line 1 is missing.")
    assert found(folder) == wanted


def test_a_failure_without_one_is_named(folder: RunFolder) -> None:
    (folder.path / "result.json").unlink()
    folder.write_failure(Mistake(problem="it broke.", hint="mend it."))
    assert found(folder) == []
    strip(folder, "failure.json")
    assert found(folder) == ["failure.json is damaged: its checksum is missing."]


@pytest.mark.parametrize(("number", "line"), [(1, 1), (2, 2)])
def test_an_evaluation_without_one_is_named(folder: RunFolder, number: int, line: int) -> None:
    path = folder.path / "evaluations.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1 :] = [CHECKSUM.sub("", text) for text in lines[number - 1 :]]
    path.write_text("".join(lines))
    assert found(folder) == [f"evaluations.jsonl is damaged: the checksum of line {line} is missing."]


def test_epochs_from_before_a_start_may_lack_theirs_and_later_ones_may_not(
    folder: RunFolder, start: Writer, make_epoch: Callable[..., EpochResult]
) -> None:
    (folder.path / "result.json").unlink()
    as_0_2_0_wrote(folder)
    start(folder)
    folder.append_epoch(make_epoch(4))
    assert found(folder)[1:] == []  # the evaluations came before an end that is gone
    (folder.path / "evaluations.jsonl").unlink()
    assert found(folder) == []
    with (folder.path / "epochs.jsonl").open("a") as file:
        file.write(CHECKSUM.sub("", (folder.path / "epochs.jsonl").read_text().splitlines()[-1]) + "\n")
    assert found(folder) == ["epochs.jsonl is damaged: the checksum of line 5 is missing."]


def test_what_is_done_with_a_run_of_0_2_0_makes_no_other_record_suspect(
    folder: RunFolder,
    artifact: Artifact,
    plan_run: Callable[..., PlannedRun],
    make_evaluation: Callable[..., Evaluation],
) -> None:
    as_0_2_0_wrote(folder)
    folder.forget_artifacts([artifact.name])
    folder.append_evaluation(make_evaluation(folder.key))
    folder.write_dropped(plan_run(1), "it was no good")
    assert folder.artifacts() == ()
    assert found(folder) == []


def test_an_environment_of_another_run_is_not_read(folder: RunFolder, environment: Environment) -> None:
    other = RunFolder(folder.path.parent, "0" * 16)
    other.write_environment(environment)
    (other.path / "environment.json").rename(folder.path / "environment.json")
    with pytest.raises(KdctlError, match=r"environment\.json is damaged: it speaks of another run, 0{16}"):
        folder.environment()
