"""Evaluate the model that a run or a checkpoint file would ship."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdctl.engine.batches import EvaluationSet, Normalisation
from kdctl.engine.checkpoint import ModelCheckpoint, load_weights, read_model
from kdctl.engine.device import Compute, choose_device, prepare
from kdctl.engine.evaluate import agreement, predict, split_metrics
from kdctl.errors import KdctlError, RecipeError, UsageError, suggestion
from kdctl.protocols.backbone import Backbone, models
from kdctl.readers.selection import SelectedData
from kdctl.recipe.component import PLUGIN_SHA256
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.records import Evaluation, Selection, canonical_json
from kdctl.workflows.assemble import build_distiller, build_student, count_parameters
from kdctl.workflows.catalog import full_catalog
from kdctl.workflows.data import DataLibrary, sizes_of
from kdctl.workflows.teachers import load_teacher
from kdctl.workflows.workspace import Workspace

SPLITS = ("test", "val")


def evaluate(
    subject: str | Path,
    workspace: Workspace,
    *,
    split: str = "test",
    selection: Selection = Selection.LAST,
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
    if split not in SPLITS:
        raise UsageError(f"there is no split '{split}'.", suggestion(split, SPLITS, "Splits"))
    path = Path(subject) if Path(subject).is_file() else _checkpoint(str(subject), workspace, selection)
    content = read_model(path)
    plan = _plan(content.plan, path)
    data = workspace.library.select(plan.data)
    _require_same_data(plan, workspace.library)
    compute = Compute(device=choose_device(workspace.device), options=plan.engine)
    prepare(compute, workspace.num_threads)
    images = _images(data, split, compute)
    model = _shipped_model(plan, content, path, data).to(compute.device)
    logits = predict(model, images, compute)
    teacher = _teacher(plan, workspace, data)
    rule = _rule(plan.key, path, content.sha256, workspace)
    evaluation = Evaluation(
        run_key=plan.key,
        selection=rule.value if rule else path.stem,
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
    if rule is not None:
        workspace.folder(plan.key).append_evaluation(evaluation)
        workspace.store.record_evaluation(evaluation)
    return evaluation


def _plan(tree: Mapping[str, Any], path: Path) -> RunPlan:
    """Read the plan in a checkpoint; say how to bring the plug-ins it was made with."""
    try:
        return read_plan(tree, full_catalog())
    except RecipeError as error:
        if PLUGIN_SHA256 not in canonical_json(tree):
            raise
        raise UsageError(
            f"{path} was trained with a plug-in: {error.problem}",
            "name the plug-in file as it was then: --plugin FILE",
        ) from error


def _require_same_data(plan: RunPlan, library: DataLibrary) -> None:
    if library.fingerprint(plan.data) != plan.data_fingerprint:
        raise KdctlError(
            f"the data '{plan.data.name}' below {library.root} are not those that the run was trained on.",
            "bring the files back as they were; fingerprints are in plan.json of the run.",
        )


def _rule(key: str, path: Path, sha256: str, workspace: Workspace) -> Selection | None:
    """Return the rule by which a known run selected this very model; None for a stranger's file."""
    if key not in workspace.store.states([key]):
        return None
    folder = workspace.folder(key)
    rules = sorted(Selection, key=lambda rule: rule.value != path.stem)  # one epoch may be last and best
    kept = (rule for rule in rules if (folder.path / f"{rule.value}.pt").is_file())
    return next((rule for rule in kept if folder.artifact(f"{rule.value}.pt").sha256 == sha256), None)


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
        return load_teacher(plan.teachers[0], sizes_of(data), workspace).backbone
    except KdctlError:  # its weights are gone: the student can be evaluated all the same
        return None
