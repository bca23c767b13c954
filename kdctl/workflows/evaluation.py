"""Evaluate the model that a run or a checkpoint file would ship."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from kdctl.engine.batches import EvaluationSet, Normalisation
from kdctl.engine.checkpoint import ModelCheckpoint, load_weights, read_model
from kdctl.engine.device import Compute, choose_device, prepare
from kdctl.engine.evaluate import agreement, predict, split_metrics
from kdctl.errors import KdctlError, UsageError
from kdctl.protocols.backbone import Backbone, models
from kdctl.readers.selection import SelectedData
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.records import Evaluation, Selection
from kdctl.workflows.assemble import build_distiller, build_student, count_parameters
from kdctl.workflows.catalog import full_catalog
from kdctl.workflows.data import DataLibrary, sizes_of
from kdctl.workflows.teachers import TeacherLibrary
from kdctl.workflows.workspace import Workspace


def evaluate(
    subject: str, workspace: Workspace, *, split: str = "test", selection: Selection = Selection.LAST
) -> Evaluation:
    """Evaluate a run (key or prefix) or a checkpoint file, and store the result of a known run.

    Args:
        subject: run key, unique prefix of one, or path of a checkpoint that kdctl wrote.
        workspace: where runs and data lie.
        split: 'test' or 'val'.
        selection: which epoch's model of a run.

    Raises:
        KdctlError: no such run or file, a damaged or foreign checkpoint, missing data, no such split.
    """
    path = Path(subject) if Path(subject).is_file() else _checkpoint(subject, workspace, selection)
    content = read_model(path)
    library = DataLibrary(workspace.data_root)
    plan = read_plan(content.plan, full_catalog())
    compute = Compute(device=choose_device(workspace.device), options=plan.engine)
    prepare(compute, workspace.num_threads)
    data = library.select(plan.data)
    images = _images(data, split, compute)
    model = _shipped_model(plan, content, path, data).to(compute.device)
    logits = predict(model, images, compute)
    teacher = _teacher(plan, workspace, data)
    evaluation = Evaluation(
        run_key=plan.key,
        selection=path.stem if path.stem in {rule.value for rule in Selection} else selection.value,
        split=split,
        metrics=split_metrics(logits, images.labels),
        teacher_agreement=(
            None
            if teacher is None
            else agreement(logits, predict(teacher.to(compute.device), images, compute))
        ),
        parameters=count_parameters(model),
        checkpoint_sha256=content.sha256,
    )
    if plan.key in workspace.store.states([plan.key]):
        workspace.folder(plan.key).append_evaluation(evaluation)
        workspace.store.record_evaluation(evaluation)
    return evaluation


def _checkpoint(subject: str, workspace: Workspace, selection: Selection) -> Path:
    run = workspace.store.run(subject)
    path = workspace.folder(run.key).path / f"{selection.value}.pt"
    if not path.is_file():
        raise KdctlError(
            f"run {run.key} ({run.state.value}) has no {path.name}.",
            "finish the run first; best-val needs data.val_fraction > 0.",
        )
    return path


def _images(data: SelectedData, split: str, compute: Compute) -> EvaluationSet:
    if split not in ("test", "val"):
        raise UsageError(f"there is no split '{split}'.", "use test or val.")
    chosen = data.test if split == "test" else data.val
    if chosen is None:
        raise UsageError(
            "the run held out no validation split.", "train with data.val_fraction > 0, or use test."
        )
    return EvaluationSet(chosen, Normalisation(data.mean, data.std, compute.device), compute.device)


def _shipped_model(plan: RunPlan, content: ModelCheckpoint, path: Path, data: SelectedData) -> nn.Module:
    """Rebuild the shipped model; the teachers' weights are not needed, only their structure."""
    sizes = sizes_of(data)
    teachers = [models.get(teacher.name).item(*sizes) for teacher in plan.teachers]
    student = build_student(plan, sizes)
    distiller = build_distiller(plan, student, teachers, num_samples=len(data.train))
    model = distiller.inference_model()
    load_weights(model, content.weights, path)
    return model


def _teacher(plan: RunPlan, workspace: Workspace, data: SelectedData) -> Backbone | None:
    if not plan.teachers:
        return None
    try:
        return TeacherLibrary(workspace).load(plan.teachers[0], sizes_of(data)).backbone
    except KdctlError:  # its weights are gone: the student can be evaluated all the same
        return None
