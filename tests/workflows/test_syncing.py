from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.records import PlannedRun, StoredSweep, SweepMember
from kdctl.serialization import values_of
from kdctl.store import folder
from kdctl.store.json_files import line_of, read_content
from kdctl.store.sweep_files import _SweepFile, ingest_sweep, keep_sweep, sweep_files, sweep_path

RecipeWriter = Callable[..., Path]
Finished = Callable[[Path], Workspace]

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd"]
optimizer.learning_rate = [0.1, 0.05]
"""

SEARCH = """
method = "ce"
[search]
sampler = "tpe"
metric = "test"
trials = 12
[search.space]
optimizer.learning_rate = {}
"""


def rebuilt(old: Path, new: Path) -> Path:
    """Copy what a lost database leaves: folders and sweep files."""
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("kdctl.db*"))
    return new


@pytest.mark.extended
def test_a_lost_database_is_rebuilt_with_its_sweeps_and_nothing_trains_again(
    finished: Finished, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path = recipe(GRID)
    workspace = finished(path)
    before, table = workspace.store.runs(sweep="tiny"), workflows.report(workspace)
    with workflows.open_workspace(rebuilt(workspace.runs, tmp_path / "again"), num_threads=1) as again:
        report = workflows.synchronise(again)
        assert list(report.added) == [run.key for run in before]
        assert (report.sweeps, report.damaged, report.num_unchanged) == (("tiny",), (), 0)
        assert workflows.report(again) == table
        assert again.store.sweep("tiny") == workspace.store.sweep("tiny")
        after = workflows.sweep(path, again)
        assert [run.result for run in after.runs] == [run.result for run in before]
        assert {run.attempts for run in after.runs} == {1}
        second = workflows.synchronise(again)
        assert (second.added, second.changed, second.sweeps) == ({}, {}, ())
        assert second.num_unchanged == len(before)


@pytest.mark.extended
def test_a_search_whose_study_was_lost_chooses_the_same_again(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path = recipe(SEARCH)
    before = {run.key for run in workflows.sweep(path, workspace).runs}
    with workflows.open_workspace(rebuilt(workspace.runs, tmp_path / "again"), num_threads=1) as again:
        workflows.synchronise(again)
        after = workflows.sweep(path, again)
        assert {run.key for run in after.runs} == before
        assert {run.attempts for run in after.runs} == {1}


def test_only_what_changed_is_reported(workspace: Workspace, recipe: RecipeWriter) -> None:
    (run,) = workflows.train(recipe("method = 'ce'"), workspace)
    evaluation = workflows.evaluate(run.key, workspace)
    with workspace.store.writing() as connection:
        connection.exec_driver_sql("DELETE FROM kdctl_evaluations")
    report = workflows.synchronise(workspace)
    assert list(report.changed) == [run.key]
    assert workspace.store.evaluations(run.key) == [evaluation]


@pytest.mark.extended
def test_a_damaged_folder_does_not_keep_the_others_out(
    finished: Finished, recipe: RecipeWriter, tmp_path: Path
) -> None:
    workspace = finished(recipe(GRID))
    runs = workspace.store.runs(sweep="tiny")
    copy = rebuilt(workspace.runs, tmp_path / "again")
    (copy / runs[1].key / "result.json").write_text("{")
    (copy / "sweeps" / "tiny.json").write_text("nonsense")
    with workflows.open_workspace(copy, num_threads=1) as again:
        report = workflows.synchronise(again)
        assert len(report.added) == len(runs) - 1
        assert len(report.damaged) == 2
        assert all("is damaged" in mistake.problem for mistake in report.damaged)


@pytest.mark.parametrize("left", ["result.json", "epochs.jsonl"])
def test_a_run_whose_plan_was_lost_with_the_database_is_named(
    finished: Finished, recipe: RecipeWriter, tmp_path: Path, left: str
) -> None:
    workspace = finished(recipe(GRID))
    runs = workspace.store.runs(sweep="tiny")
    copy = rebuilt(workspace.runs, tmp_path / "again")
    for path in (copy / runs[1].key).iterdir():
        if path.name != left:
            path.unlink()
    (copy / ("0" * 16)).mkdir()  # of a run that never began
    with workflows.open_workspace(copy, num_threads=1) as again:
        report = workflows.synchronise(again)
        assert len(report.added) == len(runs) - 1
        (mistake,) = report.damaged
        assert mistake.problem == f"{copy / runs[1].key} has no plan.json."
        (unknown,) = workflows.check(again).findings
        assert runs[1].key in unknown.problem


def test_a_copy_of_a_sweep_s_file_is_named_and_not_read(finished: Finished, recipe: RecipeWriter) -> None:
    workspace = finished(recipe(GRID))
    before = workspace.store.sweep("tiny")
    path = sweep_path(workspace.runs, "tiny")
    copy = path.with_name("tiny.sync-conflict-20260131-120000-ABCDEFG.json")  # as Syncthing leaves it
    older = dataclasses.replace(before, members=before.members[:1])
    copy.write_bytes(line_of(_SweepFile(**values_of(older, StoredSweep), form=2)))
    (mistake,) = workflows.synchronise(workspace).damaged
    assert mistake.problem == f"{copy} speaks of the sweep 'tiny', as {path.name} does."
    assert workspace.store.sweep("tiny") == before
    assert [finding.problem for finding in workflows.check(workspace).findings] == [mistake.problem]
    path.unlink()  # then it is not a copy any more, and better than nothing
    assert workflows.synchronise(workspace).sweeps == ("tiny",)


def test_a_sweep_of_any_name_has_a_file_of_its_own(tmp_path: Path) -> None:
    names = ["lr", "a/b", "..", "x" * 300, "x" * 301, "größer", "lr.json", ""]
    paths = [sweep_path(tmp_path, name) for name in names]
    assert len(set(paths)) == len(names)
    assert {path.parent for path in paths} == {tmp_path / "sweeps"}
    assert all(len(path.name.encode()) < 200 for path in paths)


def test_members_without_a_folder_wait_for_the_next_start(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.sweep(recipe("[grid]\nmethod = ['ce']"), workspace)
    (path,) = sweep_files(workspace.runs)
    tree = json.loads(path.read_text())
    del tree["checksum"], tree["form"]  # as 0.2.0 wrote it
    tree["members"].append({"run_key": "f" * 16, "role": "student"})
    path.write_text(json.dumps(tree))
    assert not ingest_sweep(workspace.store, path)
    assert len(workspace.store.sweep("tiny").members) == 1


def test_members_that_a_sweep_adds_while_folders_are_read_stay(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.sweep(recipe("[grid]\nmethod = ['ce']"), workspace)
    store, (member,) = workspace.store, workspace.store.sweep("tiny").members
    first = store.run(member.run_key)
    later = PlannedRun(key="f" * 16, configuration="e" * 16, seed=1, plan=first.plan)

    def goes_on(_done: int, _total: int) -> None:
        store.add_runs([later])
        chosen = [SweepMember(run_key=later.key, role="student")]
        keep_sweep(store, workspace.runs, "tiny", store.sweep("tiny").recipe, members=chosen)

    workflows.synchronise(workspace, progress=goes_on)
    assert [member.run_key for member in store.sweep("tiny").members] == [first.key, later.key]


def test_a_sound_store_passes_its_check(finished: Finished, recipe: RecipeWriter) -> None:
    health = workflows.check(finished(recipe(GRID)), hashes=True)
    assert (health.num_runs, health.num_folders, health.num_sweeps, health.findings) == (4, 4, 1, ())


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (shutil.rmtree, "has no folder any more"),
        (lambda folder: (folder / "result.json").unlink(), "holds no result.json"),
        (lambda folder: (folder / "result.json").write_text("x"), "is damaged"),
        (lambda folder: (folder / "plan.json").write_text("x"), "is damaged"),
        (lambda folder: (folder / "plan.json").unlink(), "has no plan.json"),
        (lambda folder: (folder / "epochs.jsonl").write_text(""), "is not what the run wrote"),
        (lambda folder: (folder / "last.pt").unlink(), "last.pt is missing"),
        (lambda folder: (folder / "last.pt").write_bytes(b"short"), "is not the file"),
    ],
)
def test_a_check_finds_what_folder_and_database_disagree_about(
    workspace: Workspace, recipe: RecipeWriter, break_it: Callable[[Path], object], complaint: str
) -> None:
    (run,) = workflows.train(recipe("method = 'ce'"), workspace)
    break_it(workspace.folder(run.key).path)
    (finding,) = workflows.check(workspace).findings
    assert complaint in finding.problem
    assert finding.hint


def test_a_flipped_bit_is_found_when_hashes_are_compared(workspace: Workspace, recipe: RecipeWriter) -> None:
    (run,) = workflows.train(recipe("method = 'ce'"), workspace)
    model = workspace.folder(run.key).path / "last.pt"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert workflows.check(workspace).findings == ()
    (finding,) = workflows.check(workspace, hashes=True).findings
    assert "last.pt is not the file" in finding.problem


def test_a_folder_that_the_database_does_not_know_is_found(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.sweep(recipe("[grid]\nmethod = ['ce']"), workspace)
    with workspace.store.writing() as connection:
        connection.exec_driver_sql("DELETE FROM kdctl_runs")
        connection.exec_driver_sql("DELETE FROM kdctl_sweeps")
    problems = [finding.problem for finding in workflows.check(workspace).findings]
    assert len(problems) == 2
    assert "does not know the run folder" in problems[0]
    assert "does not know the sweep" in problems[1]
    workflows.synchronise(workspace)
    assert workflows.check(workspace).findings == ()


def test_a_backup_can_take_the_place_of_the_database(
    copied: Finished, recipe: RecipeWriter, tmp_path: Path
) -> None:
    workspace = copied(recipe(GRID))
    runs = tuple(workspace.store.runs())
    copy = workflows.back_up(workspace)
    assert copy.parent == workspace.runs / "backups"
    other = rebuilt(workspace.runs, tmp_path / "other")
    shutil.copy(copy, other / "kdctl.db")
    with workflows.open_workspace(other) as again:
        assert tuple(again.store.runs()) == runs
        assert workflows.check(again).findings == ()


def test_a_backup_overwrites_only_by_force_and_never_the_database_itself(
    workspace: Workspace, tmp_path: Path
) -> None:
    target = tmp_path / "copy.db"
    assert workflows.back_up(workspace, target) == target
    with pytest.raises(KdctlError, match="is there already"):
        workflows.back_up(workspace, target)
    assert workflows.back_up(workspace, target, force=True) == target
    for force in (False, True):
        with pytest.raises(KdctlError, match="is there already"):
            workflows.back_up(workspace, workspace.store.path, force=force)


def test_no_file_of_a_run_is_read_twice(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = workflows.train(recipe("method = 'ce'"), workspace)
    workflows.evaluate(run.key, workspace)
    reads: Counter[str] = Counter()

    def count(path: Path) -> bytes | None:
        reads[path.name] += 1
        return read_content(path)

    monkeypatch.setattr(folder, "read_content", count)
    names = ("plan.json", "environment.json", "epochs.jsonl", "result.json", "evaluations.jsonl")
    with workflows.open_workspace(rebuilt(workspace.runs, tmp_path / "again"), num_threads=1) as again:
        workflows.synchronise(again)
        assert [reads[name] for name in names] == [1] * len(names)
        reads.clear()
        assert workflows.check(again).findings == ()
        assert [reads[name] for name in names] == [1] * len(names)
