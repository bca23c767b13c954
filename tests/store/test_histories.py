"""Epochs of runs that have ended, in one row: nothing that is asked of them differs."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kdctl.errors import KdctlError
from kdctl.records import EpochResult, PlannedRun, RunResult, RunState
from kdctl.store import histories
from kdctl.store.epoch_lines import (
    _split_at_once,
    _split_line_by_line,
    pack,
    parse_epochs,
    sha256_of,
    unpack,
)
from kdctl.store.folder import RunFolder
from kdctl.store.ingest import ingest
from kdctl.store.json_files import with_checksum
from kdctl.store.leases import Owner
from kdctl.store.store import Store

MakeEpoch = Callable[..., EpochResult]
OWNER = Owner(host="here", pid=1, token="a")


@pytest.fixture
def key(store: Store, plan_run: Callable[..., PlannedRun], make_epoch: MakeEpoch) -> str:
    """A run that is held, with three epochs."""
    run = plan_run(1)
    store.add_runs([run])
    store.claim(run.key, OWNER, lease_seconds=60)
    for number in (1, 2, 3):
        store.record_epoch(run.key, make_epoch(number))
    return run.key


def count(store: Store, table: str) -> int:
    with closing(sqlite3.connect(store.path)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def answers(store: Store, key: str) -> object:
    return (
        store.epochs(key),
        store.results_at([key], 2),
        store.results_at([key], 9),
        store.seconds_of([key]),
        store.run(key).epochs,
    )


def test_epochs_of_a_settled_run_are_one_row_and_read_the_same(
    store: Store, key: str, make_result: Callable[..., RunResult]
) -> None:
    before = answers(store, key)
    store.settle(key, OWNER, result=make_result())
    assert (count(store, "kdctl_epochs"), count(store, "kdctl_histories")) == (0, 1)
    assert answers(store, key) == before
    assert store.past([key], 3) == {key}
    assert store.past([key], 4) == set()


def test_a_failed_run_keeps_its_rows_for_it_may_be_tried_again(
    store: Store, key: str, make_result: Callable[..., RunResult]
) -> None:
    store.settle(key, OWNER, result=make_result(RunState.FAILED))
    assert (count(store, "kdctl_epochs"), count(store, "kdctl_histories")) == (3, 0)


def test_a_later_epoch_joins_those_that_are_packed(store: Store, key: str, make_epoch: MakeEpoch) -> None:
    with store.writing() as connection:
        histories.pack_epochs(connection, key)
    store.record_epoch(key, make_epoch(4))
    assert [epoch.epoch for epoch in store.epochs(key)] == [1, 2, 3, 4]
    with store.writing() as connection:
        histories.pack_epochs(connection, key)
    assert [epoch.epoch for epoch in store.epochs(key)] == [1, 2, 3, 4]
    assert count(store, "kdctl_epochs") == 0


def test_rows_of_an_earlier_version_are_packed_when_the_folder_is_read(
    store: Store, tmp_path: Path, key: str, make_epoch: MakeEpoch, make_result: Callable[..., RunResult],
    plan_run: Callable[..., PlannedRun],
) -> None:  # fmt: skip
    folder = RunFolder(tmp_path / "runs", key)
    folder.write_plan(plan_run(1))
    for number in (1, 2, 3):
        folder.append_epoch(make_epoch(number))
    folder.write_result(make_result())
    before = store.epochs(key)
    lease = store.lease(key)
    assert lease is not None
    assert ingest(store, folder, abandoned=True, holder=lease.owner) is RunState.FINISHED
    assert count(store, "kdctl_epochs") == 0
    assert store.epochs(key) == before
    assert store.history_hashes() == {key: sha256_of(folder.epoch_lines())}


def test_a_damaged_row_is_told_as_damage(
    store: Store, key: str, make_result: Callable[..., RunResult]
) -> None:
    store.settle(key, OWNER, result=make_result())
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE kdctl_histories SET lines = x'00'")
    with pytest.raises(KdctlError, match="is damaged: a row holds no packed epochs"):
        store.epochs(key)


@pytest.mark.parametrize("lines", [b"{}\n", b"[]\n", b"{\n", b"1\n", b"{},{}\n", b'{"epoch": 1}\n'])
def test_lines_that_are_no_epochs_are_refused(lines: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_epochs(lines)


LINES = b"".join(b'{"a":%d.5,"b":[-1e-05,%d],"c":"2026-01-0%dT"}\n' % (n, n * n, n) for n in range(1, 9))


CHECKED = b"".join(with_checksum(line) + b"\n" for line in LINES.splitlines())


@pytest.mark.parametrize(
    "lines",
    [
        b'{"a":1}\n',
        LINES,
        LINES + b'{"other":2}\n',  # not alike
        LINES + b"half a line",
        b"",
        b"\n",
        b'{"a":1}\0\n{"a":2}\0\n',
        b"no number\nno number\n",
        b'{"a b":1}\n{"a b":2}\n',
        CHECKED,
        CHECKED + b"half a line",
        CHECKED + LINES,
        CHECKED.replace(b"\n", b"\r\n"),
        CHECKED[:-4] + b'0"}\n',  # another checksum
        with_checksum(CHECKED.splitlines()[0]) + b"\n",  # two
        b'{"a":1e-05,"b":2}\n{"a":3.5,"b":1e-7}\n',
        b'{"a":1e+16}\n{"a":1.5}\n',
        b'{"a":"fine-tune 100 %","b":1}\n{"a":"fine-tune 100 %","b":2}\n',
        b'{"a":"\1","b":1}\n{"a":"\1","b":2}\n',
        b'{"a":1}\n{"a":2}{"a":3}\n',
        b"1\n2\n",
    ],
)
def test_packed_lines_come_back_as_they_were(lines: bytes) -> None:
    assert unpack(pack(lines)) == lines


def test_lines_that_differ_in_numbers_only_are_packed_closely() -> None:
    real = b"".join(b'{"a":%r,"b":{"loss":%r}}\n' % (n**0.5, n**-0.7) for n in range(2, 99)).replace(
        b"'", b""
    )
    assert len(pack(real)) < 0.95 * len(zlib.compress(real, 9))
    assert unpack(pack(real)) == real
    assert unpack(zlib.compress(LINES)) == LINES, "what the first version of the table holds"


def test_checksums_take_no_room_in_what_is_packed() -> None:
    assert len(pack(CHECKED)) <= len(pack(LINES)) + 1


def test_lines_that_are_divided_at_once_are_packed_as_those_that_are_looked_at_one_by_one() -> None:
    lines = b'{"a":1e-05,"b":[2,"x-1 %"]}\n{"a":-3.5,"b":[1e-7,"x-9 %"]}\n'
    assert _split_at_once(lines) == _split_line_by_line(lines)
    assert _split_at_once(lines) == (
        [b'{"a":', b',"b":[', b',"x', b' %"]}'],
        [b"1e-05 -3.5", b"2 1e-7", b"-1 -9"],
    )


@pytest.mark.parametrize(
    "junk",
    [
        b"junk",
        b"C",
        b"S",
        b"SC",
        b"Cjunk",
        b"C" + zlib.compress(b"a\n1 2\n3"),
        b"C" + zlib.compress(b"a\0b\0c\n1 2"),
    ],
)
def test_damaged_bytes_are_refused(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(junk)
