"""The pages cannot drift: what they name exists, what they show runs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image

import kdctl
from kdctl import cli, workflows
from kdctl.cli.app import command_line
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.layers import merge
from kdctl.recipe.load import preset_layers
from kdctl.recipe.report_section import ReportedNumber, ReportedTable, ReportOptions
from kdctl.recipe.sections import HEADINGS, SECTIONS
from kdctl.recipe.shipped import preset_names
from kdctl.recipe.space import TOGETHER, SearchOptions
from kdctl.recipe.teacher_section import TeacherOptions
from kdctl.records import RunState
from kdctl.report.frame import EPOCH_COLUMNS, OWN_COLUMNS, run_frame
from kdctl.store.briefs import RunBrief
from kdctl.workflows import compute_rate

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
VERBS = (DOCS / "verbs.md").read_text(encoding="utf-8")
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
PYTHON = DOCS / "python.md"
NOTEBOOK = DOCS / "notebooks" / "curves.ipynb"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for path in ROOT.glob("docs/**/*.md") if path.name != "commands.md"),  # a test of its own
        *(ROOT / room / "README.md" for room in ("recipes", "runs")),
    ]
)

BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#:]+)\)")
SHELL = ("sh", "console")


def blocks(page: str, *languages: str) -> list[str]:
    return [block["text"] for block in BLOCK.finditer(page) if block["language"] in languages]


def section(page: str, heading: str) -> str:
    after = page.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{heading.count('#')}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def commands() -> Iterator[str]:
    """Yield every command that a page, or the comment of a recipe, tells its reader to type."""
    for path in [*ROOT.glob("recipes/**/*.toml"), *ROOT.glob("kdctl/recipe/presets/*.toml")]:
        yield from re.findall(r"^# +(kdctl .+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        lines = [line for block in blocks(page, *SHELL) for line in block.splitlines()]
        inline = re.findall(r"`(kdctl [^`]+)`", page)
        for line in (*lines, *inline):
            for part in re.split(r"&&|\|", line.removeprefix("$ ")):
                if part.strip().startswith("kdctl "):
                    yield part.strip()


def write_flowers(folder: Path) -> None:
    """Write the images of the page on data of one's own: two classes, ten of each."""
    for number, place in enumerate(itertools.product(("train", "test"), ("daisy", "rose"), range(10))):
        split, name, image = place
        path = folder / split / name / f"{image:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32), (number, 255 - number, 128)).save(path)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_the_command_line_understands_every_command_of_the_pages(command: str):
    words = shlex.split(command, comments=True)[1:]
    parsed: Any = command_line()
    while hasattr(parsed, "commands") and words and not words[0].startswith("-"):
        parsed = parsed.commands[words.pop(0)]
    if hasattr(parsed, "commands"):
        assert set(words) <= {option for parameter in parsed.params for option in parameter.opts} | {"--help"}
    elif words:  # a bare verb is a name in a sentence
        parsed.make_context("kdctl", words)
    recipes = [word for word in words if word.startswith("recipes/")]
    assert [recipe for recipe in recipes if not (ROOT / recipe).is_file()] == []


def dry_plans() -> set[str]:
    """Return the commands of the pages that show a plan; other verbs, too, have dry runs."""
    plans = {command for command in commands() if command.startswith(("kdctl sweep ", "kdctl train "))}
    return {command for command in plans if "--dry-run" in command}


