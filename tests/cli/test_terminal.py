"""What a person at a terminal sees, through a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GRID = "[[grid]]\nmethod = ['ce']\n[[grid]]\nmethod = ['kd', 'simkd']\n"


def on_terminal(folder: Path, words: str, *, columns: int = 80, **environment: str) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and all that was drawn."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "kdctl", *words.split()],
        cwd=folder,
        stdin=side,
        stdout=side,
        stderr=side,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(side)
    drawn = b""
    try:
        while part := os.read(main, 65_536):
            drawn += part
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(main)
    return process.wait(60), drawn.decode()


def plain(drawn: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


@pytest.mark.extended
def test_a_sweep_draws_bars_and_leaves_lines(recipe: Callable[..., str], tmp_path: Path) -> None:
    code, drawn = on_terminal(tmp_path, f"sweep {recipe(GRID)} --threads 1 -o schedule.epochs=3")
    assert code == 0
    text = plain(drawn)
    assert "Traceback" not in text
    assert "all runs" in text
    assert "━" in text
    assert "/4 runs" in text
    assert re.search(r"\d+\.\d\d %", text)
    assert "4 runs: 0 done, 4 to do" in text
    assert "tiny: 4 finished" in text


@pytest.mark.extended
def test_a_search_for_the_model_that_weights_fit_is_told_where_somebody_waits(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("none")
    said = "looking for the model that w.pth fits"
    assert said in on_terminal(tmp_path, "import-weights w.pth --dataset digits")[1]
    assert said not in on_terminal(tmp_path, "import-weights w.pth --dataset digits --model resnet8")[1]


@pytest.mark.extended
def test_no_color_is_respected(tmp_path: Path) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*m")
    code, drawn = on_terminal(tmp_path, "report", NO_COLOR="1")
    assert code == 1
    assert "error: there is no database" in plain(drawn)
    assert {match for match in colour.findall(drawn) if re.search(r"3\d|4\d", match)} == set()
    _, coloured = on_terminal(tmp_path, "report")
    assert any(re.search(r"3\d", match) for match in colour.findall(coloured))


@pytest.mark.extended
def test_on_a_narrow_terminal_tables_fold_their_columns_and_never_a_word(
    recipe: Callable[..., str], kdctl: Callable[..., object], tmp_path: Path
) -> None:
    kdctl(f"sweep {recipe(GRID)} --threads 1 --quiet")
    for words in ("list runs", "report", "report --layout runs"):
        code, drawn = on_terminal(tmp_path, words, columns=80)
        assert code == 0
        lines = plain(drawn).replace("\r", "").splitlines()
        assert max(map(len, lines)) <= 80
        text = " ".join(" ".join(lines).split())
        for word in ("simkd", "resnet4", "finished" if "list" in words else "top-1 (%)"):
            assert f" {word} " in text
    keys = [line[:16] for line in plain(on_terminal(tmp_path, "list runs")[1]).splitlines()]
    assert keys.count("run             ") == 2  # two blocks, each with the key that says which run it is


EVIL = """
schema = 1
name = "evil one"
student = "resnet3"
method = "ce"
data = {name = "digits", size = 8, samples_per_class = 2}
schedule = {name = "constant", epochs = 1}
[[reported]]
match = {method = "ce"}
top1 = 50.0
source = "=cmd|'/c calc'!A0 <script>alert(1)</script> \\u001b[2J\\u202e"
label = "=1+1|x"
"""


def test_text_of_others_is_shown_and_never_obeyed(kdctl: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "evil.toml").write_text(EVIL)
    swept = kdctl("sweep evil.toml --threads 1")
    assert "kdctl report --sweep 'evil one'" in swept.err
    report = kdctl("report").out
    assert r"\x1b[2J\u202e" in report
    assert "&lt;script>" in report
    assert "'=cmd|" in kdctl("report --format csv").out
    for words in ("report", "report --format csv", "report --format latex", "report --format json"):
        assert not {"\x1b", "\u202e"} & set(kdctl(words).out)
    answer = kdctl("report", "--sweep", "\x1b[31m")
    answer.refused(r"\x1b[31m", code=1)


@pytest.mark.parametrize("name", ["", "  ", "a\\u001bb", "\\u202e", "a\\nb", "x" * 201])
def test_a_name_that_cannot_be_printed_is_refused(
    kdctl: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    (tmp_path / "named.toml").write_text(EVIL.replace("evil one", name))
    kdctl("sweep named.toml --dry-run").refused("cannot be the name of a sweep", code=2)


@pytest.mark.parametrize("name", [".hidden", "..", "a/../b", "a b", "-x", "ü"])
def test_a_sweep_of_any_name_outlives_its_database(
    kdctl: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    (tmp_path / "named.toml").write_text(EVIL.replace("evil one", name))
    assert kdctl("sweep named.toml --threads 1 --quiet").code == 0
    for path in (tmp_path / "runs").glob("kdctl.db*"):
        path.unlink()
    assert f"sweep {name}\n" in kdctl("sync").out
    assert not list((tmp_path / "runs" / "sweeps").glob(".*"))


@pytest.mark.parametrize("closed", ["0<&- 1>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.slow
def test_streams_that_are_closed_are_no_bug(tmp_path: Path, closed: str) -> None:
    command = f"exec {sys.executable} -m kdctl init mine.toml {closed}"
    answer = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert answer.returncode == 2
    assert b"Traceback" not in answer.stderr
    assert (b"no student is named" in answer.stderr) == ("2>&-" not in closed)


@pytest.mark.extended
def test_results_for_a_closed_stream_are_lost_and_nothing_else(tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m kdctl list recipes 1>&-"
    answer = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, b"")


@pytest.mark.slow
def test_a_terminal_that_says_it_has_no_width_has_a_usual_one(tmp_path: Path) -> None:
    code, drawn = on_terminal(tmp_path, "show kd", COLUMNS="0")
    assert code == 0
    assert max(map(len, plain(drawn).splitlines())) <= 80


@pytest.mark.parametrize("encoding", ["idna", "undefined", "idna:strict"])
@pytest.mark.extended
def test_an_encoding_that_is_none_for_text_is_left_for_utf_8(tmp_path: Path, encoding: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "kdctl", "runs", "list"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr.decode().startswith("error: there is no database")
    assert "hint: " in answer.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "gbk", "koi8-r", "shift_jis", "ascii"])
def test_no_command_ends_for_a_letter_that_the_terminal_lacks(
    kdctl: Callable[..., Any], tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "evil.toml").write_text(EVIL)
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "80"}
    for words in ("--help", "sweep evil.toml --threads 1", "report", "list runs", "train evil.toml"):
        answer = subprocess.run(
            [sys.executable, "-m", "kdctl", *words.split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert answer.returncode == 0, answer
        (answer.stdout + answer.stderr).decode(encoding)
        assert answer.stdout or words.startswith("sweep")


def test_names_that_the_locale_has_no_letters_for_are_told_as_such(tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    answer = subprocess.run(
        [sys.executable, "-m", "kdctl", "report", "--runs", "l\u00e4ufe".encode()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert answer.returncode == 2
    assert b"the locale (LC_ALL, LANG) says that names are not in UTF-8" in answer.stderr
    assert b"hint: export LC_ALL=C.UTF-8" in answer.stderr


def test_who_stands_in_a_folder_that_is_gone_is_told_before_a_library_ends_it_all(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    answer = subprocess.run(
        ["sh", "-c", 'cd gone && rmdir ../gone && exec "$0" -m kdctl list methods', sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr == "error: the folder you stand in is gone.\nhint: change to another one: cd.\n"
