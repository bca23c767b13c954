from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl.errors import KdctlError
from kdctl.evaluation_records import Evaluation
from kdctl.records import Environment, EpochResult, PlannedRun, RunResult, Selected
from kdctl.store.folder import RunFolder
from kdctl.store.integrity import changed_epochs, contradictions, lost_environment, read_ended_run

MakeEpoch = Callable[..., EpochResult]


@pytest.fixture
def folder(
    tmp_path: Path,
    plan_run: Callable[..., PlannedRun],
    make_epoch: MakeEpoch,
    make_result: Callable[..., RunResult],
    environment: Environment,
) -> RunFolder:
    """A finished run of three epochs, of which the second was the best."""
    run = plan_run(1)
    folder = RunFolder(tmp_path, run.key)
    folder.write_plan(run)
    folder.write_environment(environment)
    epochs = [make_epoch(number) for number in (1, 2, 3)]
    epochs[1] = dataclasses.replace(epochs[1], test=dataclasses.replace(epochs[1].test, top1=55.0))
    for epoch in epochs:
        folder.append_epoch(epoch)
    selected = {
        "last": Selected(epoch=3, test=epochs[2].test, val=None),
        "best-test": Selected(epoch=2, test=epochs[1].test, val=None),
    }
    folder.write_result(dataclasses.replace(make_result(), selected=selected))
    return folder


def as_earlier_versions_wrote(folder: RunFolder) -> None:
    """Take out of the files what they did not write."""
    without_checksums(folder)
    path = folder.path / "result.json"
    tree = json.loads(path.read_text())
    del tree["run"], tree["epochs_sha256"]
    path.write_text(json.dumps(tree, sort_keys=True, separators=(",", ":")))


def without_checksums(folder: RunFolder) -> None:
    """Take the checksums out of all records, and let the digest of the epochs fit."""
    for path in folder.path.glob("*.json*"):
        path.write_text(re.sub(r',"checksum":"[0-9a-f]{16}"', "", path.read_text()))
    ending = folder.ending()
    assert ending is not None
    folder.write_result(ending.result, ending.artifacts)
    path = folder.path / "result.json"
    path.write_text(re.sub(r',"checksum":"[0-9a-f]{16}"', "", path.read_text()))


def alter(folder: RunFolder, name: str, old: str, new: str, place: int = 1) -> None:
    path = folder.path / name
    parts = path.read_text().split(old)
    path.write_text(old.join(parts[:place]) + new + old.join(parts[place:]))


def test_a_folder_as_it_was_written_agrees(folder: RunFolder) -> None:
    assert contradictions(folder) == []
    as_earlier_versions_wrote(folder)
    assert contradictions(folder) == []


def test_a_run_that_has_not_ended_says_nothing(folder: RunFolder) -> None:
    (folder.path / "result.json").unlink()
    assert contradictions(folder) == []


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("name", "before", "after", "place"),
    [
        ("epochs.jsonl", '"top1":40.0', '"top1":41.0', 2),
        ("epochs.jsonl", '"top1":55.0', '"top1":54.0', 1),
        ("epochs.jsonl", '"top1":40.0', '"top1":56.0', 1),
        ("result.json", '"top1":40.0', '"top1":91.0', 1),
        ("result.json", '"top1":55.0', '"top1":91.0', 1),
        ("result.json", '"epoch":3', '"epoch":1', 1),
        ("result.json", '"epochs":3', '"epochs":4', 1),
    ],
)
def test_an_altered_number_is_found(
    folder: RunFolder, name: str, before: str, after: str, place: int, old: bool
) -> None:
    if old:
        as_earlier_versions_wrote(folder)
    alter(folder, name, before, after, place)
    if old:
        assert folder.key in contradictions(folder)[0].problem
    else:
        with pytest.raises(KdctlError, match="altered after it was written") as error:
            contradictions(folder)
        assert f"{folder.key}/{name}" in error.value.problem


def test_an_epoch_that_was_cut_off_is_found(folder: RunFolder) -> None:
    as_earlier_versions_wrote(folder)
    path = folder.path / "epochs.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    (found,) = contradictions(folder)
    assert "holds 2 epochs, its result.json says 3" in found.problem


