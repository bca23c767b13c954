"""A store that an older kdctl wrote, and may still write to: who only looks leaves every byte as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kdctl.serialization import canonical_json, to_tree
from kdctl.store.store import Store

Kdctl = Callable[..., Any]


def make_older(database: Path) -> None:
    """Turn a database into what the first kdctl wrote: each epoch a row, no packed histories."""
    with Store.open(database) as store:
        epochs = [(run.key, epoch) for run in store.runs() for epoch in store.epochs(run.key)]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE kdctl_histories")
        connection.execute("DELETE FROM kdctl_epochs")
        rows = [(key, epoch.epoch, canonical_json(to_tree(epoch))) for key, epoch in epochs]
        connection.executemany("INSERT INTO kdctl_epochs VALUES (?, ?, ?)", rows)
        connection.execute("PRAGMA user_version = 1")


def contents(root: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def older(swept: str, tmp_path: Path) -> str:
    """Return the recipe of the tiny study, whose runs are those of an older kdctl, one of them gone."""
    make_older(tmp_path / "runs" / "kdctl.db")
    return swept


@pytest.mark.parametrize(
    "words",
    [
        "report",
        "report --format html -o report.html",
        "report --figures pictures",
        "plot accuracy_curves -o curves.svg",
        "list runs",
        "list sweeps",
        "runs list",
        "runs show {run}",
        "runs diff {run} {other}",
        "runs diff {run} {recipe}",
        "runs gc --dry-run",
        "watch --once",
        "export logs --to tensorboard",
        "db check",
        "db backup copy.db",
        "db export tables",
        "sweep {recipe} --dry-run",
        "train --student resnet3 --dataset digits --dry-run",
        "confirm tiny --seeds 2 --dry-run",
    ],
)
@pytest.mark.extended
def test_a_verb_that_looks_leaves_an_older_store_as_it_is(
    kdctl: Kdctl, older: str, tmp_path: Path, words: str
) -> None:
    root = tmp_path / "runs"
    run, other = sorted(path.parent.name for path in root.glob("*/result.json"))[:2]
    before = contents(root)

    answer = kdctl(words.format(run=run, other=other, recipe=older))

    assert answer.code == 0, answer
    assert answer.err.count("was written by an older kdctl: a copy of it is read (`kdctl sync` brings") >= 1
    assert contents(root) == before


def test_a_removal_that_nobody_confirms_leaves_an_older_store_as_it_is(
    kdctl: Kdctl, older: str, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    run = min(path.parent.name for path in root.glob("*/result.json"))
    before = contents(root)
    kdctl(f"runs rm {run} --force").refused("--yes", code=2)
    kdctl("runs gc").refused("--yes", code=2)
    assert contents(root) == before


def test_a_sync_brings_an_older_store_up_to_date_with_all_it_holds(
    kdctl: Kdctl, older: str, tmp_path: Path
) -> None:
    told = kdctl("report").out

    synced = kdctl("sync")

    assert synced.code == 0, synced
    again = kdctl("report")
    assert (again.out, again.err) == (told, "")
    assert (tmp_path / "runs" / "kdctl.db.v1.backup").exists()


@pytest.mark.extended
def test_an_evaluation_is_stored_in_an_older_store_too(kdctl: Kdctl, older: str, tmp_path: Path) -> None:
    run = min(path.parent.name for path in (tmp_path / "runs").glob("*/result.json"))
    assert kdctl(f"eval {run} --threads 1").code == 0
    with Store.open(tmp_path / "runs" / "kdctl.db") as store:
        assert [item.split for item in store.evaluations(run)] == ["test"]
