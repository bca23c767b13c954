from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

Kdctl = Callable[..., Any]

TABLES = ("runs", "epochs", "evaluations", "artifacts", "sweeps", "members")


@pytest.fixture
def swept(swept_copy: Callable[[str], str]) -> str:
    return swept_copy("[grid]\nmethod = ['kd', 'simkd']\n")


@pytest.mark.extended
def test_a_check_counts_and_ends_with_one_when_something_is_wrong(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    sound = kdctl("db check --hashes")
    assert (sound.code, sound.err) == (0, "")
    assert sound.out == "3 runs, 3 folders, 1 sweep: all is well\n"
    next((tmp_path / "runs").glob("*/last.pt")).unlink()
    broken = kdctl("db check")
    assert (broken.code, broken.out) == (1, "3 runs, 3 folders, 1 sweep: 1 problem\n")
    assert "last.pt is missing" in broken.err
    assert len(json.loads(kdctl("db check --format json").out)["findings"]) == 1


def test_a_sweep_whose_file_is_gone_is_named_and_written_again(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    (tmp_path / "runs/sweeps/tiny.json").unlink()
    broken = kdctl("db check")
    assert broken.code == 1
    assert "runs/sweeps/tiny.json is missing" in broken.err
    assert kdctl(f"sweep {swept} --threads 1").code == kdctl("db check").code == 0


def test_a_lost_database_comes_back_with_one_command(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    table = kdctl("report").out
    for path in (tmp_path / "runs").glob("kdctl.db*"):
        path.unlink()
    first = kdctl("sync")
    assert (first.code, first.err) == (0, "")
    assert "3 runs new, 0 changed, 0 as before; 1 sweep new or changed" in first.out
    assert kdctl("report").out == table
    assert kdctl("sync").out == "0 runs new, 0 changed, 3 as before; 0 sweeps new or changed\n"
    again = json.loads(kdctl("sync --format json").out)
    assert (again["added"], again["num_unchanged"]) == ({}, 3)


def test_a_sync_reads_what_it_can_and_names_the_rest(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    next((tmp_path / "runs").glob("*/plan.json")).write_text("{")
    answer = kdctl("sync")
    assert answer.code == 1
    assert "2 as before" in answer.out
    assert "is damaged" in answer.err
    kdctl("sync --runs gone").refused("there is no folder gone", code=1)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_export_holds_every_number(kdctl: Kdctl, swept: str, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    answer = kdctl(f"db export tables --format {form}")
    assert answer.code == 0
    assert answer.out.split() == [f"tables/{name}.{form}" for name in TABLES]
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[form]
    runs = read(tmp_path / "tables" / f"runs.{form}")
    listed = json.loads(kdctl("runs list --format json").out)["rows"]
    assert list(runs["key"]) == [row["run"] for row in listed]
    assert list(runs["result.selected.last.test.top1"]) == pytest.approx([row["top1"] for row in listed])
    assert list(runs["plan.method.name"]) == ["ce", "kd", "simkd"]
    epochs = read(tmp_path / "tables" / f"epochs.{form}")
    assert list(epochs["run"]) == list(runs["key"])
    assert len(read(tmp_path / "tables" / f"members.{form}")) == 3
    kdctl(f"db export tables --format {form}").refused("is there already", "--force", code=1)
    assert kdctl(f"db export tables --format {form} --force").code == 0


def test_an_export_holds_nothing_that_a_spreadsheet_computes(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    path = next((tmp_path / "runs" / "sweeps").glob("*.json"))
    tree = json.loads(path.read_text())
    del tree["checksum"], tree["form"]  # as 0.2.0 wrote it
    path.write_text(json.dumps({**tree, "name": "=1+1\x1b[31m"}) + "\n")
    assert kdctl("sync").code == 0
    assert kdctl("db export tables").code == 0
    names = pd.read_csv(tmp_path / "tables" / "sweeps.csv")["name"]
    assert r"'=1+1\x1b[31m" in list(names)


def test_unknown_formats_and_lost_stores_are_refused(kdctl: Kdctl, tmp_path: Path) -> None:
    for words in ("db check", "db backup", "db export tables"):
        kdctl(words).refused("there is no database", code=1)
    assert list(tmp_path.iterdir()) == []


def test_an_export_format_is_suggested(kdctl: Kdctl, swept: str) -> None:
    kdctl("db export tables --format parket").refused("did you mean 'parquet'", code=2)


def test_a_backup_says_where_it_is(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    answer = kdctl("db backup copy.db")
    assert (answer.code, answer.out) == (0, "copy.db\n")
    assert (tmp_path / "copy.db").read_bytes()[:15] == b"SQLite format 3"
    kdctl("db backup copy.db").refused("is there already", code=1)


def test_a_backup_makes_no_folders(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    kdctl("db backup safe/copy.db").refused("there is no folder safe for copy.db", "mounted", code=1)
    assert not (tmp_path / "safe").exists()
