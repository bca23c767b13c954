"""`kdctl list`: what there is to choose from, and what has been run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdctl.cli import options
from kdctl.cli.browse import list_runs
from kdctl.cli.console_tables import show_rows
from kdctl.plugins import load_plugins

if TYPE_CHECKING:
    from kdctl.registry import Registry

listing = typer.Typer(
    help="List models, methods, projectors, datasets, augmentations, presets, recipes, figures, runs or "
    "sweeps.",
    no_args_is_help=True,
)
listing.command("runs")(list_runs)


@listing.command("models")
def list_models(
    num_classes: Annotated[
        int,
        options.number("--num-classes", "Width of the classifier that is counted.", least=1, most=1_000_000),
    ] = 100,
    plugin: options.Plugins = None,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """List models with their parameter counts (batch norm statistics not counted)."""
    from kdctl.assembly.assemble import count_parameters
    from kdctl.engine.device import shapes_only
    from kdctl.protocols.backbone import models

    load_plugins(plugin)
    rows: list[dict[str, Any]] = []
    for entry in models.entries():
        with shapes_only():
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
    show_rows(rows, form)


@listing.command("methods")
def list_methods(plugin: options.Plugins = None, form: options.OutputFormat = options.Format.TEXT) -> None:
    """List distillation methods; kdctl show METHOD explains one."""
    from kdctl.protocols.distiller import methods

    load_plugins(plugin)
    _show_plugins(methods, form)


@listing.command("projectors")
def list_projectors(plugin: options.Plugins = None, form: options.OutputFormat = options.Format.TEXT) -> None:
    """List projectors; kdctl show PROJECTOR explains one."""
    from kdctl.protocols.projector import projectors

    load_plugins(plugin)
    _show_plugins(projectors, form)


@listing.command("datasets")
def list_datasets(plugin: options.Plugins = None, form: options.OutputFormat = options.Format.TEXT) -> None:
    """List data sets; kdctl show DATASET explains one."""
    from kdctl.protocols.dataset import datasets

    load_plugins(plugin)
    _show_plugins(datasets, form)


@listing.command("augmentations")
def list_augmentations(
    plugin: options.Plugins = None, form: options.OutputFormat = options.Format.TEXT
) -> None:
    """List augmentations of training images; kdctl show AUGMENTATION explains one."""
    from kdctl.protocols.augmentation import augmentations

    load_plugins(plugin)
    _show_plugins(augmentations, form)


@listing.command("presets")
def list_presets(form: options.OutputFormat = options.Format.TEXT) -> None:
    """List presets of families of papers, for `--protocol` and `extends`; kdctl show PRESET explains one."""
    from kdctl.recipe.shipped import preset_names
    from kdctl.workflows.describing import preset

    show_rows([{"name": name, "what": preset(name).summary} for name in preset_names()], form)


@listing.command("recipes")
def list_recipes(form: options.OutputFormat = options.Format.TEXT) -> None:
    """List the recipes that come with kdctl: kdctl sweep NAME runs one, kdctl show NAME explains it."""
    from kdctl.workflows.describing import described_recipes

    show_rows([{"name": name, "what": what} for name, what in described_recipes()], form)


@listing.command("figures")
def list_figures(plugin: options.Plugins = None, form: options.OutputFormat = options.Format.TEXT) -> None:
    """List the figures that `kdctl plot` and `kdctl report --figures` draw, with their options."""
    from kdctl.report.figure import figures

    load_plugins(plugin)
    rows = [
        {"name": entry.name, "what": entry.summary, "options": list(entry.config.__dataclass_fields__)}
        for entry in figures.entries()
    ]
    show_rows(rows, form)


@listing.command("sweeps")
def list_sweeps(
    runs: options.Runs = options.DEFAULT_RUNS, form: options.OutputFormat = options.Format.TEXT
) -> None:
    """List the sweeps of the store, the newest first."""
    from kdctl import workflows
    from kdctl.records import RunState

    rows: list[dict[str, Any]] = []
    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
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
    show_rows(rows, form)


def _show_plugins(registry: Registry[Any], form: options.Format) -> None:
    """Print a line for each plug-in; programs are told its options, too."""
    from kdctl.workflows.describing import paper_of

    entries = registry.entries()
    brief = form is options.Format.TEXT
    foreign = any(entry.origin for entry in entries)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        origin = {"from": entry.origin.source if entry.origin else "kdctl"} if foreign or not brief else {}
        more: dict[str, Any] = {
            "label": entry.label,
            "paper": paper_of(entry.item.__doc__ or ""),
            "options": list(entry.config.__dataclass_fields__),
        }
        rows.append({"name": entry.name, "what": entry.summary, **({} if brief else more), **origin})
    show_rows(rows, form)
