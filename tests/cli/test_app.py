from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kdctl as package
from kdctl import plugins
from kdctl.assembly import workspace
from kdctl.cli.app import command_line

Kdctl = Callable[..., Any]

HEAVY = {"torch", "torchvision", "optuna", "pandas", "sqlalchemy", "scipy", "numpy", "sklearn", "matplotlib"}

SPY = """
import sys
from kdctl.cli import main
try:
    main(sys.argv[1:])
finally:
    print(" ".join({module.partition(".")[0] for module in sys.modules}), file=sys.stderr)
"""


SEVERAL = """
import sys
from kdctl.cli import main
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit as end:
        if end.code:
            raise
print(" ".join({module.partition(".")[0] for module in sys.modules}), file=sys.stderr)
"""


def imported_by(folder: Path, *words: str, spy: str = SPY) -> set[str]:
    """Return the top-level modules that a command imports, or several commands."""
    process = subprocess.run(
        [sys.executable, "-c", spy, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return set(process.stderr.split())


@pytest.mark.extended
def test_help_of_every_verb_loads_nothing_heavy(tmp_path: Path) -> None:
    verbs = ("", "train", "sweep", "eval", "report", "list", "list runs")
    assert imported_by(tmp_path, *(f"{verb} --help" for verb in verbs), spy=SEVERAL) & HEAVY == set()


@pytest.mark.extended
def test_verbs_that_look_at_the_store_never_load_torch(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    for file in tmp_path.glob("runs/kdctl.db*"):
        file.unlink()
    commands = ("sync", "sync", "report", "list runs", "list sweeps", "watch --once", "db check")
    assert imported_by(tmp_path, *commands, spy=SEVERAL) & {"torch", "torchvision", "optuna"} == set()


def test_version_and_help(kdctl: Kdctl) -> None:
    assert kdctl("--version").out == f"kdctl {package.__version__}\n"
    bare = kdctl()
    assert bare.code == 2
    for verb in ("train", "sweep", "eval", "report", "list"):
        assert verb in bare.out + bare.err
    assert "Exit codes: 0 done" in kdctl("--help").out


def commands(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        yield from commands(command) if hasattr(command, "commands") else (command,)


@pytest.mark.parametrize("command", list(commands(command_line())), ids=lambda it: it.name)
def test_help_has_no_square_brackets_which_rich_would_swallow(command: Any) -> None:
    texts = [command.help, *(parameter.help for parameter in command.params)]
    assert [text for text in texts if text and "[" in text] == []


@pytest.mark.parametrize(
    ("words", "complaints"),
    [
        ("sweep", ("missing argument 'RECIPE'", "kdctl list recipes", "kdctl init mine.toml")),
        ("runs show", ("missing argument 'RUN'", "kdctl list runs")),
        ("confirm", ("missing argument 'SWEEP'", "kdctl list sweeps")),
        ("plot", ("missing argument 'FIGURE'", "kdctl list figures")),
        ("report x", ("no place for 'x'", "a sweep: --sweep x, or a folder of runs: --runs x")),
        ("sync x", ("no place for 'x'", "if it is a folder of runs: --runs x")),
        ("report x y", ("no place for 'x y'", "report --help")),
        ("train --images x", ("--images", "-o data.name=imagefolder -o data.path=FOLDER")),
        ("eval x --dataset digits", ("--dataset", "kdctl train takes it; not here")),
        ("sweep x --dataset digits", ("--dataset", "write -o data=NAME")),
        ("train --seeds 0-3", ("--seeds", "here it is --seed, once for each")),
        ("train resnet8", ("'resnet8' is a model", "kdctl train --student resnet8")),
        ("sweep resnet8", ("'resnet8' is a model", "kdctl init mine.toml --student resnet8")),
        ("train --student resnet8 --data digits", ("no folder here", "--dataset digits")),
        ("report -o x.pdf", ("no table is written as '.pdf'", "end in one of these: .csv")),
    ],
)
def test_words_in_the_wrong_place_are_told_where_they_belong(
    kdctl: Kdctl, words: str, complaints: tuple[str, ...]
) -> None:
    kdctl(words).refused(*complaints, code=2)


def test_the_dashes_of_options_make_none_like_another(kdctl: Kdctl) -> None:
    assert "did you mean" not in kdctl("report --baseline x").err


def test_a_verb_that_is_nearly_one_of_the_group_is_not_sent_elsewhere(kdctl: Kdctl) -> None:
    answer = kdctl("list run")
    answer.refused("Did you mean 'runs'?", code=2)
    assert "here it is" not in answer.err


@pytest.mark.parametrize(
    ("words", "complaints"),
    [
        ("train --studnet resnet8", ("--studnet", "--student", "train --help")),
        ("sweeep x.toml", ("'sweeep'", "'sweep'", "--help")),
        ("sweep", ("missing argument", "sweep --help")),
        ("sweep a.toml b.toml", ("b.toml", "sweep --help")),
        ("train --graphs maybe", ("--graphs", "maybe", "auto", "train --help")),
        ("confirm x --select first", ("--select", "best-val", "confirm --help")),
    ],
)
def test_words_that_are_not_understood_are_a_problem_with_a_hint(
    kdctl: Kdctl, words: str, complaints: tuple[str, ...]
) -> None:
    answer = kdctl(words)
    answer.refused(*complaints, code=2)
    assert answer.err.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "bounds"),
    [
        ("sweep x.toml --slots 0", "from 1 to 1024"),
        ("sweep x.toml --gang 0", "from 1 to 32"),
        ("train --threads 0", "from 1 to 1024"),
        ("train --seed -1", "from 0 to 9223372036854775807"),
        ("train --seed one", "from 0 to 9223372036854775807"),
        ("bench --gang 33", "from 1 to 32"),
        ("bench --steps 0", "from 1 to 1000000"),
        ("bench --rounds 1.5", "from 1 to 1000000"),
        ("confirm x --seeds 0", "from 2 to 1000"),
        ("confirm x --seeds 1", "from 2 to 1000"),
        ("list models --num-classes 0", "from 1 to 1000000"),
    ],
)
def test_a_number_out_of_bounds_is_named_with_its_bounds(kdctl: Kdctl, words: str, bounds: str) -> None:
    answer = kdctl(words)
    answer.refused(" ".join(words.split()[-2:]), "give a whole number", bounds, code=2)


def test_completion_knows_the_verbs(tmp_path: Path) -> None:
    asked = {"_KDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "kdctl sw", "COMP_CWORD": "1"}
    process = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'kdctl'; from kdctl.cli import main; main()"],
        cwd=tmp_path,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.split() == ["sweep"]


def test_a_bug_ends_with_two_and_asks_for_a_report(kdctl: Kdctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*words: object, **options: object) -> None:
        raise LookupError("nobody thought of this")

    monkeypatch.setattr(workspace, "open_workspace", stumble)
    answer = kdctl("report")
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert "error: kdctl stumbled: LookupError: nobody thought of this." in answer.err


@pytest.mark.parametrize(
    ("error", "problem", "hint"),
    [
        (PermissionError(13, "Permission denied", "x"), "x cannot be used: Permission denied", "allow it"),
        (
            OSError(28, "No space left on device"),
            "the output cannot be used: No space left",
            "free disk space",
        ),
        (
            OSError(40, "Too many levels", "a", None, "b"),
            "a and b cannot be used: Too many levels",
            "mend it",
        ),
    ],
)
def test_what_the_machine_refuses_is_told_without_a_traceback(
    kdctl: Kdctl, monkeypatch: pytest.MonkeyPatch, error: OSError, problem: str, hint: str
) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(workspace, "open_workspace", refuse)
    kdctl("report").refused(problem, f"hint: {hint}, or name another place.", code=1)


@pytest.mark.parametrize("pipe", ["list figures --format json | true", "--help | head -n 1"])
@pytest.mark.extended
def test_a_closed_pipe_is_no_error(pipe: str, tmp_path: Path) -> None:
    process = subprocess.run(
        f"{sys.executable} -m kdctl {pipe}",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stderr == ""


def test_warnings_of_the_rooms_reach_the_reader(kdctl: Kdctl, tmp_path: Path) -> None:
    code = "import logging\nlogging.getLogger('kdctl.readers').warning('fetching %s', 'pictures')\n"
    (tmp_path / "chatty.py").write_text(code)
    answer = kdctl("list projectors --plugin chatty.py")
    assert answer.code == 0
    assert answer.err == "note: fetching pictures\n"


@pytest.mark.parametrize(
    "command",
    [
        "list figures",
        "show kd",
        "plot bars -o bars.svg",
        "report",
        "export logs --to tensorboard",
        "confirm tiny",
        "eval 0123456789abcdef",
        "import-weights weights.pth --model resnet8 --dataset digits",
    ],
)
def test_every_verb_that_takes_plugins_loads_the_installed_ones(
    kdctl: Kdctl, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    point = importlib.metadata.EntryPoint(name="gone", value="no_such_package", group="kdctl.plugins")
    monkeypatch.setattr(plugins, "entry_points", lambda: (point,))
    kdctl(command).refused("the installed plug-in 'gone' failed to import", code=2)


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        *((name, f"export logs --to {name}") for name in ("tensorboard", "mlflow", "wandb")),
        ("pyarrow", "db export tables --format parquet"),
    ],
)
def test_an_extra_that_is_not_there_is_named_and_nothing_written(
    extra: str, command: str, kdctl: Kdctl, two_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(two_runs, tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setitem(sys.modules, extra, None)
    kdctl(command).refused(f"the package {extra}, which is not installed", "pip install 'kdctl[", code=1)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.extended
def test_a_package_that_came_with_kdctl_and_is_gone_is_no_bug(two_runs: Path, tmp_path: Path) -> None:
    words = ["plot", "bars", "-o", str(tmp_path / "bars.svg"), "--runs", str(two_runs)]
    code = f"import sys; sys.modules['matplotlib'] = None\n{SPY}"
    process = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "error: the Python package matplotlib is not installed" in process.stderr
    assert "hint: install kdctl again" in process.stderr
    assert "Traceback" not in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_cannot_be_loaded_is_no_bug(
    kdctl: Kdctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strict_package.py").write_text("int('junk')")

    def open_with_it(*words: object, **options: object) -> None:
        importlib.import_module("strict_package")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(workspace, "open_workspace", open_with_it)
    answer = kdctl("report")
    answer.refused("package strict_package cannot be loaded: ValueError", "environment variable", code=1)
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("option", ["--runs results", "--runs=results", "--runs runs --runs results"])
def test_commands_that_a_hint_names_find_the_same_store(kdctl: Kdctl, tmp_path: Path, option: str) -> None:
    answer = kdctl(f"report {option}")
    answer.refused("kdctl sweep quickstart", "(For this store add --runs results.)", code=1)
    assert "For this store" not in kdctl("report --runs runs").err
    assert "For this store" not in kdctl("report").err
    other = kdctl(f"train --student resnet99 {option}").err
    assert "hint: " in other
    assert "For this store" not in other  # names no command


def test_ctrl_c_before_anything_began_needs_no_words(
    kdctl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdctl.cli.app.run", interrupted)
    answer = kdctl("report")
    assert (answer.code, answer.out, answer.err) == (130, "", "")
