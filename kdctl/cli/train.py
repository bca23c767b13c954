"""`kdctl train`: one student, with the teachers it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdctl.cli import options
from kdctl.errors import UsageError

if TYPE_CHECKING:
    from kdctl.recipe.recipe import Recipe
    from kdctl.records import StoredRun
    from kdctl.workflows.training import TrainPlan

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
    protocol: Annotated[str, typer.Option(help="Preset to start from when there is no recipe.")] = "simkd",
    seed: Annotated[list[int] | None, typer.Option(help="Seed of a run; may repeat.")] = None,
    override: options.Overrides = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    output: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Train a student, and first the teachers it needs.

    For example: kdctl train --teacher resnet32x4 --student mobilenetv2

    The same command again goes on where it stopped; a finished run is not trained twice.
    """
    from kdctl import workflows
    from kdctl.cli.live import display
    from kdctl.cli.signals import StopSignals

    words: dict[str, Any] = {"student": student, "method": method, "data": dataset, "seeds": seed or None}
    words["teacher"] = [teacher_table(word) for word in teacher] if teacher else None
    opened = _recipe(recipe, protocol, words, override or [], plugin or [])
    with workflows.open_workspace(runs, data, device=device, num_threads=threads) as workspace:
        plan = workflows.plan_training(opened, workspace)
        if not quiet:
            _show_plan(plan)
        if dry_run:
            return
        with StopSignals() as stop, display(quiet=quiet) as progress:
            trained = workflows.train(opened, workspace, progress=progress, stop=stop)
    _show_results(trained, output)
    if stop.exit_code:
        from kdctl.cli.console import messages

        messages().print("saved; the same command goes on from here")
        raise typer.Exit(stop.exit_code)
    if any(run.result is None for run in trained):
        raise typer.Exit(1)


def teacher_table(word: str) -> dict[str, str]:
    """Say what a `--teacher` word is: a file, an architecture, or a run key."""
    from kdctl.protocols.backbone import models
    from kdctl.registry import folded

    if Path(word).is_file() or Path(word).suffix in (".pt", ".pth"):
        return {"checkpoint": word}
    known = {folded(name) for entry in models.entries() for name in (entry.name, entry.label, *entry.aliases)}
    is_key = len(word) >= 4 and set(word) <= KEY_DIGITS
    return {"run": word} if is_key and folded(word) not in known else {"name": word}


def _recipe(
    path: Path | None, protocol: str, words: dict[str, Any], overrides: Sequence[str], plugins: Sequence[Path]
) -> Recipe:
    from kdctl.recipe.layers import Layer
    from kdctl.recipe.load import preset_layers, read_layers
    from kdctl.workflows.recipes import recipe_from_layers

    values = {key: value for key, value in words.items() if value is not None}
    if path is None:
        if "student" not in values:
            raise UsageError("no student is named.", "kdctl train --student resnet8x4 [--teacher resnet32x4]")
        if "teacher" not in values and "method" not in values:
            values["method"] = "ce"
    if isinstance(values.get("teacher"), list) and len(values["teacher"]) == 1:
        values["teacher"] = values["teacher"][
            0
        ]  # a table, so that -o teacher.schedule.epochs=2 can add to it
    base = read_layers(path) if path else preset_layers(protocol)
    layers = [*base, Layer(source="command line", values=values)] if values else base
    return recipe_from_layers(layers, overrides, plugins)


def _show_plan(plan: TrainPlan) -> None:
    from kdctl.cli.console import messages, plain_table
    from kdctl.cli.live import describe

    table = plain_table("run", "what", ">epochs", ">batch", "precision", "state")
    for run in (*plan.teachers, *plan.runs):
        state = plan.states[run.key].value if run.key in plan.states else "new"
        note = "teacher, trained first" if run in plan.teachers and state != "finished" else state
        batch = run.data.options.batch_size
        table.add_row(run.key[:8], describe(run), str(run.epochs), str(batch), run.engine.precision, note)
    messages().print(table)


def _show_results(runs: Sequence[StoredRun], output: options.Format) -> None:
    from kdctl.cli.console import output as stdout
    from kdctl.cli.console import plain_table
    from kdctl.records import Selection, to_tree

    if output is options.Format.JSON:
        typer.echo(json.dumps({"schema": 1, "runs": [to_tree(run) for run in runs]}))
        return
    table = plain_table("run", "state", ">top-1", ">best test", ">teacher", ">parameters", ">pruned")
    for run in runs:
        result = run.result
        if result is None or Selection.LAST.value not in result.selected:
            table.add_row(run.key, run.state.value, "—", "—", "—", "—", run.reason or "—")
            continue
        last, best = (result.selected[rule.value].test.top1 for rule in (Selection.LAST, Selection.BEST_TEST))
        teacher, pruned = result.teacher_test_top1, result.facts.pruning_percent
        table.add_row(
            run.key,
            run.state.value,
            f"{last:.2f}",
            f"{best:.2f}",
            "—" if teacher is None else f"{teacher:.2f}",
            f"{result.facts.shipped_parameters:,}",
            "—" if pruned is None else f"{pruned:.2f} %",
        )
    stdout().print(table)
