"""A store of which something is damaged: it is named, and everything else is read."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kdctl.store.json_files import with_checksum

Kdctl = Callable[..., Any]
Damage = Callable[[Path], object]

DEEP = "[" * 100_000


@pytest.fixture
def run(two_runs: Path, tmp_path: Path) -> Path:
    """The folder of one of two runs, in a store of the test's own."""
    shutil.copytree(two_runs, tmp_path / "runs")
    return sorted((tmp_path / "runs").glob("*/plan.json"))[0].parent


def lose_the_database(run: Path) -> None:
    for path in run.parent.glob("kdctl.db*"):
        path.unlink()


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def nested(path: Path) -> None:
    path.write_text(DEEP + "\n")


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0\n")


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def dangling(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")


FILES = (
    *("plan.json", "result.json", "epochs.jsonl", "environment.json"),
    *("evaluations.jsonl", "failure.json", "dropped.json"),
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", [folder, pipe, loop, dangling, nested, no_text])
@pytest.mark.parametrize("name", FILES)
def test_one_bad_file_is_named_and_the_other_run_is_read(
    kdctl: Kdctl, run: Path, name: str, damage: Damage
) -> None:
    damage(run / name)
    checked = kdctl("db check")
    assert checked.code == 1
    assert checked.err.count(f"{run.name}/{name}") == 1
    lose_the_database(run)
    answer = kdctl("sync")
    assert answer.code == 1
    assert "1 run new" in answer.out
    assert answer.err.count("error: ") == answer.err.count(f"{run.name}/{name}") == 1
    assert "hint: " in answer.err


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("plan.json", '"seed":0,"checksum"', f'"seed":{2**63},"checksum"'),
        ("plan.json", '"seed":0,"checksum"', f'"seed":{"9" * 5000},"checksum"'),
        ("plan.json", '"protocol":"', '"protocol":"\\ud800'),
        ("plan.json", '"teachers":[]', '"teachers":7'),
        ("plan.json", '"method":{', '"method":{"kd_weight":'),
        ("plan.json", '"learning_rate":0.1', '"learning_rate":0.2'),
        ("epochs.jsonl", '"epoch":1', '"epoch":12345678901234567890'),
        ("result.json", '"num_bytes":', '"num_bytes":12345678901234567890'),
        ("result.json", '"reason":""', '"reason":"\\udfff"'),
        ("result.json", '"state":"finished"', '"state":"planned"'),
        ("result.json", '"last":', '"lost":'),
        ("result.json", '"name":"last.pt"', '"name":"../last.pt"'),
        ("result.json", '"name":"last.pt"', '"name":"a\\u0000b"'),
        ("environment.json", '"host":"', '"host":"\\udc00'),
    ],
)
def test_a_bad_value_is_named_and_the_other_run_is_read(
    kdctl: Kdctl, run: Path, name: str, old: str, new: str
) -> None:
    place = run if old in (run / name).read_text() else sorted(run.parent.glob("*/plan.json"))[1].parent
    replaced(place / name, old, new)
    assert kdctl("db check --hashes").code == 1
    lose_the_database(run)
    answer = kdctl("sync")
    assert (answer.code, answer.err.count("error: ")) == (1, 1)
    assert place.name in answer.err
    assert "1 run new" in answer.out


@pytest.mark.parametrize("damage", [folder, pipe, loop, nested, no_text])
def test_a_bad_sweep_file_is_named_and_runs_are_read(kdctl: Kdctl, run: Path, damage: Damage) -> None:
    damage(run.parent / "sweeps" / "other.json")
    assert "other.json" in kdctl("db check").err
    lose_the_database(run)
    answer = kdctl("sync")
    assert "2 runs new, 0 changed, 0 as before; 1 sweep new" in answer.out
    assert (answer.code, answer.err.count("error: ")) == (1, 1)
    assert "sweeps/other.json" in answer.err


