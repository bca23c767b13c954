from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from kdctl.errors import KdctlError
from kdctl.records import RunState, SweepMember
from kdctl.store import database
from kdctl.store.database import connect
from kdctl.store.migrations import STEPS
from kdctl.store.store import Store
from kdctl.store.tables import Table

FIRST = ("CREATE TABLE kdctl_things (name TEXT)", "INSERT INTO kdctl_things VALUES ('old')")
SECOND = ("ALTER TABLE kdctl_things ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'",)
THIRD = ("INSERT INTO kdctl_things VALUES ('new', 'red')",)

WRITTEN_BY_THE_FIRST = """
INSERT INTO kdctl_runs
    (number, key, configuration, seed, plan, state, epochs, attempts, reason, created, updated)
VALUES
    (1, 'aaaaaaaaaaaaaaaa', 'bbbbbbbbbbbbbbbb', 3, '{"seed":3}', 'finished', 2, 1, '',
     '2026-01-31T12:00:00.000000+00:00',
     '2026-01-31T12:00:00.000000+00:00');
INSERT INTO kdctl_artifacts VALUES ('aaaaaaaaaaaaaaaa', 'last.pt', 'cc', 12);
INSERT INTO kdctl_sweeps VALUES (1, 'lr', '{}', '2026-01-31T12:00:00.000000+00:00');
INSERT INTO kdctl_sweep_runs VALUES (1, 'lr', 'aaaaaaaaaaaaaaaa', 'student');
"""
"""Rows with the columns of schema 1, which later steps only add to."""


def _things(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM kdctl_things").fetchall()


def _version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def _schema(path: Path) -> dict[str, Any]:
    """Everything about the tables that SQLAlchemy's description and our statements must agree on."""
    with closing(sqlite3.connect(path)) as connection:

        def ask(pragma: str, name: str) -> list[Any]:
            return connection.execute(f"SELECT * FROM pragma_{pragma}(?)", (name,)).fetchall()

        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: {
                "columns": ask("table_xinfo", table),
                "foreign keys": sorted(row[2:] for row in ask("foreign_key_list", table)),
                "indexes": sorted(
                    (origin, unique, [column for _, _, column in ask("index_info", name)])
                    for _, name, unique, origin, _ in ask("index_list", table)
                ),
            }
            for table in tables
        }


def test_the_steps_make_the_tables_that_sqlalchemy_expects(tmp_path: Path) -> None:
    made, described = tmp_path / "made.db", tmp_path / "described.db"
    connect(made).dispose()
    engine = create_engine(f"sqlite:///{described}")
    Table.metadata.create_all(engine)
    engine.dispose()

    assert _schema(made) == _schema(described)
    assert all(name.startswith("kdctl_") for name in _schema(made))


def test_an_older_database_is_copied_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "kdctl.db"
    connect(path, steps=(FIRST,)).dispose()

    connect(path, steps=(FIRST, SECOND, THIRD)).dispose()

    assert _version(path) == 3
    assert _things(path) == [("old", "grey"), ("new", "red")]
    backup = tmp_path / "kdctl.db.v1.backup"
    assert _version(backup) == 1
    assert _things(backup) == [("old",)]
    assert {item.name for item in tmp_path.iterdir()} == {path.name, backup.name}


def test_a_database_that_is_up_to_date_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "kdctl.db"
    connect(path, steps=(FIRST,)).dispose()

    connect(path, steps=(FIRST,)).dispose()

    assert _things(path) == [("old",)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_step_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "kdctl.db"
    connect(path, steps=(FIRST,)).dispose()

    with pytest.raises(OperationalError, match="no such table"):
        connect(path, steps=(FIRST, SECOND, ("DELETE FROM missing",)))

    assert _version(path) == 1
    assert _things(path) == [("old",)]


def test_a_database_from_the_future_is_refused_and_left_alone(tmp_path: Path) -> None:
    path, newest = tmp_path / "kdctl.db", len(STEPS)
    connect(path, steps=(*STEPS, FIRST)).dispose()
    before = path.read_bytes()

    with pytest.raises(
        KdctlError, match=f"written by a newer kdctl: its schema is {newest + 1}, this kdctl knows {newest}"
    ) as caught:
        connect(path)

    assert caught.value.hint.startswith("update kdctl")
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", range(1, len(STEPS) + 1))
def test_what_an_older_kdctl_stored_is_read_by_this_one(tmp_path: Path, version: int) -> None:
    path, fresh = tmp_path / "kdctl.db", tmp_path / "fresh.db"
    connect(path, steps=STEPS[:version]).dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(WRITTEN_BY_THE_FIRST)
    with Store.open(path) as store:
        (run,) = store.runs()
        assert (run.key, run.seed, run.state, run.plan) == ("a" * 16, 3, RunState.FINISHED, {"seed": 3})
        assert [item.name for item in store.artifacts(run.key)] == ["last.pt"]
        assert [(sweep.name, sweep.members) for sweep in store.sweeps()] == [
            ("lr", (SweepMember(run_key=run.key, role="student"),))
        ]
    connect(fresh).dispose()
    assert _schema(path) == _schema(fresh)
    assert _version(path) == len(STEPS)
    assert (tmp_path / f"kdctl.db.v{version}.backup").exists() == (version < len(STEPS))


def test_an_older_database_that_may_not_be_written_is_read_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kdctl.db"
    connect(path, steps=STEPS[:1]).dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(WRITTEN_BY_THE_FIRST)
    before = path.read_bytes()
    monkeypatch.setattr(database, "is_writable", lambda _path: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    with Store.open(path, read_only=True) as store:
        assert [run.key for run in store.runs()] == ["aaaaaaaaaaaaaaaa"]
        assert store.history_hashes() == {}
        assert store.path == path
        assert list((tmp_path / "tmp").iterdir())

    assert path.read_bytes() == before
    assert "older kdctl" in caplog.text
    assert {item.name for item in tmp_path.iterdir()} == {path.name, "tmp"}, "no backup, and no journal"
    assert not list((tmp_path / "tmp").iterdir())


def test_what_an_older_kdctl_goes_on_to_write_is_seen_by_who_looks(tmp_path: Path) -> None:
    path = tmp_path / "kdctl.db"
    connect(path, steps=STEPS[:1]).dispose()
    with Store.open(path, read_only=True) as store, closing(sqlite3.connect(path)) as writer:
        assert store.runs() == []
        writer.executescript(WRITTEN_BY_THE_FIRST)
        assert [run.key for run in store.runs()] == ["aaaaaaaaaaaaaaaa"]
        with writer:
            writer.execute("UPDATE kdctl_runs SET state = 'failed'")
        assert [run.state for run in store.runs()] == [RunState.FAILED]
    assert _version(path) == 1


def test_a_database_of_optuna_is_looked_at_without_moving_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kdctl.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE studies (study_id INTEGER)")
    before = path.read_bytes()
    with Store.open(path, read_only=True) as store:
        assert store.runs() == []
    assert path.read_bytes() == before
    assert caplog.text == ""
