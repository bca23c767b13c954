"""`kdctl eval`: the model that a run or a checkpoint would ship."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdctl.cli import options
from kdctl.cli.formatting import counted
from kdctl.evaluation_records import Evaluation, Fidelity, Latency
from kdctl.records import Selection

Subject = Annotated[
    str,
    typer.Argument(
        metavar="RUN|CHECKPOINT", help="Key of a run, or its first digits: kdctl runs list; or a file."
    ),
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
    subject: Subject,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    select: Annotated[Selection, typer.Option(help="Which epoch's model of the run.")] = Selection.LAST,
    model: Annotated[
        str, typer.Option(help="Another model of the run, by name: an adapted 'teacher', a peer, 'ema'.")
    ] = "",
    per_class: Annotated[bool, typer.Option("--per-class", help="Show the accuracy on each class.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Also write the model to FILE.onnx or FILE.pt2, checked.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Also write pooled features of model and teacher to FILE.npz.")
    ] = None,
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

    For example: kdctl eval 3f2a --per-class
    """
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.plugins import load_plugins

    load_plugins(plugin)
    # A checkpoint can be looked at without a store, a run cannot; neither should leave a new one behind.
    is_file = workflows.names_a_file(subject)
    places = workflows.data_places(override or [])
    execution = options.execution(device, threads, workers)
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


def show_evaluation(evaluation: Evaluation, form: options.Format) -> None:
    """Print the figures of a model on stdout."""
    from kdctl.cli.console import print_json
    from kdctl.cli.console_tables import print_table
    from kdctl.cli.formatting import measured, percent
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
        "loss (NLL)": f"{metrics.loss:.4f}",
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
    threads = f", {counted(latency.num_threads, 'thread')}" if latency.device == "cpu" else ""
    return f"{latency.ms_per_image:.3f} ms ({latency.device}{threads})"


def _show_classes(evaluation: Evaluation) -> None:
    from kdctl.cli.console_tables import print_table
    from kdctl.cli.formatting import percent

    rows = [[name, percent(top1, " %")] for name, top1 in evaluation.per_class_top1.items()]
    print_table(("class", ">top-1"), rows)
