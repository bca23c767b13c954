"""`kdctl runs copy`."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.store.store import Store

Kdctl = Callable[..., Any]


def keys(kdctl: Kdctl, runs: str = "runs") -> dict[str, str]:
    """Keys of all runs, by student and method."""
    listed = json.loads(kdctl(f"runs list --format json --runs {runs}").out)["rows"]
    return {f"{row['student']} {row['method']}": row["run"] for row in listed}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_copy_of_a_sweep_reports_the_same_and_trains_nothing(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    answer = kdctl("runs copy appendix --sweep tiny")
    assert (answer.code, answer.out) == (0, "")
    assert "4 runs copied to appendix, 0 there already" in answer.err
    assert "kdctl sync --runs appendix" in answer.err
    for key in keys(kdctl).values():
        assert files(tmp_path / "appendix" / key) == [
            "environment.json",
            "epochs.jsonl",
            "plan.json",
            "result.json",
        ]
    assert kdctl("sync --runs appendix").code == 0
    assert kdctl("report --runs appendix").out == kdctl("report").out
    assert kdctl("db check --hashes --runs appendix").code == 0
    assert "0 to do" in kdctl(f"sweep {swept} --runs appendix --dry-run").out


@pytest.mark.extended
def test_a_run_comes_with_its_teacher_and_with_models_can_be_evaluated(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    run = keys(kdctl)["resnet3 kd"]
    assert kdctl(f"runs copy there {run[:6]} --checkpoints").code == 0
    assert kdctl("sync --runs there").code == 0
    assert set(keys(kdctl, "there")) == {"resnet4 ce", "resnet3 kd"}
    assert (tmp_path / "there" / run / "last.pt").read_bytes() == (
        tmp_path / "runs" / run / "last.pt"
    ).read_bytes()
    assert kdctl(f"eval {run} --runs there").code == 0
    assert kdctl("db check --hashes --runs there").code == 0


@pytest.mark.extended
def test_a_second_copy_adds_what_came_later_and_replaces_nothing(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    run = keys(kdctl)["resnet3 kd"]
    kdctl(f"runs copy there {run}")
    assert "0 runs copied to there, 2 there already" in kdctl(f"runs copy there {run}").err
    kdctl(f"eval {run}")
    assert "1 run copied to there, 1 there already" in kdctl(f"runs copy there {run}").err
    evaluations = tmp_path / "there" / run / "evaluations.jsonl"
    assert evaluations.read_bytes() == (tmp_path / "runs" / run / "evaluations.jsonl").read_bytes()
    epochs = tmp_path / "there" / run / "epochs.jsonl"
    epochs.write_text(epochs.read_text()[:-40])
    before = epochs.read_bytes()
    kdctl(f"runs copy there {run}").refused("is no copy of run", "to another folder", code=1)
    assert epochs.read_bytes() == before


def test_damage_of_one_run_does_not_stop_the_others(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    run = keys(kdctl)["resnet3 kd"]
    epochs = tmp_path / "runs" / run / "epochs.jsonl"
    epochs.write_text(epochs.read_text().replace('"epoch":1', '"epoch":2', 1))
    answer = kdctl("runs copy there --sweep tiny")
    answer.refused("epochs.jsonl", code=1)
    assert "3 runs copied" in answer.err
    assert not (tmp_path / "there" / run).exists()


def test_an_altered_model_is_not_copied(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    run = keys(kdctl)["resnet3 ce"]
    model = tmp_path / "runs" / run / "last.pt"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    kdctl(f"runs copy there {run} --checkpoints").refused(
        "last.pt is damaged", "without --checkpoints", code=1
    )
    model.unlink()
    kdctl(f"runs copy there {run} --checkpoints").refused("last.pt is gone", "without --check", code=1)
    assert not list((tmp_path / "there").glob("*"))
    assert kdctl(f"runs copy there {run}").code == 0


def test_runs_that_have_not_ended_stay_where_they_are(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    run = keys(kdctl)["resnet3 kd"]
    with Store.open(tmp_path / "runs" / "kdctl.db") as store, store.writing() as connection:
        connection.exec_driver_sql("UPDATE kdctl_runs SET state = 'interrupted' WHERE key = ?", (run,))
    answer = kdctl("runs copy there --sweep tiny")
    assert answer.code == 0
    assert "3 runs copied" in answer.err
    assert "not copied, for they have not ended: 1 interrupted" in answer.err


def test_a_copy_that_was_killed_is_made_anew(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    run = keys(kdctl)["resnet3 ce"]
    left = tmp_path / "there" / f".copying-{run}"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    assert kdctl("sync --runs there").code == 0  # what is hidden is no run
    assert kdctl(f"runs copy there {run}").code == 0
    assert "half" not in files(tmp_path / "there" / run)
    assert not left.exists()


def test_where_a_copy_cannot_appear_nothing_is_left(
    kdctl: Kdctl, swept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = keys(kdctl)["resnet3 ce"]

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "rename", full)
    kdctl(f"runs copy elsewhere {run}").refused("No space left on device", code=1)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("command", "words", "code"),
    [
        ("runs copy there", ("nothing is named", "--sweep NAME"), 2),
        ("runs copy runs --sweep tiny", ("where these runs are", "another folder"), 2),
        ("runs copy there --sweep tinny", ("tinny", "did you mean 'tiny'"), 1),
        ("runs copy there ffffff", ("ffffff",), 1),
    ],
)
def test_a_mistake_is_told_before_anything_is_copied(
    kdctl: Kdctl, swept: str, tmp_path: Path, command: str, words: tuple[str, ...], code: int
) -> None:
    kdctl(command).refused(*words, code=code)
    assert not (tmp_path / "there").exists()


def test_another_sweep_of_the_same_name_is_not_replaced(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    sweeps = tmp_path / "there" / "sweeps"
    assert kdctl("runs copy there --sweep tiny").code == 0
    ours = (sweeps / "tiny.json").read_text()
    run = keys(kdctl)["resnet3 kd"]
    kdctl(f"runs rm {run} --yes")
    kdctl("runs copy there --sweep tiny").refused("has runs that the sweep does not have here", code=1)
    assert (sweeps / "tiny.json").read_text() == ours


def test_a_run_whose_folder_has_lost_what_the_store_knows_is_not_copied_as_if_it_were_whole(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    run = keys(kdctl)["resnet4 ce"]
    assert kdctl(f"eval {run}").code == 0
    (tmp_path / "runs" / run / "evaluations.jsonl").unlink()
    answer = kdctl(f"runs copy there {run}")
    answer.refused("something else of the evaluation of 'last' on test", f"kdctl eval {run}", code=1)
    (tmp_path / "runs" / run / "result.json").unlink()
    answer = kdctl(f"runs copy there {run}")
    answer.refused("is finished, but its folder holds no result.json", "restore the file", code=1)
    shutil.rmtree(tmp_path / "runs" / run)
    kdctl(f"runs copy there {run}").refused("has no folder any more", "restore it from a copy", code=1)
    assert not (tmp_path / "there").exists()
