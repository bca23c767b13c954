"""`kdctl eval`: the model that a run or a checkpoint would ship."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options
from kdctl.errors import Mistake, UsageError
from kdctl.evaluation_records import Evaluation, Fidelity, Latency
from kdctl.records import Selection, StoredRun
from kdctl.text import plural

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Workspace

Subject = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN|CHECKPOINT", help="Key of a run, or its first digits: kdctl runs list; or a file."
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="All finished students of a sweep instead, but for those evaluated so already."
    ),
]
Select = Annotated[Selection, typer.Option(help="Which epoch's model of the run.")]
Model = Annotated[
    str, typer.Option(help="Another model of the run, by name: an adapted 'teacher', a peer, 'ema'.")
]
PerClass = Annotated[bool, typer.Option("--per-class", help="Show the accuracy on each class.")]
Export = Annotated[Path | None, typer.Option(help="Also write the model to FILE.onnx or FILE.pt2, checked.")]
Features = Annotated[
    Path | None, typer.Option(help="Also write pooled features of model and teacher to FILE.npz.")
]
Moved = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        help="Where the images lie if they were moved: -o data.path=FOLDER.",
    ),
]


def evaluate(
    subject: Subject = None,
    sweep: Sweep = None,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    select: Select = Selection.LAST,
    model: Model = "",
    per_class: PerClass = False,
    export: Export = None,
    features: Features = None,
    override: Moved = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: options.Workers = None,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Evaluate what would be shipped (student + projector + teacher head in SimKD), and store the numbers.

    For example: kdctl eval 3f2a --per-class, or kdctl eval --sweep quickstart
    """
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.plugins import load_plugins

    load_plugins(plugin)
    places = workflows.data_places(override or [])
    execution = options.execution(device, threads, workers)
    if sweep is not None:
        given = {"a run": subject, "--export": export, "--features": features, "--per-class": per_class}
        if others := [name for name, value in given.items() if value]:
            raise UsageError(f"{others[0]} does not go with --sweep.", "kdctl eval RUN looks at one run.")
        with workflows.open_workspace(runs, data, create=False, places=places, **execution) as workspace:
            _evaluate_sweep(workspace, sweep, form, split=split, selection=select, model=model)
        return
    if subject is None:
        raise UsageError("nothing is named that could be evaluated.", "name a run, a file, or --sweep NAME.")
    # A checkpoint can be looked at without a store, a run cannot; neither should leave a new one behind.
    is_file = workflows.names_a_file(subject)
    archived = not workflows.may_be_written(runs)  # then the figures are shown, and not stored
    opened = (
        workflows.open_for_planning(runs, data, places=places, **execution)
        if is_file
        else workflows.open_workspace(
            runs, data, create=False, read_only=archived, places=places, **execution
        )
    )
    with opened as workspace:
        if export is not None:
            workflows.export_model(subject, export, workspace, selection=select, model=model)
            say(f"wrote {export}")
        if features is not None:
            workflows.save_features(subject, features, workspace, split=split, selection=select, model=model)
            say(f"wrote {features}")
        evaluation = workflows.evaluate(subject, workspace, split=split, selection=select, model=model)
    show_evaluation(evaluation, form)
    if per_class and form is options.Format.TEXT:
        _show_classes(evaluation)


def _evaluate_sweep(
    workspace: Workspace, sweep: str, form: options.Format, *, split: str, selection: Selection, model: str
) -> None:
    """Evaluate the runs of a sweep one after the other, and print a line for each.

    Raises:
        Exit: some cannot be evaluated; which, and why, was said.
    """
    from kdctl import workflows
    from kdctl.cli.console import print_json, print_mistakes, say
    from kdctl.cli.console_tables import print_table
    from kdctl.cli.formatting import percent, standing
    from kdctl.cli.titles import Titles
    from kdctl.machine_errors import noted
    from kdctl.serialization import to_tree

    to_do, num_done = workflows.runs_to_evaluate(
        sweep, workspace, split=split, selection=selection, model=model
    )
    say(standing(len(to_do) + num_done, to_do=len(to_do)))
    found: list[tuple[StoredRun, Evaluation]] = []
    mistakes: list[Mistake] = []
    for run in to_do:
        with noted(mistakes):
            evaluation = workflows.evaluate(run.key, workspace, split=split, selection=selection, model=model)
            found.append((run, evaluation))
            say(f"{run.key[:8]}  evaluated  {split} {percent(evaluation.metrics.top1, ' %')}")
    if form is options.Format.JSON:
        print_json(evaluations=[to_tree(evaluation) for _, evaluation in found])
    elif found:
        titles = Titles(run for run, _ in found)
        rows = [[run.key, titles.brief(run), *_shares(evaluation)] for run, evaluation in found]
        print_table(("run", "what", ">top-1", ">agreement", ">ECE"), rows)
    if mistakes:
        print_mistakes(mistakes)
        raise typer.Exit(1)


def _shares(evaluation: Evaluation) -> list[str]:
    from kdctl.cli.formatting import percent

    shares = (evaluation.metrics.top1, evaluation.teacher_agreement, evaluation.calibration_error)
    return [percent(share) for share in shares]


def show_evaluation(evaluation: Evaluation, form: options.Format) -> None:
    """Print the figures of a model on stdout."""
    from kdctl.cli.console import print_json
    from kdctl.cli.console_tables import print_table
    from kdctl.cli.formatting import measured, nats, percent
    from kdctl.serialization import to_tree

    if form is options.Format.JSON:
        print_json(**to_tree(evaluation), flops=evaluation.flops)
        return
    metrics = evaluation.metrics
    taught = "the teachers' mean" if evaluation.teachers else "teacher"
    rows = {
        "run": evaluation.run_key,
        "model": f"{evaluation.selection}, on {evaluation.split}",
        "top-1": percent(metrics.top1, " %"),
        "top-5": percent(metrics.top5, " %"),
        "loss (NLL)": nats(metrics.loss),
        "calibration error (ECE)": percent(evaluation.calibration_error, " %"),
        f"agreement with {taught}": percent(evaluation.teacher_agreement, " %"),
        f"KL from {taught}": measured(evaluation.teacher_kl, ".4f", "nats"),
        **{f"agreement with {_named(item)}": percent(item.agreement, " %") for item in evaluation.teachers},
        **{f"KL from {_named(item)}": measured(item.kl, ".4f", "nats") for item in evaluation.teachers},
        "parameters": f"{evaluation.parameters:,}",
        "pruned of the teacher": percent(evaluation.pruning_percent, " %"),
        "multiply-adds": measured(evaluation.multiply_adds, ",", ""),
        "FLOPs": measured(evaluation.flops, ",", ""),
        "size": measured(evaluation.size_mb, ".2f", "MB"),
        **{f"time per image, {item.batch_size} at once": _time(item) for item in evaluation.latency},
        "checkpoint SHA-256": evaluation.checkpoint_sha256[:16],
    }
    print_table(("figure", ">value"), [[name, value] for name, value in rows.items()])


def _named(fidelity: Fidelity) -> str:
    return f"teacher {fidelity.place} ({fidelity.teacher})"


def _time(latency: Latency) -> str:
    threads = f", {plural(latency.num_threads, 'thread')}" if latency.device == "cpu" else ""
    return f"{latency.ms_per_image:.3f} ms ({latency.device}{threads})"


def _show_classes(evaluation: Evaluation) -> None:
    from kdctl.cli.console_tables import print_table
    from kdctl.cli.formatting import percent

    rows = [[name, percent(top1, " %")] for name, top1 in evaluation.per_class_top1.items()]
    print_table(("class", ">top-1"), rows)
