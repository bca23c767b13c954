from __future__ import annotations

import contextlib
import logging
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kdctl.errors import KdctlError
from kdctl.store.backup import complaints, copy_database
from kdctl.store.database import connect, reading, writing
from kdctl.store.faults import explained
from kdctl.store.migrations import STEPS


def _ask(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(statement)]


def _release(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Let processes that say they are ready go, all at once; return what they print."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate() for process in processes]
    assert [errors for _, errors in answers] == [""] * len(processes)
    return [output for output, _ in answers]


def fill(disk: Path) -> None:
    """Leave no byte."""
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while file.write(b"\1" * 4096):
            pass


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that any user may look into; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        Path(name).chmod(0o755)


@pytest.fixture
def refused(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Callable[[Path], str]:
    """Open a database as a user to whom permissions apply; return the error."""

    def open_it(path: Path) -> str:
        output, errors = start("open_unprivileged.py", path, tmp_path / "another.db").communicate()
        assert errors == ""
        return output

    return open_it


@pytest.mark.usefixtures("waiting_for_disks")
def test_connections_are_durable_patient_and_strict(database: Path) -> None:
    engine = connect(database)
    with reading(engine) as connection:
        answers = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys", "user_version")
        }
    engine.dispose()

    assert answers == {
        "journal_mode": "wal",
        "synchronous": 1,
        "busy_timeout": 60_000,
        "foreign_keys": 1,
        "user_version": len(STEPS),
    }


def test_a_writer_that_fails_changes_nothing(database: Path) -> None:
    engine = connect(database)
    statement = "INSERT INTO kdctl_sweeps (name, recipe, created) VALUES ('lr', '{}', '')"

    def fail() -> None:
        with writing(engine) as connection:
            connection.exec_driver_sql(statement)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    engine.dispose()

    assert _ask(database, "SELECT name FROM kdctl_sweeps") == []


def test_readers_go_on_while_a_writer_is_at_work(database: Path) -> None:
    engine = connect(database)
    with writing(engine) as writer:
        writer.exec_driver_sql("INSERT INTO kdctl_sweeps (name, recipe, created) VALUES ('lr', '{}', '')")
        with reading(engine) as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM kdctl_sweeps").scalar_one() == 0
    with reading(engine) as reader:
        assert reader.exec_driver_sql("SELECT count(*) FROM kdctl_sweeps").scalar_one() == 1
    engine.dispose()


@pytest.mark.extended
def test_eight_processes_may_open_a_new_file_at_once(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(5)]

    outputs = _release([start("open_all.py", *paths) for _ in range(8)])

    assert outputs == [""] * 8
    for path in paths:
        assert _ask(path, "PRAGMA integrity_check") == ["ok"]
        assert _ask(path, "PRAGMA journal_mode") == ["wal"]
        assert _ask(path, "PRAGMA user_version") == [len(STEPS)]


def test_on_a_network_the_journal_is_rolled_back_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("server:/ / nfs4 rw 0 0\n")
    path = tmp_path / "kdctl.db"
    connect(path).dispose()

    with caplog.at_level(logging.WARNING):
        connect(path, mounts=mounts).dispose()

    assert _ask(path, "PRAGMA journal_mode") == ["delete"]
    assert "network file system (nfs4)" in caplog.text


def test_a_reader_that_keeps_wal_away_does_not_keep_us_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kdctl.db"
    engine = connect(path)
    engine.dispose()
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode = delete")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM kdctl_runs").fetchall()
        with caplog.at_level(logging.WARNING):
            connect(path, timeout_seconds=0.1).dispose()

    assert "journal mode delete" in caplog.text
    connect(path).dispose()
    assert _ask(path, "PRAGMA journal_mode") == ["wal"]


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()

    connect(path).dispose()

    assert _ask(path, "PRAGMA user_version") == [len(STEPS)]


