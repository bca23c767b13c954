"""`kdctl list`: what there is to choose from, and what has been run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from kdctl.cli import options

if TYPE_CHECKING:
    from kdctl.registry import Registry

listing = typer.Typer(
    help="List models, methods, projectors, datasets, runs or sweeps.", no_args_is_help=True
)


@listing.command("models")
def list_models(
    num_classes: int = typer.Option(100, help="Width of the classifier that is counted."),
    plugin: options.Plugins = None,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """List models with their parameter counts (batch norm statistics not counted)."""
    import torch

    from kdctl.protocols.backbone import models
    from kdctl.workflows.assemble import count_parameters

    _load(plugin)
    rows: list[dict[str, Any]] = []
    for entry in models.entries():
        with torch.device("meta"):
            backbone = entry.item(num_classes, 32)
        rows.append(
            {
                "name": entry.name,
                "paper": entry.label,
                "parameters": count_parameters(backbone),
                "final_map": "x".join(str(size) for size in backbone.tap_shapes[backbone.final_tap]),
                "aliases": list(entry.aliases),
            }
        )
    _show(rows, form)


@listing.command("methods")
def list_methods(plugin: options.Plugins = None, form: options.OutputFormat = options.Format.TEXT) -> None:
    """List distillation methods with their options."""
    from kdctl.protocols.distiller import methods

    _load(plugin)
    _show(_plugins(methods), form)


@listing.command("projectors")
def list_projectors(plugin: options.Plugins = None, form: options.OutputFormat = options.Format.TEXT) -> None:
    """List projectors with their options."""
    from kdctl.protocols.projector import projectors

    _load(plugin)
    _show(_plugins(projectors), form)


@listing.command("datasets")
def list_datasets(plugin: options.Plugins = None, form: options.OutputFormat = options.Format.TEXT) -> None:
    """List data sets with their options."""
    from kdctl.protocols.dataset import datasets

    _load(plugin)
    _show(_plugins(datasets), form)


@listing.command("runs")
def list_runs(
    runs: options.Runs = options.DEFAULT_RUNS, form: options.OutputFormat = options.Format.TEXT
) -> None:
    """List the runs of the store."""
    from kdctl import workflows
    from kdctl.records import Selection

    rows: list[dict[str, Any]] = []
    with workflows.open_workspace(runs, create=False) as workspace:
        for run in workspace.store.runs():
            last = run.result.selected.get(Selection.LAST.value) if run.result else None
            rows.append(
                {
                    "run": run.key,
                    "student": run.plan["student"]["name"],
                    "teacher": " + ".join(teacher["name"] for teacher in run.plan["teachers"]) or None,
                    "method": run.plan["method"]["name"],
                    "seed": run.seed,
                    "state": run.state.value,
                    "epochs": run.epochs,
                    "of": run.plan["schedule"]["epochs"],
                    "top1": last.test.top1 if last else None,
                    "updated": run.updated[:19],
                }
            )
    _show(rows, form)


@listing.command("sweeps")
def list_sweeps(
    runs: options.Runs = options.DEFAULT_RUNS, form: options.OutputFormat = options.Format.TEXT
) -> None:
    """List the sweeps of the store, the newest first."""
    from kdctl import workflows
    from kdctl.records import RunState

    rows: list[dict[str, Any]] = []
    with workflows.open_workspace(runs, create=False) as workspace:
        for sweep in workspace.store.sweeps():
            states = workspace.store.states([member.run_key for member in sweep.members])
            rows.append(
                {
                    "sweep": sweep.name,
                    "finished": sum(state is RunState.FINISHED for state in states.values()),
                    "of": len(states),
                    "created": sweep.created[:19],
                    "description": sweep.recipe.get("description", ""),
                }
            )
    _show(rows, form)


def _load(plugins: options.Plugins) -> None:
    from kdctl.plugins import load_installed_plugins, load_plugin_file

    load_installed_plugins()
    for path in plugins or []:
        load_plugin_file(path)


def _plugins(registry: Registry[Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": entry.name,
            "what": entry.summary,
            "options": list(entry.config.__dataclass_fields__),
            "from": entry.origin.source if entry.origin else "kdctl",
        }
        for entry in registry.entries()
    ]


def _show(rows: list[dict[str, Any]], form: options.Format) -> None:
    from kdctl.cli.console import print_json, print_table, say

    if form is options.Format.JSON:
        print_json(rows=rows)
    elif not rows:
        say("nothing yet")
    else:
        headings = [_heading(name, [row[name] for row in rows]) for name in rows[0]]
        print_table(headings, [[_cell(value) for value in row.values()] for row in rows])


def _heading(name: str, values: Sequence[Any]) -> str:
    """Return the heading of a column; those of numbers are aligned right."""
    is_number = all(isinstance(value, int | float | None) for value in values)
    return (">" if is_number else "") + name.replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "—"
    if value is None:
        return "—"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
