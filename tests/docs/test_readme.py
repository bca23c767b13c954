"""The pages cannot drift: what they name exists, what they show runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import kdctl
from kdctl import cli, workflows
from kdctl.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for path in ROOT.glob("docs/**/*.md") if path.name != "commands.md"),  # a test of its own
        *(ROOT / room / "README.md" for room in ("recipes", "runs")),
    ]
)
ADDING = ROOT / "docs" / "adding.md"

BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#:]+)\)")
SHELL = ("sh", "console")


def blocks(page: str, *languages: str) -> list[str]:
    return [block["text"] for block in BLOCK.finditer(page) if block["language"] in languages]


def section(page: str, heading: str) -> str:
    after = page.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{heading.count('#')}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def commands() -> Iterator[str]:
    """Yield every command that a page tells its reader to type."""
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        lines = [line for block in blocks(page, *SHELL) for line in block.splitlines()]
        inline = re.findall(r"`(kdctl [^`]+)`", page)
        for line in (*lines, *inline):
            for part in re.split(r"&&|\|", line.removeprefix("$ ")):
                if part.strip().startswith("kdctl "):
                    yield part.strip()


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_the_command_line_understands_every_command_of_the_pages(command: str):
    words = shlex.split(command, comments=True)[1:]
    parsed: Any = typer.main.get_command(app)
    while hasattr(parsed, "commands") and words and not words[0].startswith("-"):
        parsed = parsed.commands[words.pop(0)]
    if hasattr(parsed, "commands"):
        assert set(words) <= {option for parameter in parsed.params for option in parameter.opts} | {"--help"}
    elif words:  # a bare verb is a name in a sentence
        parsed.make_context("kdctl", words)
    recipes = [word for word in words if word.startswith("recipes/")]
    assert [recipe for recipe in recipes if not (ROOT / recipe).is_file()] == []


@pytest.mark.parametrize("command", sorted({command for command in commands() if "--dry-run" in command}))
def test_what_the_pages_try_dry_can_be_planned(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit_:
        cli.main([*shlex.split(command)[1:], "--runs", str(tmp_path)])
    assert exit_.value.code == 0
    assert "new" in capsys.readouterr().out


def test_the_readme_lists_every_verb_in_the_words_of_its_help():
    rows = re.findall(r"^\| `kdctl ([\w-]+)` \| (.+) \|$", section(README, "## The verbs"), re.MULTILINE)
    root: Any = typer.main.get_command(app)
    helps = {name: verb.get_short_help_str(limit=1000) for name, verb in root.commands.items()}
    assert dict(rows) == helps


def test_every_file_of_the_tree_exists():
    folders: list[str] = []
    for line in blocks(section(README, "## The tree"), "")[0].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [line.split()[0].rstrip("/")]
        assert ROOT.joinpath(*folders).exists(), line


def test_the_tree_names_every_room():
    tree = section(README, "## The tree")
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
        for path in (ROOT / "README.md", ROOT / "recipes" / "README.md")
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


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    recipe = """
    student = "resnet3"
    data = { name = "digits", samples_per_class = 8 }
    schedule = { name = "cosine", epochs = 1 }
    """
    (tmp_path / "recipes" / "quickstart.toml").write_text(recipe, encoding="utf-8")
    for text in blocks(section(README, "## From Python"), "python"):
        exec(compile(text, "README.md", "exec"), {})
    assert "resnet3" in capsys.readouterr().out


def test_citation_and_package_have_one_version():
    assert f"\nversion: {kdctl.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
