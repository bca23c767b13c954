"""Evaluate the model that a run or a checkpoint file would ship."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from kdctl.assembly.assemble import count_parameters
from kdctl.assembly.workspace import Workspace
from kdctl.engine.cost import count_multiply_adds, measure_latencies, size_mb
from kdctl.engine.evaluate import (
    agreement,
    calibration_error,
    confusion,
    divergence,
    per_class_top1,
    predict,
    split_metrics,
)
from kdctl.engine.streamed_batches import EvaluationImages
from kdctl.errors import KdctlError
from kdctl.evaluation_records import Evaluation, Fidelity
from kdctl.machine_errors import MachineError
from kdctl.recipe.engine_options import EngineOptions
from kdctl.records import SHIPPED, RunState, Selection, StoredRun, checkpoint_name, pruning_percent
from kdctl.report.shown_runs import by_role
from kdctl.workflows.loaded_model import LoadedModel, load_as_trained

_log = logging.getLogger(__name__)


def evaluate(
    source: str | Path,
    workspace: Workspace,
    *,
    split: str = "test",
    selection: Selection | str = Selection.LAST,
    model: str = SHIPPED,
) -> Evaluation:
    """Evaluate a run (key or prefix) or a checkpoint file, and store the result of a known run.

    Args:
        source: run key, unique prefix of one, or path of a checkpoint that kdctl wrote.
        workspace: where runs and data lie.
        split: 'test' or 'val'.
        selection: which epoch's model of a run.
        model: another model of the run, by name, in place of the one it ships.

    Raises:
        KdctlError: no such run or file, a damaged or foreign checkpoint, missing data, no such split.
    """
    loaded = load_as_trained(source, workspace, selection, part=model)
    evaluation = evaluate_model(loaded, split)
    if loaded.rule is not None:
        _keep(evaluation, workspace)
    return evaluation


def runs_to_evaluate(
    sweep: str,
    workspace: Workspace,
    *,
    split: str = "test",
    selection: Selection | str = Selection.LAST,
    model: str = SHIPPED,
) -> tuple[list[StoredRun], int]:
    """Return the finished students of a sweep whose figures are not stored yet, and of how many they are.

    Args:
        sweep: its name.
        workspace: where the runs lie.
        split: as for `evaluate`.
        selection: as for `evaluate`.
        model: as for `evaluate`.

    Raises:
        KdctlError: there is no such sweep, or none of its runs has finished.
    """
    students, _ = by_role(workspace.store.runs(sweep=sweep), [workspace.store.sweep(sweep)])
    finished = [run for run in students if run.state is RunState.FINISHED]
    if not finished:
        raise KdctlError(
            f"no run of the sweep '{sweep}' has finished.", "finish the sweep first: kdctl sweep RECIPE"
        )
    known = workspace.store.evaluations_by_run(run.key for run in finished)
    wanted = (checkpoint_name(Selection(selection), model).removesuffix(".pt"), split)
    open_ones = [
        run
        for run in finished
        if wanted not in {(item.selection, item.split) for item in known.get(run.key, ())}
    ]
    return open_ones, len(finished) - len(open_ones)


def _keep(evaluation: Evaluation, workspace: Workspace) -> None:
    """Store an evaluation with its run; what cannot be kept in an archive can be told all the same."""
    try:
        workspace.folder(evaluation.run_key).append_evaluation(evaluation)
        workspace.store.record_evaluation(evaluation)
    except MachineError as error:
        if error.fault.needs_room:
            raise
        _log.warning("these numbers are not stored with the run: %s", error.problem)


def evaluate_model(loaded: LoadedModel, split: str) -> Evaluation:
    """Measure a model on 'test' or 'val', without storing anything.

    Raises:
        UsageError: no such split.
    """
    with contextlib.closing(loaded.images(split)) as images:
        logits = predict(loaded.model, images, loaded.compute)
        taught = _teachers_logits(loaded, images)
    mean = _mean(taught)
    parameters = count_parameters(loaded.model)
    input_size = loaded.sizes.input_size
    return Evaluation(
        run_key=loaded.plan.key,
        selection=loaded.name,
        model=loaded.part,
        split=split,
        metrics=split_metrics(logits, images.labels),
        teacher_agreement=None if mean is None else agreement(logits, mean),
        parameters=parameters,
        checkpoint_sha256=loaded.sha256,
        teacher_kl=None if mean is None else divergence(logits, mean),
        teachers=tuple(_fidelities(loaded, logits, taught)) if len(taught) > 1 else (),
        calibration_error=calibration_error(logits, images.labels),
        per_class_top1=dict(zip(loaded.data.class_names, per_class_top1(logits, images.labels), strict=True)),
        confusion=confusion(logits, images.labels),
        class_names=loaded.data.class_names,
        multiply_adds=count_multiply_adds(loaded.model, input_size),
        pruning_percent=pruning_percent(parameters, loaded.teacher_parameters()),
        size_mb=size_mb(loaded.model),
        latency=measure_latencies(loaded.model, input_size, loaded.compute),
    )


def _teachers_logits(loaded: LoadedModel, images: EvaluationImages) -> list[Tensor | None]:
    """Return what each teacher says, [N, K]; None for one whose weights are gone."""
    # The teachers themselves, not the faster copies of them that the student learned from.
    exact = dataclasses.replace(loaded.compute, options=EngineOptions())
    return [None if teacher is None else predict(teacher, images, exact) for teacher in loaded.teachers()]


def _mean(taught: Sequence[Tensor | None]) -> Tensor | None:
    """Return logits [N, K] of the mean of all teachers' probabilities; None without all of them."""
    logits = [one for one in taught if one is not None]
    if not logits or len(logits) < len(taught):
        return None
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack([functional.log_softmax(one.double(), dim=1) for one in logits])
    return stacked.logsumexp(dim=0) - math.log(len(logits))


def _fidelities(loaded: LoadedModel, logits: Tensor, taught: Sequence[Tensor | None]) -> Iterator[Fidelity]:
    """Yield how well the model matches each teacher whose weights are there."""
    for place, (teacher, said) in enumerate(zip(loaded.plan.teachers, taught, strict=True), start=1):
        if said is not None:
            yield Fidelity(
                teacher=teacher.name,
                place=place,
                agreement=agreement(logits, said),
                kl=divergence(logits, said),
            )
