from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.records import PlannedRun, RunState
from kdctl.store.leases import Owner
from kdctl.store.store import Store

Kdctl = Callable[..., Any]
WriteRecipe = Callable[..., str]


def rows(kdctl: Kdctl) -> dict[str, dict[str, Any]]:
    """All runs, by student and method."""
    listed = json.loads(kdctl("runs list --format json").out)["rows"]
    return {f"{row['student']} {row['method']}": row for row in listed}


def models(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "runs").glob("*/*.pt"))


def test_a_run_is_removed_after_a_yes_and_trained_again_by_the_sweep(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    run = rows(kdctl)["resnet3 simkd"]["run"]
    kdctl(f"runs rm {run}").refused("there is nobody to ask", "--yes", code=2)
    assert (tmp_path / "runs" / run).is_dir()
    answer = kdctl(f"runs rm {run[:6]} --yes")
    assert (answer.code, answer.out) == (0, "")
    assert "removed 1 run" in answer.err
    assert "resnet3 simkd" not in rows(kdctl)
    assert not (tmp_path / "runs" / run).exists()
    assert "1 to do" in kdctl(f"sweep {swept} --dry-run").out


def test_a_teacher_of_others_is_removed_only_by_force(kdctl: Kdctl, swept: str) -> None:
    found = rows(kdctl)
    teacher, pupils = (
        found["resnet4 ce"]["run"],
        [found[name]["run"] for name in ("resnet3 kd", "resnet3 simkd")],
    )
    kdctl(f"runs rm {teacher} --yes").refused("is the teacher of 2 runs", "--force", code=1)
    kdctl(f"runs rm {teacher} {pupils[0]} --yes").refused(f"is the teacher of run {pupils[1]}", code=1)
    assert kdctl(f"runs rm {teacher} {' '.join(pupils)} --yes").code == 0
    assert list(rows(kdctl)) == ["resnet3 ce"]


def test_a_run_in_work_is_not_removed_nor_is_any_of_its_sweep(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    found = rows(kdctl)
    taken, other = found["resnet3 kd"]["run"], found["resnet3 simkd"]["run"]
    kdctl(f"runs rm {taken} --yes")
    kdctl(f"sweep {swept} --threads 1 --quiet --gang 1")
    with Store.open(tmp_path / "runs" / "kdctl.db") as store:
        stranger = Owner(host="elsewhere", pid=7, token="::one")
        planned = store.run(taken)
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE kdctl_runs SET state = 'planned' WHERE key = ?", (taken,))
        assert store.claim(planned.key, stranger, lease_seconds=60)
    words = ("process 7 on elsewhere works on run", taken)
    kdctl(f"runs rm {taken} --yes --force").refused(*words, code=1)
    kdctl(f"runs rm {other} --yes --force").refused(*words, "of the same sweep", code=1)
    freed = json.loads(kdctl("runs gc --dry-run --format json").out)
    assert taken not in {item["run"]["key"] for item in freed["freed"]}
    assert {item["run"]["state"] for item in freed["kept"]} == {"finished", RunState.RUNNING.value}


def test_checkpoints_are_freed_and_results_and_teachers_stay(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    table, before = kdctl("report").out, models(tmp_path)
    dry = kdctl("runs gc --dry-run")
    assert (dry.code, dry.err, models(tmp_path)) == (0, "", before)
    assert "a teacher (--teachers)" in dry.out
    assert "to free" in dry.out
    asked = kdctl("runs gc")
    assert (asked.code, models(tmp_path)) == (2, before)
    assert "nobody to ask" in asked.err
    assert kdctl("runs gc --keep-last --yes").code == 0
    assert models(tmp_path) == ["last.pt"] * 4
    assert kdctl("runs gc --yes").code == 0
    assert models(tmp_path) == ["last.pt"]
    assert "nothing to free" in kdctl("runs gc --yes").err
    assert kdctl("report").out == table
    assert kdctl(f"sweep {swept} --threads 1 --quiet").code == 0


def test_a_freed_teacher_is_missed_before_anything_starts(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    found = rows(kdctl)
    teacher, pupil = found["resnet4 ce"]["run"], found["resnet3 kd"]["run"]
    kdctl(f"runs rm {pupil} --yes")
    (tmp_path / "runs" / teacher / "last.pt").rename(tmp_path / "kept.pt")
    kdctl(f"sweep {swept} --threads 1").refused(f"the teacher, run {teacher}", "kdctl runs rm", code=1)
    looked = kdctl(f"sweep {swept} --threads 1 --dry-run")
    assert looked.code == 0
    assert f"warning: nothing would start as it stands: the teacher, run {teacher}" in looked.err
    (tmp_path / "kept.pt").rename(tmp_path / "runs" / teacher / "last.pt")
    with Store.open(tmp_path / "runs" / "kdctl.db") as store:
        plan = store.run(found["resnet3 simkd"]["run"]).plan
        store.add_runs([PlannedRun(key="f" * 16, configuration="0" * 16, seed=9, plan=plan)])
    kept = json.loads(kdctl("runs gc --teachers --dry-run --format json").out)["kept"]
    assert [item["reason"] for item in kept] == ["the teacher of 1 unfinished run"]


def test_what_keeps_the_files_of_one_run_keeps_those_of_no_other(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    found = rows(kdctl)
    teacher, damaged, blocked, plain = (
        tmp_path / "runs" / found[name]["run"]
        for name in ("resnet4 ce", "resnet3 kd", "resnet3 simkd", "resnet3 ce")
    )
    (damaged / "result.json").write_text("{")
    (blocked / "last.pt").unlink()
    (blocked / "last.pt").mkdir()
    answer = kdctl("runs gc --yes")
    assert answer.code == 1
    assert f"{damaged.name}/result.json is damaged" in answer.err
    assert f"{blocked.name}/last.pt (Is a directory) cannot be deleted" in answer.err
    left = {folder: sorted(path.name for path in folder.glob("*.pt")) for folder in (damaged, blocked, plain)}
    assert left == {damaged: ["best-test.pt", "last.pt"], blocked: ["last.pt"], plain: []}
    assert (teacher / "last.pt").is_file()


def test_a_run_that_cannot_be_removed_keeps_no_other(
    kdctl: Kdctl, swept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rows(kdctl)
    stuck, other = (found[name]["run"] for name in ("resnet3 kd", "resnet3 simkd"))
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == stuck:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    kdctl(f"runs rm {stuck} {other} --yes").refused(f"run {stuck} stays", "allow writing", code=1)
    assert {run["run"] for run in rows(kdctl).values()} == {run["run"] for run in found.values()} - {other}
    assert not (tmp_path / "runs" / other).exists()


@pytest.mark.parametrize(
    ("words", "complaint", "code"),
    [
        ("runs rm 0000 --yes", "there is no run '0000'", 1),
        ("runs gc --sweep tinny --yes", "did you mean 'tiny'", 1),
    ],
)
def test_what_is_not_there_is_refused(
    kdctl: Kdctl, swept: str, words: str, complaint: str, code: int
) -> None:
    kdctl(words).refused(complaint, code=code)
