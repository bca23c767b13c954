"""`kdctl train`: one student, with the teachers it needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options, recipe_options
from kdctl.cli.short_names import takes_short_names
from kdctl.errors import Mistake, UsageError
from kdctl.recipe.bounds import LARGEST_SEED
from kdctl.records import RunState

if TYPE_CHECKING:
    from rich.console import Console

    from kdctl.assembly.workspace import Workspace
    from kdctl.cli.events import Events
    from kdctl.cli.live import Display
    from kdctl.cli.signals import StopSignals
    from kdctl.execution.executor import InProcessConfig
    from kdctl.records import StoredRun
    from kdctl.workflows.training import TrainPlan

RecipeFile = Annotated[
    Path | None,
    typer.Argument(metavar="RECIPE", help="A TOML file of one configuration, without a grid; optional."),
]
Seeds = Annotated[
    list[int] | None,
    options.number("--seed", "Seed of a run; may repeat.", least=0, most=LARGEST_SEED, panel=options.RECIPE),
]
Devices = Annotated[
    int,
    options.number(
        "--devices", "Train each run on so many devices, each with a part of every batch.", least=1, most=1024
    ),
]


@takes_short_names
def train(
    recipe: RecipeFile = None,
    student: recipe_options.Student = None,
    teacher: recipe_options.Teachers = None,
    method: recipe_options.Method = None,
    dataset: recipe_options.Dataset = None,
    protocol: recipe_options.Protocol = None,
    seed: Seeds = None,
    override: options.Overrides = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    devices: Devices = 1,
    threads: options.Threads = None,
    workers: options.Workers = None,
    graphs: options.Graphs = "auto",
    teacher_cache: options.TeacherCache = "auto",
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.JsonEvents = False,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Train a student, and first the teachers it needs.

    For example: kdctl train --teacher resnet32x4 --student mobilenetv2

    The same command again goes on where it stopped; a finished run is not trained twice.
    """
    from kdctl import workflows
    from kdctl.cli.events import Events, listener
    from kdctl.cli.signals import StopSignals
    from kdctl.engine.device import choose_device
    from kdctl.engine.parted_steps import require_devices

    devices = maybe_follow(devices, device)
    execution = options.execution(device, threads, workers, graphs, teacher_cache)
    progress = listener(json=json, quiet=quiet, form=form, dry_run=dry_run)
    if not dry_run:
        choose_device(device)  # before the plan: a GPU that is not there is told first
    parts = {"engine": {"batch_parts": devices}} if devices > 1 else None
    values = recipe_options.layer(student, teacher, method=method, data=dataset, seeds=seed or None)
    given = (protocol, values, override or [], plugin or [])
    opened = recipe_options.open_recipe(recipe, *given, unless_said=parts)
    with workflows.open_for_planning(runs, data, may_fetch=not dry_run, **execution) as workspace:
        plan = workflows.plan_training(opened, workspace)
        _refuse_idle_teachers(plan, teacher or [])
        for run in plan.to_do:
            require_devices(run.engine, devices)
        if dry_run:
            _show_dry_run(plan, workspace, form)
            return
        _announce(plan, workspace, progress, json=json, quiet=quiet)
        progress.expect((*plan.teachers, *plan.runs), plan.states)
    with (
        executor_on(devices, device) as trained_by,
        workflows.open_workspace(runs, workspace.library, **execution) as workspace,
        StopSignals() as stop,
        progress,
    ):
        trained = workflows.train(plan, workspace, progress=progress, stop=stop, executor=trained_by)
        weak = () if isinstance(progress, Events) else workflows.weak_teachers(trained, workspace)
    _conclude(trained, weak, progress, stop, form)


def _announce(
    plan: TrainPlan, workspace: Workspace, progress: Events | Display, *, json: bool, quiet: bool
) -> None:
    """Say what will be trained and how long it will take, and raise if something for it is not there."""
    from kdctl import workflows
    from kdctl.cli.console import messages, say, say_notes
    from kdctl.cli.dry_run import announce_time, show_slowness
    from kdctl.cli.formatting import standing

    in_words = not quiet and not json
    if in_words:
        _show_text(plan, to=messages())
        say(standing(len(plan.teachers) + len(plan.runs), to_do=len(plan.to_do)))
    elif not quiet:
        say_notes(plan.notes, warnings_only=True)
    workflows.require_ready(plan.to_do, workspace)
    if in_words and plan.to_do:
        announce_time(workflows.estimate_training(plan, workspace), progress)
        show_slowness(plan.to_do, workspace)


