"""`kdctl list`: what there is to choose from, and what has been run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
    output: options.OutputFormat = options.Format.TEXT,
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
                "final map": "x".join(str(size) for size in backbone.tap_shapes[backbone.final_tap]),
                "aliases": ", ".join(entry.aliases),
            }
        )
    _show(rows, output, right=("parameters",))


@listing.command("methods")
def list_methods(plugin: options.Plugins = None, output: options.OutputFormat = options.Format.TEXT) -> None:
    """List distillation methods with their options."""
    from kdctl.protocols.distiller import methods

    _load(plugin)
    _show(_plugins(methods), output)


@listing.command("projectors")
def list_projectors(
    plugin: options.Plugins = None, output: options.OutputFormat = options.Format.TEXT
) -> None:
    """List projectors with their options."""
    from kdctl.protocols.projector import projectors

    _load(plugin)
    _show(_plugins(projectors), output)


@listing.command("datasets")
def list_datasets(plugin: options.Plugins = None, output: options.OutputFormat = options.Format.TEXT) -> None:
    """List data sets with their options."""
    from kdctl.protocols.dataset import datasets

    _load(plugin)
    _show(_plugins(datasets), output)


@listing.command("runs")
def list_runs(
    runs: options.Runs = options.DEFAULT_RUNS, output: options.OutputFormat = options.Format.TEXT
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
                    "teacher": " + ".join(teacher["name"] for teacher in run.plan["teachers"]) or "—",
                    "method": run.plan["method"]["name"],
                    "seed": run.seed,
                    "state": run.state.value,
                    "epochs": f"{run.epochs}/{run.plan['schedule']['epochs']}",
                    "top-1": f"{last.test.top1:.2f}" if last else "—",
                    "updated": run.updated[:19],
                }
            )
    _show(rows, output, right=("seed", "epochs", "top-1"))


@listing.command("sweeps")
def list_sweeps(
    runs: options.Runs = options.DEFAULT_RUNS, output: options.OutputFormat = options.Format.TEXT
) -> None:
    """List the sweeps of the store, the newest first."""
    from kdctl import workflows

    rows: list[dict[str, Any]] = []
    with workflows.open_workspace(runs, create=False) as workspace:
        for sweep in workspace.store.sweeps():
            states = workspace.store.states([member.run_key for member in sweep.members])
            finished = sum(state.value == "finished" for state in states.values())
            rows.append(
                {
                    "sweep": sweep.name,
                    "finished": f"{finished}/{len(states)}",
                    "created": sweep.created[:19],
                    "description": sweep.recipe.get("description", ""),
                }
            )
    _show(rows, output, right=("finished",))


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
            "options": ", ".join(entry.config.__dataclass_fields__) or "—",
            "from": entry.origin.source if entry.origin else "kdctl",
        }
        for entry in registry.entries()
    ]


def _show(rows: list[dict[str, Any]], output: options.Format, right: Iterable[str] = ()) -> None:
    if output is options.Format.JSON:
        typer.echo(json.dumps({"schema": 1, "rows": rows}))
        return
    from kdctl.cli.console import output as stdout
    from kdctl.cli.console import plain_table

    if not rows:
        typer.echo("nothing yet", err=True)
        return
    table = plain_table(*(f">{heading}" if heading in right else heading for heading in rows[0]))
    for row in rows:
        table.add_row(*(_cell(row, heading) for heading in row))
    stdout().print(table, markup=False)


def _cell(row: Mapping[str, Any], heading: str) -> str:
    value = row[heading]
    return f"{value:,}" if isinstance(value, int) and heading == "parameters" else str(value)
