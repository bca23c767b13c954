"""`kdctl bench`: how fast a recipe trains on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import executor_options, options, recipe_options
from kdctl.text import plural

if TYPE_CHECKING:
    from kdctl.workflows.benchmarking import BenchResult


def bench(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE", help="A TOML file, whose first run is measured; optional."),
    ] = None,
    student: recipe_options.Student = None,
    teacher: recipe_options.Teachers = None,
    method: recipe_options.Method = None,
    dataset: recipe_options.Dataset = None,
    protocol: recipe_options.Protocol = None,
    gang: Annotated[
        int,
        options.number(
            "--gang",
            "Runs of the gang that is held against a run alone.",
            least=1,
            most=executor_options.LARGEST_GANG,
        ),
    ] = 8,
    steps: Annotated[
        int, options.number("--steps", "Training steps in a round.", least=1, most=1_000_000)
    ] = 10,
    rounds: Annotated[
        int,
        options.number(
            "--rounds", "How often both are measured, in turns; the median counts.", least=1, most=1_000_000
        ),
    ] = 5,
    override: options.Overrides = None,
    plugin: options.Plugins = None,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: options.Workers = None,
    graphs: options.Graphs = "auto",
    teacher_cache: options.TeacherCache = "off",
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Measure how fast a run trains here, alone and in a gang that shares the teacher.

    For example: kdctl bench --teacher wrn_40_2 --student resnet8x4 --gang 8

    Nothing is trained to an end or stored.
    """
    from kdctl import workflows

    values = recipe_options.layer(student, teacher, method=method, data=dataset)
    opened = recipe_options.open_recipe(recipe, protocol, values, override or [], plugin or [])
    execution = options.execution(device, threads, workers, graphs, teacher_cache)
    with workflows.open_for_planning("runs", data, **execution) as workspace:
        result = workflows.benchmark(opened, workspace, gang_size=gang, num_steps=steps, num_rounds=rounds)
    _show(result, form)


def _show(result: BenchResult, form: options.Format) -> None:
    from kdctl.cli.console import output, print_json
    from kdctl.cli.console_tables import print_table
    from kdctl.serialization import to_tree

    if form is options.Format.JSON:
        print_json(bench=to_tree(result))
        return
    facts = (
        f"{result.device}, {plural(result.num_threads, 'thread')}, torch {result.torch}, {result.precision}"
    )
    output().print(f"{result.run} · batch {result.batch_size}\n{facts}\n", markup=False)
    rows = {
        "step, ms (median)": [f"{pace.step_ms:.2f}" for pace in result.paces],
        "fastest to slowest round": ["{:.2f} to {:.2f}".format(*pace.step_ms_range) for pace in result.paces],
        "step per run, ms": [f"{pace.member_ms:.2f}" for pace in result.paces],
        "images per second": [f"{pace.images_per_second:,.0f}" for pace in result.paces],
        "GFLOP per step": [f"{pace.step_gflop:,.1f}" for pace in result.paces],
        "GFLOP per second": [f"{pace.gflop_per_second:,.1f}" for pace in result.paces],
        "of the measured peak": [f"{100 * pace.share_of_peak:.1f} %" for pace in result.paces],
        "launches per step": [f"{pace.launches:,}" for pace in result.paces],
        "teacher outputs": [pace.teacher_outputs for pace in result.paces],
        "batches a teacher sees at once": [str(pace.teacher_lookahead) for pace in result.paces],
        "waiting for images": [f"{100 * pace.waiting_share:.1f} %" for pace in result.paces],
        "peak memory, MiB": [f"{pace.memory_mib:,.0f}" for pace in result.paces],
    }
    gangs = ["alone" if pace.members == 1 else f"gang of {pace.members}" for pace in result.paces]
    print_table(("figure", *(f">{name}" for name in gangs)), [[name, *cells] for name, cells in rows.items()])
    alone, together = result.paces[0], result.paces[-1]
    if together.members > alone.members:
        gain = alone.member_ms / together.member_ms
        output().print(f"\nIn a gang of {together.members}, a run costs {1 / gain:.2f} of its time alone.")