def _conclude(
    trained: Sequence[StoredRun],
    weak_teachers: Sequence[str],
    progress: Events | Display,
    stop: StopSignals,
    form: options.Format,
) -> None:
    """Show what the runs came to, and end with the exit code for it."""
    from kdctl.cli.console import say
    from kdctl.cli.events import Events
    from kdctl.cli.run_tables import show_results

    complete = all(run.result for run in trained)
    if isinstance(progress, Events):
        progress.finished(trained, complete=complete)
    else:
        show_results(trained, form)
        for line in weak_teachers:
            say(f"warning: {line}")
    if not complete:
        stop.exit_if_heard()
    _exit_if_diverged(trained)


def _refuse_idle_teachers(plan: TrainPlan, teachers: Sequence[str]) -> None:
    """Raise if teachers were asked for and the method has no use for them."""
    method = plan.runs[0].method.name
    if teachers and not any(run.teachers for run in plan.runs):
        raise UsageError(
            f"method '{method}' takes no teacher, but --teacher {teachers[0]} was given.",
            "leave --teacher out, or choose another --method: kdctl list methods",
        )


def _show_dry_run(plan: TrainPlan, workspace: Workspace, form: options.Format) -> None:
    """Show what would be trained and how long it would take."""
    from kdctl import workflows
    from kdctl.cli.console import output, print_json
    from kdctl.cli.dry_run import estimated, show_slowness, warn_of_obstacles
    from kdctl.cli.run_tables import planned_trees
    from kdctl.serialization import to_tree

    workflows.require_teacher_batches(plan.to_do, workspace)
    estimate = workflows.estimate_training(plan, workspace)
    if form is options.Format.JSON:
        runs = planned_trees(plan.teachers, plan.runs, plan.states)
        seconds = estimate.seconds if estimate else None
        print_json(runs=runs, structure=to_tree(plan.structure), estimated_seconds=seconds, notes=plan.notes)
    else:
        _show_text(plan, to=output())
        output().print(estimated(estimate), markup=False)
        if plan.to_do:
            show_slowness(plan.to_do, workspace)
    warn_of_obstacles(plan.to_do, workspace)


def _show_text(plan: TrainPlan, *, to: Console) -> None:
    from kdctl.cli.formatting import evaluation_only
    from kdctl.cli.run_tables import show_plans, show_structure

    show_plans(plan.teachers, plan.runs, plan.states, to=to)
    show_structure(plan.structure, to=to)
    for line in (*evaluation_only(plan.runs), *plan.notes):
        to.print(line, markup=False)


def _exit_if_diverged(runs: Sequence[StoredRun]) -> None:
    from kdctl.cli.console import print_mistakes
    from kdctl.cli.formatting import against_divergence

    mistakes = [
        Mistake(problem=f"run {run.key} diverged: {run.reason}.", hint=against_divergence(run))
        for run in runs
        if run.state is RunState.DIVERGED
    ]
    if mistakes:
        print_mistakes(mistakes)
        raise typer.Exit(1)


def maybe_follow(num_devices: int, device: str) -> int:
    """Return on how many devices to train: as torchrun says, if it started us.

    Does not come back where torchrun started this process to follow another.
    """
    from kdctl.engine.ranks import WORLD_SIZE, is_follower, ranks_told

    if is_follower(os.environ):
        from kdctl.execution.distributed import follow

        raise typer.Exit(follow(device))
    return ranks_told(os.environ).count if WORLD_SIZE in os.environ else num_devices


@contextlib.contextmanager
def executor_on(num_devices: int, device: str) -> Generator[InProcessConfig | None]:
    """Return what trains on so many devices; None for one."""
    if num_devices == 1:
        yield None
        return
    from kdctl.execution.distributed import processes
    from kdctl.execution.executor import InProcessConfig

    with processes(num_devices, device) as ranks:
        yield InProcessConfig(ranks=ranks)