def test_evaluations_of_another_run_are_not_read(kdctl: Kdctl, run: Path) -> None:
    assert kdctl(f"eval {run.name} --threads 1").code == 0
    other = sorted(run.parent.glob("*/plan.json"))[1].parent
    shutil.copy(run / "evaluations.jsonl", other)
    assert f"{other.name}/evaluations.jsonl is damaged: it speaks of another run, {run.name}" in (
        kdctl("sync").err
    )


def allow_nulls(database: Path) -> None:
    """Let columns hold nothing in which every row should have a value, as a page full of zeros does."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE name LIKE 'kdctl_%'"
        )
        connection.commit()


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE kdctl_runs SET state = 'asleep'", "'asleep', which is no state"),
        ("UPDATE kdctl_runs SET plan = 'junk'", "a row holds what kdctl never writes"),
        ("UPDATE kdctl_runs SET result = 'junk'", "a row holds what kdctl never writes"),
        ("UPDATE kdctl_runs SET result = '{}'", "a row holds no RunResult"),
        ("UPDATE kdctl_runs SET plan = x'fffe'", "a row holds"),
        ("UPDATE kdctl_sweeps SET recipe = '['", "a row holds no"),
        ("UPDATE kdctl_runs SET seed = 'x'", "a row holds 'x' where a whole number should be"),
        ("UPDATE kdctl_runs SET epochs = 1e300", "a row holds 1e+300 where a whole number should be"),
        ("UPDATE kdctl_runs SET configuration = x'ff'", "a row holds b'\\xff' where a text should be"),
        ("UPDATE kdctl_runs SET created = 'yesterday'", "a row holds 'yesterday' where a time should be"),
        ("UPDATE kdctl_runs SET plan = NULL", "a row holds no plan"),
        ("UPDATE kdctl_runs SET updated = NULL", "a row lacks a value that every row has"),
        ("UPDATE kdctl_sweeps SET name = NULL", "a row lacks a value that every row has"),
        ("ALTER TABLE kdctl_runs RENAME COLUMN reason TO why", "it lacks a table or a column"),
        ("DROP TABLE kdctl_runs", "it lacks a table or a column"),
    ],
)
def test_a_database_with_a_bad_row_is_damaged_and_can_be_rebuilt(
    kdctl: Kdctl, run: Path, statement: str, complaint: str
) -> None:
    if statement.endswith("NULL"):
        allow_nulls(run.parent / "kdctl.db")
    with closing(sqlite3.connect(run.parent / "kdctl.db")) as connection:
        connection.execute(statement)
        connection.commit()
    checked = kdctl("db check")
    assert checked.code == 1
    assert complaint in checked.err
    told = kdctl("report")
    told.refused("kdctl.db is damaged", "kdctl sync", code=1)
    kdctl("list runs").ended_in_order()
    lose_the_database(run)
    assert kdctl("sync").code == kdctl("report").code == 0


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE kdctl_runs SET seed = 7", "the database has another plan of run"),
        ("UPDATE kdctl_runs SET configuration = 'abc'", "the database has another plan of run"),
        (
            "UPDATE kdctl_runs SET plan = replace(plan, '0.01', '0.02')",
            "the database has another plan of run",
        ),
        ("UPDATE kdctl_runs SET environment = replace(environment, '0.', '9.')", "has another environment"),
        ("UPDATE kdctl_runs SET result = replace(result, ':4', ':9')", "has another result in its folder"),
        ("UPDATE kdctl_sweeps SET recipe = replace(recipe, '0.01', '0.02')", "something else of its sweep"),
    ],
)
def test_a_row_that_was_altered_is_named_and_can_be_rebuilt(
    kdctl: Kdctl, run: Path, statement: str, complaint: str
) -> None:
    with closing(sqlite3.connect(run.parent / "kdctl.db")) as connection:
        assert connection.execute(statement).rowcount > 0
        connection.commit()
    answer = kdctl("db check")
    assert answer.code == 1
    assert complaint in answer.err
    assert "kdctl sync" in answer.err
    if "move" in answer.err:
        lose_the_database(run)
    assert kdctl("sync").code == 0
    assert kdctl("db check").code == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [('"learning_rate":0.1', '"learning_rate":0.2'), ('"name":"ce"', '"name":"cx"')],
    ids=["another value", "a name that nobody knows"],
)
def test_a_plan_with_a_forged_checksum_is_found_while_the_database_is_there(
    kdctl: Kdctl, run: Path, old: str, new: str
) -> None:
    place = next(path.parent for path in run.parent.glob("*/plan.json") if old in path.read_text())
    plan = re.sub(r',"checksum":"[0-9a-f]{16}"', "", (place / "plan.json").read_text()).strip()
    (place / "plan.json").write_bytes(with_checksum(plan.replace(old, new, 1).encode()) + b"\n")
    answer = kdctl("db check")
    assert answer.code == 1
    assert f"{place.name} is not run {place.name}: its plan.json was altered." in answer.err


def without_its_checksum(path: Path, old: str, new: str) -> None:
    replaced(path, old, new)
    path.write_text(re.sub(r',"checksum":"[0-9a-f]{16}"', "", path.read_text()))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("plan.json", '"protocol":"', '"protocol":"x'),
        ("environment.json", '"host":"', '"host":"x'),
        ("result.json", '"train_seconds":', '"train_seconds":1'),
        ("sweeps/tiny.json", "0.01", "0.02"),
    ],
)
def test_a_record_whose_checksum_was_taken_out_is_named(
    kdctl: Kdctl, run: Path, name: str, old: str, new: str
) -> None:
    path = (run.parent if name.startswith("sweeps/") else run) / name
    without_its_checksum(path, old, new)
    checked = kdctl("db check")
    assert checked.code == 1
    assert f"{name} is damaged: its checksum is missing." in checked.err
    lose_the_database(run)
    answer = kdctl("sync")
    assert answer.code == 1
    assert (
        answer.err.count("error: ") == answer.err.count(f"{name} is damaged: its checksum is missing.") == 1
    )


def test_of_a_run_folder_that_is_a_link_only_the_link_is_removed(
    kdctl: Kdctl, run: Path, tmp_path: Path
) -> None:
    shutil.move(run, tmp_path / "elsewhere")
    run.symlink_to(tmp_path / "elsewhere")
    assert kdctl("db check --hashes").code == 0
    answer = kdctl(f"runs rm {run.name} --yes")
    assert answer.code == 0
    assert f"{tmp_path / 'elsewhere'} is left as it is" in answer.err
    assert (tmp_path / "elsewhere" / "plan.json").is_file()
    assert not any(path.name.startswith(".removed") for path in run.parent.iterdir())
    assert kdctl("sync").code == kdctl("db check").code == 0


def test_copies_of_a_run_folder_are_named_in_order_with_what_to_do(kdctl: Kdctl, run: Path) -> None:
    copies = [f"{run.name} (copy)", "f" * 16]
    for name in copies:
        shutil.copytree(run, run.parent / name)
    told = kdctl("db check").err
    assert told.index(copies[0]) < told.index(copies[1])
    answer = kdctl("sync")
    assert answer.code == 1
    assert answer.err.count(f"holds the plan of another run, {run.name}.") == 2
    assert f"{run.name} has a folder of its own: move this copy away" in answer.err


def test_a_database_that_is_gone_beside_its_run_folders_can_be_rebuilt(kdctl: Kdctl, run: Path) -> None:
    lose_the_database(run)
    for words in ("report", "runs list", "db check"):
        kdctl(words).refused("there is no database runs/kdctl.db", "kdctl sync --runs runs", code=1)
    assert kdctl("sync --runs runs").code == kdctl("db check").code == 0


def test_an_empty_database_is_none(kdctl: Kdctl, run: Path) -> None:
    """A full disk leaves a file without content, which SQLite reads as a store without runs."""
    lose_the_database(run)
    (run.parent / "kdctl.db").touch()
    for words in ("report", "runs list", "db check"):
        kdctl(words).refused("there is no database runs/kdctl.db", "kdctl sync --runs runs", code=1)
    assert kdctl("sync --runs runs").code == kdctl("db check").code == 0


def test_what_a_finished_run_has_lost_is_named_by_sync(kdctl: Kdctl, run: Path) -> None:
    (run / "result.json").unlink()
    answer = kdctl("sync")
    assert answer.code == 1
    assert f"run {run.name} is finished, but its folder holds no result.json." in answer.err
    shutil.rmtree(run)
    answer = kdctl("sync")
    assert answer.code == 1
    assert f"run {run.name} (finished) has no folder any more." in answer.err


def test_a_database_with_a_torn_page_is_damaged(kdctl: Kdctl, run: Path) -> None:
    path = run.parent / "kdctl.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x07" * (len(content) - 4096)
    path.write_bytes(content)
    for words in ("db check", "report", "runs list", f"runs show {run.name}"):
        answer = kdctl(words)
        assert answer.code == 1
        assert "kdctl.db is damaged" in answer.err
        assert "Traceback" not in answer.err
        assert "move it away" in answer.err
        assert "kdctl sync" in answer.err


@pytest.mark.parametrize("target", ["/dev/null/copy.db", "/proc/copy.db", "x" * 300])
def test_an_impossible_place_for_a_backup_is_refused(kdctl: Kdctl, run: Path, target: str) -> None:
    kdctl("db", "backup", target).refused(code=1)


NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
"""What makes root obey permissions."""


@pytest.fixture
def obedient(tmp_path: Path) -> Iterator[Kdctl]:
    """Run a command as somebody who may not read and write everything."""
    prefix = NO_OVERRIDE if os.geteuid() == 0 else ()
    if prefix and shutil.which(prefix[0]) is None:
        pytest.skip("root may read everything here")

    def start(words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, sys.executable, "-m", "kdctl", *words.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    yield start
    for path in (tmp_path, *tmp_path.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700)


@pytest.mark.slow
def test_what_may_not_be_read_is_not_gone(obedient: Kdctl, run: Path) -> None:
    run.chmod(0)
    (run.parent / "sweeps").chmod(0)
    for words in ("db check", "sync"):
        answer = obedient(words)
        assert answer.returncode == 1, answer
        assert answer.stderr.count("cannot be read: Permission denied") == 2
        assert "no folder any more" not in answer.stderr
        assert "runs rm" not in answer.stderr
        assert "Traceback" not in answer.stderr
    shown = obedient(f"runs show {run.name}")
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_store_that_may_not_be_written_is_read_and_stays_as_it_is(
    obedient: Kdctl, two_runs: Path, run: Path, journal: str
) -> None:
    root = run.parent
    with closing(sqlite3.connect(root / "kdctl.db")) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    for path in root.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    root.chmod(0o500)
    before = sorted(root.iterdir())
    shutil.copy(two_runs.parent / "tiny.toml", root.parent)
    shown = ("report", "list runs", "runs list", f"runs show {run.name}", "db check", "db export tables")
    planned = (
        "sweep tiny.toml --dry-run",
        "confirm tiny --seeds 2 --dry-run",
        "export logs --to tensorboard",
    )
    for words in (*shown, *planned):
        answer = obedient(words)
        assert answer.returncode == 0, answer
        assert "error" not in answer.stderr
    evaluated = obedient(f"eval {run.name} --threads 1")
    assert evaluated.returncode == 0
    assert "these numbers are not stored with the run: " in evaluated.stderr
    assert "top-1" in evaluated.stdout
    assert sorted(root.iterdir()) == before
    refused = obedient(f"runs rm {run.name} --yes")
    assert refused.returncode == 1
    assert "read-only" in refused.stderr


@pytest.mark.slow
def test_a_folder_that_cannot_be_deleted_is_named_until_it_can(obedient: Kdctl, run: Path) -> None:
    run.chmod(0o500)
    answer = obedient(f"runs rm {run.name} --yes")
    assert answer.returncode == 1
    assert "of a removed run cannot be deleted (Permission denied)" in answer.stderr
    assert run.name not in obedient("runs list").stdout
    assert "cannot be deleted" in obedient("sync").stderr
    (run.parent / f".removed-{run.name}").chmod(0o700)
    done = obedient("sync")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"removed {run.name}, as was begun" in done.stdout
