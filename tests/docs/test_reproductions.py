"""The page of reproductions shows what the run folders of the studies give, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("reproductions")


def test_its_tables_are_what_sync_and_report_make_of_a_clone(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.written(page) == page, "run: python docs/reproductions.py"


def test_it_shows_every_study(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.studies()
    assert {match["study"] for match in script.TABLE.finditer(page)} == set(script.studies())


def test_a_study_holds_no_checkpoints_and_is_small(script: ModuleType) -> None:
    for study in script.studies():
        files = [path for path in (script.STUDIES / study).rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".json", ".jsonl"}
        assert sum(path.stat().st_size for path in files) < 2_000_000


def test_keeping_a_sweep_leaves_its_checkpoints_behind(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study that is there goes through it once more: it is a store of its own, after a sync."""
    study = script.studies()[0]
    monkeypatch.chdir(tmp_path)
    with script.workflows.open_workspace(tmp_path / "runs") as workspace:
        for path in (script.STUDIES / study).rglob("*"):
            target = tmp_path / "runs" / path.relative_to(script.STUDIES / study)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                target.write_bytes(path.read_bytes())
        script.workflows.synchronise(workspace)
    first = next(path for path in (tmp_path / "runs").iterdir() if (path / "plan.json").is_file())
    (first / "last.pt").write_bytes(b"a checkpoint")
    before = script.report(study)
    monkeypatch.setattr(script, "STUDIES", tmp_path / "studies")
    (sweep,) = (path.stem for path in (tmp_path / "runs" / "sweeps").iterdir())
    script.keep(tmp_path / "runs", sweep)
    assert not list((tmp_path / "studies").rglob("*.pt"))
    assert script.report(sweep) == before
