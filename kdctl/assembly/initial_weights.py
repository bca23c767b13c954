"""The weights that a student starts from: of a run, of a checkpoint, or of a file from elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdctl.assembly.architecture import num_classes, read_trained, shipped_by
from kdctl.assembly.assemble import build_distiller, build_member, build_student
from kdctl.assembly.data import Sizes, counted_sizes, sizes_of
from kdctl.assembly.run_context import RunContext
from kdctl.engine.adopted_weights import adopt
from kdctl.engine.checkpoint import DamagedCheckpointError, ModelCheckpoint, load_weights
from kdctl.engine.device import shapes_only
from kdctl.engine.file_kinds import names_a_file
from kdctl.engine.member import Member
from kdctl.engine.plain_tensors import require_finite
from kdctl.engine.public_weights import read_public_weights
from kdctl.engine.resume import has_state
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone, models
from kdctl.readers.selection import SelectedData
from kdctl.recipe.component import Spec
from kdctl.recipe.imported import trained_normalisation
from kdctl.recipe.plan import InitialWeights, RunPlan
from kdctl.records import RunState, Selection

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Workspace


def find_initial_weights(source: str, student: Spec, data: Spec, workspace: Workspace) -> InitialWeights:
    """Return the weights that a recipe names, if the student can start from them.

    Args:
        source: key (or prefix) of a finished run, a checkpoint that kdctl wrote, or a file of weights.
        student: what starts from them.
        data: what it will see.
        workspace: where runs and data lie.

    Raises:
        KdctlError: no such run or file, an unfinished run, or weights of another model.
    """
    counts = workspace.library.counts(data)
    sizes = counted_sizes(counts)
    path = Path(source)
    if names_a_file(source):
        content = _checkpoint(path)
        if content is None:
            public = read_public_weights(path)
            found = adopt(models.get(student.name).item, public, sizes.input_size).num_classes
            return InitialWeights(sha256=public.sha256, file=source, num_classes=found)
        weights = InitialWeights(sha256=content.sha256, file=source)
    else:
        run = workspace.store.run(source)
        if run.state is not RunState.FINISHED:
            raise KdctlError(
                f"run {run.key} is {run.state.value}: nothing can start from it yet.",
                "finish it first, or name another run.",
            )
        weights, path = InitialWeights(run=run.key), _last_model(run.key, workspace)
        content = read_trained(path)
    found = _require_fit((weights.run and f"run {weights.run}") or str(path), content, student, sizes)
    trained_on = shipped_by(content.plan).trained_on
    fingerprint = trained_on.fingerprint if trained_on else ""
    return dataclasses.replace(weights, num_classes=found, data_fingerprint=fingerprint)


def _require_fit(what: str, content: ModelCheckpoint, student: Spec, sizes: Sizes) -> int:
    """Refuse the model of a checkpoint that is not the student, or that is spoilt; return its classes."""
    require_finite(content.weights, what)
    shipped = shipped_by(content.plan)
    if shipped.model is not None:
        raise KdctlError(
            f"{what} ships more than a student: it is a {shipped.name}.",
            "start from a run whose method ships the student as it is.",
        )
    if shipped.name != student.name:
        raise KdctlError(
            f"{what} holds a {shipped.name}, the student is a {student.name}.",
            "name weights of the same architecture, or change student.name.",
        )
    if trained_normalisation(content.plan) is not None:
        raise KdctlError(
            f"{what} was trained on images that were normalised in another way than a student's are.",
            "name the file of weights itself if that is meant: a student sees the normalisation of its data.",
        )
    theirs = sizes._replace(num_classes=num_classes(content.weights, sizes.num_classes))
    with shapes_only():
        _require_same_tensors(what, models.get(student.name).item(*theirs).state_dict(), content.weights)
    return theirs.num_classes


def _require_same_tensors(what: str, own: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    shapes, theirs = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (own, weights))
    if shapes != theirs:
        example = next(name for name in sorted({*shapes, *theirs}) if shapes.get(name) != theirs.get(name))
        raise KdctlError(
            f"{what} holds the weights of another model (for example {example}).",
            "name weights of this version of the model.",
        )


def build_run(
    plan: RunPlan, data: SelectedData, teachers: Sequence[Backbone], context: RunContext, device: torch.device
) -> Member:
    """Put a run at its start, or where its saved state left it; then given weights are not read again.

    Raises:
        KdctlError: student, teachers and method do not fit together, or the weights are gone.
    """

    def build(*, from_weights: bool) -> Member:
        student = build_student(plan, sizes_of(data))
        if from_weights:
            load_initial_weights(student, plan, context)
        distiller = build_distiller(plan, student, teachers, num_samples=len(data.train), device=device)
        return build_member(plan, distiller, context)

    if plan.weights is None:
        return build(from_weights=False)
    goes_on = has_state(context.folder(plan.key).path)
    member = build(from_weights=not goes_on)
    if goes_on and (member.epoch, member.step) == (0, 0):  # its saved state cannot be used: it starts over
        return build(from_weights=True)
    return member


def load_initial_weights(student: Backbone, plan: RunPlan, context: RunContext) -> None:
    """Give a student the weights that its plan says it starts from.

    A classifier of other classes is left as it was drawn.

    Raises:
        KdctlError: they are gone, damaged, or not those that were planned.
    """
    weights = plan.weights
    if weights is None:
        return
    path = _last_model(weights.run, context) if weights.run else Path(weights.file)
    if not path.is_file():
        raise KdctlError(f"the weights {path} that the student starts from are gone.", "bring the file back.")
    content = _checkpoint(path)
    public = None if content else read_public_weights(path)
    found = content.sha256 if content else public.sha256 if public else ""
    if weights.sha256 and found != weights.sha256:
        raise KdctlError(
            f"{path} is not the file that was planned: its SHA-256 is another.", "bring that file back."
        )
    if content:
        _load(student, content.weights, path)
    elif public:
        adopted = adopt(models.get(plan.student.name).item, public, student.input_size)
        _load(student, adopted.state_dict(), path)


def _load(student: Backbone, weights: Mapping[str, Tensor], path: Path) -> None:
    drawn = student.state_dict()
    kept = {
        name: drawn[name]
        for name, tensor in weights.items()
        if name in drawn and _tells_other_classes(tensor, drawn[name], student.num_classes)
    }
    load_weights(student, {**weights, **kept}, path)


def _tells_other_classes(theirs: Tensor, own: Tensor, num_classes: int) -> bool:
    """Return whether two tensors have a row for each class, and only the number of classes differs."""
    if theirs.dim() != own.dim() or own.dim() == 0 or theirs.shape[1:] != own.shape[1:]:
        return False
    return len(own) == num_classes and len(theirs) != num_classes


def _last_model(key: str, context: RunContext) -> Path:
    path = context.folder(key).path / f"{Selection.LAST.value}.pt"
    if not path.is_file():
        raise KdctlError(
            f"run {key} is finished, but its model {path} is gone.",
            f"restore the file, or train it again: `kdctl runs rm {key} --force`, then the sweep or "
            "training that it came from.",
        )
    return path


def _checkpoint(path: Path) -> ModelCheckpoint | None:
    """Return what a checkpoint of kdctl holds; None if the file is none."""
    try:
        return read_trained(path)
    except DamagedCheckpointError:
        return None
