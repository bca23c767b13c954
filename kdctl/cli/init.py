"""`kdctl init`: a first recipe, from flags or a few questions."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options, recipe_options
from kdctl.errors import UsageError

if TYPE_CHECKING:
    from kdctl.recipe.recipe import Recipe
    from kdctl.workflows.drafting import Draft


Teacher = Annotated[
    str | None,
    typer.Option(rich_help_panel=options.RECIPE, help="Architecture, key of a run, or checkpoint file."),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", rich_help_panel=options.RECIPE, help="Compared with ce; may repeat. kd if none."
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=options.RECIPE,
        help="Folder of your own images: here, or below --data; of train/<class>/ and test/<class>/ if no "
        "--dataset says otherwise.",
    ),
]
Seeds = Annotated[
    int,
    options.number(
        "--seeds", "How many seeds each configuration gets.", least=1, most=1000, panel=options.RECIPE
    ),
]
Epochs = Annotated[
    int | None,
    options.number(
        "--epochs", "Length, with a cosine schedule.", least=1, most=1_000_000, panel=options.RECIPE
    ),
]
LearningRates = Annotated[
    list[str] | None,
    typer.Option("--lr", metavar="VALUE", rich_help_panel=options.RECIPE, help="Learning rate; may repeat."),
]


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where the recipe is written.")] = Path(
        "recipe.toml"
    ),
    student: recipe_options.Student = None,
    teacher: Teacher = None,
    method: Methods = None,
    dataset: recipe_options.Dataset = None,
    images: Images = None,
    protocol: recipe_options.Protocol = None,
    seeds: Seeds = 3,
    epochs: Epochs = None,
    lr: LearningRates = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
) -> None:
    """Write a commented recipe, and show what it would run.

    For example: kdctl init mine.toml --student resnet8x4 --teacher resnet32x4 --method kd --method simkd

    Without --student it asks, if there is a terminal.
    """
    from kdctl.cli.console import say
    from kdctl.cli.results import write_whole
    from kdctl.workflows.drafting import DEFAULT_PROTOCOL, Draft, checked_draft, draft_recipe

    if path.is_dir():
        raise UsageError(f"{path} is a folder.", f"name a file in it: {path / 'mine.toml'}")
    if path.suffix != ".toml":
        raise UsageError(f"{path} is no name for a recipe.", f"let it end with .toml: {path}.toml")
    if path.exists() and not force:
        raise UsageError(
            f"there is a file {path} already.", "name another one, or say --force to replace it."
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}.", f"mkdir -p {shlex.quote(str(path.parent))}")
    given = Draft(
        name=path.stem,
        student=student or "",
        teacher=teacher,
        methods=tuple(method or ()),
        dataset=dataset or ("imagefolder" if images else "cifar100"),
        data_path=_found(images) if images else None,
        protocol=protocol or DEFAULT_PROTOCOL,
        num_seeds=seeds,
        epochs=epochs,
        learning_rates=_numbers(lr or []),
        runs=options.elsewhere(runs),
        folders=options.elsewhere(runs, data),
    )
    draft = given if student else _asked(given)
    text = draft_recipe(draft, recipe_options.teacher_table(draft.teacher) if draft.teacher else None, path)
    recipe = checked_draft(text, path)
    _show_plan(recipe, runs, data)
    write_whole(path, text + "\n")
    say(f"{path} is written; start it: kdctl sweep {shlex.quote(str(path))}{draft.folders}")


def _found(images: Path) -> Path:
    """Return the path of a folder that is here; of one that is not, what was said: it may be below --data."""
    return images.resolve() if images.is_dir() else images


def _numbers(words: Sequence[str]) -> tuple[float, ...]:
    """Return the numbers of `--lr`, given one by one or with commas between.

    Raises:
        UsageError: one is no number.
    """
    try:
        return tuple(float(word) for text in words for word in text.split(","))
    except ValueError:
        raise UsageError(
            f"--lr {' '.join(words)} is no number.", "write --lr 0.05, or several: --lr 0.05,0.1"
        ) from None


def _asked(draft: Draft) -> Draft:
    """Ask for what decides most.

    Raises:
        UsageError: there is nobody to ask.
    """
    import dataclasses

    from kdctl.workflows.drafting import needs_folder

    if not sys.stdin.isatty():
        raise UsageError(
            "no student is named.", "kdctl init mine.toml --student resnet8x4 --teacher resnet32x4"
        )
    student = typer.prompt("Student (kdctl list models)", default="resnet8x4")
    teacher = typer.prompt(
        "Teacher (a model, a run key or a file; empty for none)", default="", show_default=False
    )
    methods = ""
    if teacher:
        methods = typer.prompt("Methods to compare with ce (kdctl list methods)", default="kd, simkd")
    dataset = typer.prompt("Data set (kdctl list datasets)", default=draft.dataset)
    folder = draft.data_path
    if folder is None and needs_folder(dataset):
        folder = _found(Path(typer.prompt("Folder of its images")))
    return dataclasses.replace(
        draft,
        student=student,
        teacher=teacher or None,
        methods=tuple(word.strip() for word in methods.split(",") if word.strip()),
        dataset=dataset,
        data_path=folder,
        num_seeds=typer.prompt("Seeds for each configuration", default=draft.num_seeds, type=int),
    )


def _show_plan(recipe: Recipe, runs: Path, data: Path) -> None:
    """Do a dry run of a recipe, which finds what is wrong with it."""
    from kdctl import workflows
    from kdctl.cli.dry_run import show_slowness, show_sweep_plan
    from kdctl.recipe.gangs import DEFAULT_GANG_SIZE

    with workflows.open_for_planning(runs, data, may_fetch=False) as workspace:
        plan = workflows.plan_sweep(recipe, workspace)
        estimate = workflows.estimate_sweep(plan, workspace)
        disk = workflows.estimate_disk(plan, workspace, gang_size=DEFAULT_GANG_SIZE, slots=1)
        show_sweep_plan(plan, estimate, disk, options.Format.TEXT, num_gangs=0)
        show_slowness(plan.ahead, workspace)