@pytest.mark.parametrize("text", ["x", "students,teachers\n" * 1000])
def test_a_text_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)

    with pytest.raises(KdctlError, match=r"table\.csv is not an SQLite database"):
        connect(path)

    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE recipes (name TEXT)",
        "CREATE TABLE trials (name TEXT); CREATE TABLE experiments (name TEXT)",
        "CREATE VIEW today AS SELECT 1",
        "PRAGMA user_version = 3",
    ],
)
def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, statements: str) -> None:
    path = tmp_path / "cooking.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)
    before = path.read_bytes()

    with pytest.raises(KdctlError, match="database of another program"):
        connect(path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _all_but_its_head(content: bytes) -> bytes:
    return content[:100] + b"\xff" * (len(content) - 100)


def _a_letter_of_its_schema(content: bytes) -> bytes:
    return content.replace(b"CREATE TABLE kdctl_runs", b"CREATE TABLE \x80dctl_runs")


def _its_format(content: bytes) -> bytes:
    return content[:44] + b"\0\0\0\x09" + content[48:]


@pytest.mark.parametrize("spoil", [_all_but_its_head, _a_letter_of_its_schema, _its_format])
def test_a_damaged_database_is_refused(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "kdctl.db"
    connect(path).dispose()
    path.write_bytes(spoil(path.read_bytes()))

    with pytest.raises(KdctlError, match=r"is damaged") as caught:
        connect(path)
    assert "kdctl sync" in caught.value.hint


def test_a_relative_path_that_looks_like_a_uri_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file:x").mkdir()
    connect(Path("file:x/kdctl.db")).dispose()
    copy_database(Path("file:x/kdctl.db"), Path("file:x/copy.db"))
    assert complaints(Path("file:x/copy.db")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["file:x"]


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(KdctlError, match="is a folder"):
        connect(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(KdctlError, match="cannot be made"):
        connect(tmp_path / "file" / "runs" / "kdctl.db")


@pytest.mark.extended
def test_a_read_only_file_is_refused(open_place: Path, refused: Callable[[Path], str]) -> None:
    path = open_place / "kdctl.db"
    connect(path).dispose()
    path.chmod(0o444)
    open_place.chmod(0o777)
    before = path.read_bytes()

    assert f"{path} is read-only. | allow writing" in refused(path)
    assert path.read_bytes() == before


@pytest.mark.extended
def test_a_read_only_folder_is_refused(open_place: Path, refused: Callable[[Path], str]) -> None:
    path = open_place / "kdctl.db"
    connect(path).dispose()
    path.chmod(0o666)
    open_place.chmod(0o555)

    assert f"the folder of {path} is read-only" in refused(path)
    assert f"the folder of {open_place / 'new.db'} is read-only" in refused(open_place / "new.db")


def test_a_disk_that_is_mounted_read_only_is_told_from_modes_that_chmod_mends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kdctl.db"
    connect(path).dispose()
    monkeypatch.setattr("kdctl.store.database.is_mounted_read_only", lambda _path: True)

    with pytest.raises(KdctlError, match="lies on a disk that is mounted read-only") as refusal:
        connect(path)
    assert "copy the whole folder elsewhere" in refusal.value.hint
    assert "--runs FOLDER" in refusal.value.hint


def test_waiting_for_a_lock_ends_with_an_explanation(tmp_path: Path) -> None:
    path = tmp_path / "kdctl.db"
    connect(path).dispose()
    engine = connect(path, timeout_seconds=0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(KdctlError, match="is locked"),
            writing(engine) as connection,
        ):
            connection.exec_driver_sql("DELETE FROM kdctl_runs")
    engine.dispose()


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.extended
def test_who_waits_long_for_a_lock_is_told_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    monkeypatch.setattr("kdctl.store.database._QUIET_SECONDS", 0.05)
    path = tmp_path / "kdctl.db"
    connect(path).dispose()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        if exclusive:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE" if exclusive else "BEGIN IMMEDIATE")
        other.execute("CREATE TABLE held (number)")
        with (
            pytest.raises(KdctlError, match="is locked"),
            writing(connect(path, timeout_seconds=1.0, read_only=True)),
        ):
            pass
    assert f"{path} is locked by another program: waiting for it, 1 s at most." in caplog.messages


def test_a_locked_database_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kdctl.db"
    connect(path).dispose()
    opened = sqlite3.connect
    monkeypatch.setattr("kdctl.store.backup.sqlite3.connect", partial(opened, timeout=0))
    with closing(opened(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            complaints(path)


def test_a_full_disk_keeps_nobody_from_reading(small_disk: Path, tmp_path: Path) -> None:
    path = small_disk / "kdctl.db"
    connect(path).dispose()
    fill(small_disk)
    engine = connect(path, read_only=True)
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM kdctl_runs").scalar_one() == 0
    engine.dispose()
    assert complaints(path) == []
    copy_database(path, tmp_path / "copy.db")
    with pytest.raises(KdctlError, match="no room on the disk"):
        connect(path)


def test_a_database_that_was_removed_while_in_use_is_named_as_that(tmp_path: Path) -> None:
    short = sqlite3.OperationalError("disk I/O error")  # what another process gets beside one at work
    short.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHORT_READ
    with (
        pytest.raises(KdctlError, match="one was removed while in use") as error,
        explained(tmp_path / "kdctl.db"),
    ):
        raise short
    assert "`kdctl sync`" in error.value.hint