@pytest.mark.parametrize("command", sorted(dry_plans()))
@pytest.mark.extended
def test_what_the_pages_try_dry_can_be_planned(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(compute_rate, "MEASURED_BATCH", 2)  # whatever the rate is, it is not looked at
    write_flowers(tmp_path / "data" / "flowers")
    with pytest.raises(SystemExit) as exit_:
        cli.main(
            [*shlex.split(command)[1:], "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
        )
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "  new" in out or " to do" in out
    assert "estimated time: " in out


def test_the_page_of_verbs_lists_every_verb_in_the_words_of_its_help():
    rows = re.findall(r"^\| `kdctl ([\w-]+)` \| (.+) \|$", VERBS.split("\n## ")[0], re.MULTILINE)
    root: Any = command_line()
    helps = {name: verb.get_short_help_str(limit=1000) for name, verb in root.commands.items()}
    assert dict(rows) == helps


def test_every_file_of_the_tree_exists():
    folders: list[str] = []
    for line in blocks(section(ARCHITECTURE, "## The tree"), "")[0].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [line.split()[0].rstrip("/")]
        assert ROOT.joinpath(*folders).exists(), line


def test_the_tree_names_every_room():
    tree = section(ARCHITECTURE, "## The tree")
    package = ROOT / "kdctl"
    rooms = [f"{room.name}/" for room in package.iterdir() if (room / "__init__.py").is_file()]
    modules = [module.name for module in package.glob("[!_]*.py")]
    assert [name for name in (*rooms, *modules) if f"\n  {name} " not in tree] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(path: Path):
    targets = [match["target"] for match in LINK.finditer(path.read_text(encoding="utf-8"))]
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize(
    "text",
    [
        text
        for path in (DOCS / "recipes.md", ROOT / "recipes" / "README.md")
        for text in blocks(path.read_text(encoding="utf-8"), "toml")
        if "schema" in text
    ],
)
def test_every_recipe_of_the_pages_can_be_planned(text: str, tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with workflows.open_workspace(tmp_path / "runs") as workspace:
        plan = workflows.plan_sweep(path, workspace)
    assert plan.runs or plan.recipe.search


@pytest.mark.parametrize(
    "text",
    [
        text
        for path in PAGES
        for text in blocks(path.read_text(encoding="utf-8"), "toml")
        if "schema" in text and "plugins" not in text  # those that need files of their page: test_adding.py
    ],
)
def test_every_recipe_of_any_page_is_a_recipe(text: str, tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    assert workflows.open_recipe(path, [], []).name


def test_the_page_of_recipes_names_all_that_a_recipe_may_say():
    tables = (EngineOptions, SearchOptions, ReportOptions, ReportedNumber, ReportedTable, TeacherOptions)
    options = {field.name for table in tables for field in dataclasses.fields(table)}
    said = set(re.findall(r"\w+", (DOCS / "recipes.md").read_text(encoding="utf-8")))
    assert {*SECTIONS, *HEADINGS, *options, TOGETHER} - said == set()


def test_the_page_of_sweeps_explains_every_state_of_a_run():
    table = section((DOCS / "sweeps.md").read_text(encoding="utf-8"), "## States of a run")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(RunState)


def test_the_page_on_python_names_the_columns_of_every_table():
    rows = re.findall(r"^\| `workflows\.(\w+)` \| (.+) \|$", PYTHON.read_text(encoding="utf-8"), re.MULTILINE)
    said = {name: re.findall(r"`(\w+)`", columns) for name, columns in rows}
    assert said["frame"] == [*run_frame([]).columns[:5], "learning_rate", *OWN_COLUMNS]
    assert said["epochs_frame"] == ["key", "seed", "state", *EPOCH_COLUMNS, "term_task"]
    assert said["list_runs"] == [field.name for field in dataclasses.fields(RunBrief)]
    assert [name for name in said if not hasattr(workflows, name)] == []


def test_the_page_of_recipes_has_the_values_of_every_preset():
    table = section((DOCS / "recipes.md").read_text(encoding="utf-8"), "## Presets")
    shown = {
        cells[0].strip("`"): cells[1:5]
        for line in table.splitlines()
        if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    assert set(shown) == set(preset_names())
    for name, cells in shown.items():
        tree = merge(preset_layers(name)).tree
        data, optimizer, schedule = tree["data"], tree["optimizer"], tree["schedule"]
        assert cells == [
            f"`{data['name']}`",
            str(data["batch_size"]),
            f"`{optimizer['name']}`, {optimizer['learning_rate']:g}",
            f"`{schedule['name']}`, {schedule['epochs']}",
        ]


FENCE = re.compile(r"^(?P<indent> *)(```|~~~)(?P<language>\S*)", re.MULTILINE)
WITH_TESTS = {
    **dict.fromkeys(("sh", "console", "toml")),  # above
    "python": {"adding.md", "evaluation.md", "modules.md", "python.md"},  # each has a test that runs it
    **dict.fromkeys(("text", "", "{toctree}", "{eval-rst}")),  # nothing to type
    **{name: {"README.md"} for name in ("latex", "csv", "json", "html")},  # of the gallery: test_gallery.py
}
"""Languages of blocks -> the pages that may have them; None: all."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_block_of_a_page_escapes_its_test(path: Path):
    page = path.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(page))
    assert [fence[0] for fence in fences if fence["indent"]] == []  # `blocks` finds those at the margin
    for fence in fences[::2]:
        pages = WITH_TESTS[fence["language"]]
        assert pages is None or path.name in pages
    assert re.findall(r"^ {4}(?:kdctl|pip|python) .*", BLOCK.sub("", page), re.MULTILINE) == []
    typed = [line for text in blocks(page, "sh") for line in text.splitlines() if "kdctl" in line]
    assert [line for line in typed if line.endswith("\\")] == []  # `commands` reads line by line


@pytest.fixture
def tiny_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder in which the quickstart takes a moment: two seeds of two epochs."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shipped"
    folder.mkdir()
    recipe = """
    student = "resnet3"
    teacher = { name = "resnet4" }
    seeds = [0, 1]
    data = { name = "digits", size = 8, samples_per_class = 8 }
    schedule = { name = "cosine", epochs = 2 }
    grid = { method = ["ce", "kd"] }
    """
    (folder / "quickstart.toml").write_text(recipe, encoding="utf-8")
    monkeypatch.setattr("kdctl.recipe.shipped.shipped_folder", lambda: folder)


@pytest.mark.usefixtures("tiny_quickstart", "torch_settings")
@pytest.mark.extended
def test_the_python_of_the_pages_runs(capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {}
    for text in blocks(PYTHON.read_text(encoding="utf-8"), "python"):
        exec(compile(text, "python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "resnet3" in printed
    assert "are right" in printed


@pytest.mark.usefixtures("tiny_quickstart", "torch_settings")
@pytest.mark.extended
def test_the_notebook_runs(tmp_path: Path):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    with matplotlib.rc_context({"backend": "agg"}):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), "curves.ipynb", "exec"), names)
        names["plt"].close("all")
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
    assert len(names["curves"]) == 2 * 2 * 2


def test_citation_and_package_have_one_version():
    assert f"\nversion: {kdctl.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


TAKES_HOURS = ("cifar100", "row", "simkd/", "resnet32x4")
"""Words of commands that train for long, or want a data set that is not here; others are planned above."""


def walk(page: Path, *, shorter: dict[str, str]) -> list[str]:
    """Run the commands of a page, one after the other, in this folder; return what was run."""
    done: list[str] = []
    for line in (
        line for text in blocks(page.read_text(encoding="utf-8"), "sh") for line in text.splitlines()
    ):
        command = line
        for long, short in shorter.items():
            command = command.replace(long, short)
        if command.startswith("kdctl ") and not any(word in command for word in TAKES_HOURS):
            with pytest.raises(SystemExit) as exit_:
                cli.main(shlex.split(command)[1:])
            assert exit_.value.code == 0, command
            done.append(command)
    return done


@pytest.mark.slow
@pytest.mark.usefixtures("torch_settings")
def test_the_page_on_ones_own_data_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_flowers(tmp_path / "data" / "flowers")
    assert len(walk(DOCS / "own_data.md", shorter={"--epochs 60 --seeds 5": "--epochs 1 --seeds 2"})) == 5
    assert "| simkd" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_quickstart", "torch_settings")
def test_the_first_part_of_the_tutorial_can_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    done = walk(DOCS / "tutorial.md", shorter={})
    assert done[:4] == [
        "kdctl --version",
        "kdctl sweep quickstart",
        "kdctl report",
        "kdctl report --sweep quickstart --format latex",
    ]
    assert r"\end{tabular}" in capsys.readouterr().out
