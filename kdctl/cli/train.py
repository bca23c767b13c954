"""`kdctl train`: one student, with the teachers it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdctl.cli import options
from kdctl.errors import UsageError

if TYPE_CHECKING:
    from kdctl.recipe.recipe import Recipe
    from kdctl.workflows.training import TrainPlan

DEFAULT_PROTOCOL = "simkd"
FEWEST_KEY_DIGITS = 4
KEY_DIGITS = frozenset("0123456789abcdef")


def train(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe without [grid]; optional.")] = None,
    student: Annotated[str | None, typer.Option(help="Architecture of the student.")] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="Architecture, run key or checkpoint file; may repeat. None: the student alone."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Distillation method; simkd if not given.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set; cifar100 if not given.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Preset to start from without a recipe; simkd if not given.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of a run; may repeat.")] = None,
    override: options.Overrides = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Train a student, and first the teachers it needs.

    For example: kdctl train --teacher resnet32x4 --student mobilenetv2

    The same command again goes on where it stopped; a finished run is not trained twice.
    """
    from kdctl import workflows
    from kdctl.cli.console import messages
    from kdctl.cli.live import display
    from kdctl.cli.runs import show_plans, show_results
    from kdctl.cli.signals import StopSignals

    words = {"student": student, "method": method, "data": dataset, "seeds": seed or None}
    opened = _open_recipe(recipe, protocol, _layer(words, teacher or []), override or [], plugin or [])
    with workflows.open_for_planning(runs, data, device=device, may_fetch=not dry_run) as workspace:
        plan = workflows.plan_training(opened, workspace)
        _refuse_idle_teachers(plan, teacher or [])
        if dry_run:
            _show_plan(plan, form)
            return
        if not quiet:
            show_plans(plan.teachers, plan.runs, plan.states, to=messages())
        workflows.require_ready(plan.to_do, workspace)
    with (
        workflows.open_workspace(runs, workspace.library, device=device, num_threads=threads) as workspace,
        StopSignals() as stop,
        display(quiet=quiet) as progress,
    ):
        trained = workflows.train(opened, workspace, progress=progress, stop=stop)
    show_results(trained, form)
    if not all(run.result for run in trained):
        stop.exit_if_heard()
    _exit_if_diverged(trained)


def teacher_table(word: str) -> dict[str, str]:
    """Say what a `--teacher` word is: an architecture, a file, or a run key."""
    from kdctl.protocols.backbone import models

    if models.find(word) is not None:
        return {"name": word}
    if Path(word).is_file() or Path(word).suffix in (".pt", ".pth"):
        return {"checkpoint": word}
    is_key = len(word) >= FEWEST_KEY_DIGITS and set(word.lower()) <= KEY_DIGITS
    return {"run": word} if is_key else {"name": word}


def _layer(words: dict[str, Any], teachers: Sequence[str]) -> dict[str, Any]:
    """Return the command line as a recipe would write it."""
    tables = [teacher_table(word) for word in teachers]
    if tables:  # one teacher as a table, so that -o teacher.schedule.epochs=2 can add to it
        words = {**words, "teacher": tables[0] if len(tables) == 1 else tables}
    return {key: value for key, value in words.items() if value is not None}


def _open_recipe(
    path: Path | None,
    protocol: str | None,
    values: dict[str, Any],
    overrides: Sequence[str],
    plugins: Sequence[Path],
) -> Recipe:
    from kdctl.recipe.layers import Layer
    from kdctl.recipe.load import preset_layers, read_layers
    from kdctl.workflows.recipes import recipe_from_layers

    if path is not None and protocol is not None:
        raise UsageError(
            f"--protocol {protocol} does not go with the recipe {path}.",
            f"leave it out, or write extends = '{protocol}' in the recipe.",
        )
    if path is None and "student" not in values:
        raise UsageError("no student is named.", "kdctl train --student resnet8x4 [--teacher resnet32x4]")
    if path is None and "teacher" not in values:
        values = {"method": "ce", **values}
    base = read_layers(path) if path else preset_layers(protocol or DEFAULT_PROTOCOL)
    layers = [*base, Layer(source="command line", values=values)] if values else base
    return recipe_from_layers(layers, overrides, plugins)


def _refuse_idle_teachers(plan: TrainPlan, teachers: Sequence[str]) -> None:
    """Raise if teachers were asked for and the method has no use for them."""
    method = plan.runs[0].method.name
    if teachers and not any(run.teachers for run in plan.runs):
        raise UsageError(
            f"method '{method}' takes no teacher, but --teacher {teachers[0]} was given.",
            "leave --teacher out, or choose another --method: kdctl list methods",
        )


def _show_plan(plan: TrainPlan, form: options.Format) -> None:
    from kdctl.cli.console import print_json
    from kdctl.cli.runs import planned_trees, show_plans

    if form is options.Format.JSON:
        print_json(runs=planned_trees(plan.teachers, plan.runs, plan.states))
    else:
        show_plans(plan.teachers, plan.runs, plan.states)


def _exit_if_diverged(runs: Sequence[Any]) -> None:
    from kdctl.cli.console import print_mistakes
    from kdctl.errors import Mistake
    from kdctl.records import RunState

    hint = "lower optimizer.learning_rate, or warm up with schedule.warmup_epochs."
    mistakes = [
        Mistake(problem=f"run {run.key} diverged: {run.reason}.", hint=hint)
        for run in runs
        if run.state is RunState.DIVERGED
    ]
    if mistakes:
        print_mistakes(mistakes)
        raise typer.Exit(1)