def test_a_number_that_nobody_chose_is_found_by_the_digest(folder: RunFolder) -> None:
    without_checksums(folder)
    alter(folder, "epochs.jsonl", '"train_top1":41.5', '"train_top1":99.5')
    (found,) = contradictions(folder)
    assert "epochs.jsonl that is not what the run wrote" in found.problem


def test_a_lost_environment_is_found_and_not_missed_in_what_earlier_versions_wrote(folder: RunFolder) -> None:
    (folder.path / "environment.json").unlink()
    assert contradictions(folder) == []  # its numbers are good
    (found,) = lost_environment(folder, read_ended_run(folder))
    assert found.problem.endswith("has lost its environment.json, which each run writes when it starts.")
    as_earlier_versions_wrote(folder)
    assert lost_environment(folder, read_ended_run(folder)) == []


def test_the_result_of_another_run_is_found(
    folder: RunFolder, tmp_path: Path, plan_run: Callable[..., PlannedRun]
) -> None:
    other = RunFolder(tmp_path, plan_run(2).key)
    other.write_plan(plan_run(2))
    (other.path / "result.json").write_bytes((folder.path / "result.json").read_bytes())
    (found,) = contradictions(other)
    assert f"holds the result of another run, {folder.key}" in found.problem


def test_not_a_number_is_equal_to_itself(folder: RunFolder, make_epoch: MakeEpoch) -> None:
    folder.append_epoch(make_epoch(3, test_loss=math.nan))
    result = folder.result()
    assert result is not None
    last = Selected(epoch=3, test=make_epoch(3, test_loss=math.nan).test, val=None)
    folder.write_result(dataclasses.replace(result, selected={**result.selected, "last": last}))
    assert contradictions(folder) == []


def test_freeing_files_keeps_what_tells_altered_numbers(folder: RunFolder) -> None:
    without_checksums(folder)
    before = folder.ending()
    folder.forget_artifacts(["last.pt"])
    assert folder.ending() == before
    alter(folder, "epochs.jsonl", '"train_top1":41.5', '"train_top1":99.5')
    folder.forget_artifacts(["best-test.pt"])
    assert contradictions(folder)


def test_epochs_that_the_database_knows_otherwise_are_named(folder: RunFolder) -> None:
    without_checksums(folder)
    known = folder.epochs()
    assert changed_epochs(folder, known) == []
    assert changed_epochs(folder, known[:1]) == []
    alter(folder, "epochs.jsonl", '"train_top1":41.5', '"train_top1":99.5', 2)
    (found,) = changed_epochs(folder, known)
    assert "something else of epoch 2 than the database" in found.problem


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("plan.json", '"seed":1', '"seed":2'),
        ("environment.json", '"num_threads":', '"num_threads":1'),
        ("epochs.jsonl", '"seconds":', '"seconds":1'),
        ("evaluations.jsonl", '"parameters":', '"parameters":1'),
        ("result.json", '"train_seconds":', '"train_seconds":1'),
    ],
)
def test_no_value_of_any_file_changes_unseen(
    folder: RunFolder,
    environment: Environment,
    make_evaluation: Callable[..., Evaluation],
    name: str,
    before: str,
    after: str,
) -> None:
    folder.write_environment(environment)
    folder.append_evaluation(make_evaluation(folder.key))
    folder.evaluations()
    alter(folder, name, before, after)
    reading = {
        "plan.json": folder.plan,
        "environment.json": folder.environment,
        "epochs.jsonl": folder.epochs,
        "evaluations.jsonl": folder.evaluations,
        "result.json": folder.result,
    }[name]
    with pytest.raises(KdctlError, match=f"{name} is damaged: .* was altered after it was written") as caught:
        reading()
    assert "restore the file from a copy" in caught.value.hint
    if name == "epochs.jsonl":  # without one of its lines it is not what the run wrote
        assert "delete" not in caught.value.hint


def test_another_layout_of_the_same_values_is_no_alteration(folder: RunFolder) -> None:
    before = folder.result(), folder.plan()
    for name in ("result.json", "plan.json"):
        path = folder.path / name
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    assert (folder.result(), folder.plan()) == before
