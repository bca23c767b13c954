"""Teachers: found by run or by file, loaded with their weights, frozen, and checked against the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import sizes_of
from kdctl.assembly.run_context import RunContext
from kdctl.engine.checkpoint import DamagedCheckpointError, ModelCheckpoint, foreign, load_weights, read_model
from kdctl.engine.public_weights import fitting_models, read_public_weights
from kdctl.errors import KdctlError, Mistake, RecipeError
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.distiller import methods
from kdctl.readers.selection import SelectedData
from kdctl.recipe.imported import InputNormalisation, is_imported, trained_normalisation
from kdctl.recipe.plan import RunPlan, TeacherRef
from kdctl.recipe.stored import is_plan, read_component
from kdctl.records import RunState, Selection
from kdctl.serialization import canonical_json
from kdctl.store.folder import RunFolder

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Workspace

_USUAL_SIZE = 32
"""Images that most public weights are for; no tensor's shape depends on it."""


@dataclass(frozen=True, kw_only=True)
class LoadedTeacher:
    """A frozen teacher with its provenance."""

    backbone: Backbone
    checkpoint_sha256: str
    data_fingerprint: str
    """Of the data it was trained on."""
    test_top1: float | None
    """Percent; None when it was never evaluated here."""


class TeacherLibrary:
    """Finds the teachers that a workspace has, for planning."""

    def __init__(self, workspace: Workspace) -> None:
        """Look in the workspace's store and run folders."""
        self._workspace = workspace

    def by_run(self, key: str) -> TeacherRef:
        """Return the teacher that the run with this key (or prefix) trained.

        Raises:
            KdctlError: no such run, it is not finished, or its method ships no plain backbone.
        """
        run = self._workspace.store.run(key)
        if run.state is not RunState.FINISHED:
            raise KdctlError(
                f"run {run.key} is {run.state.value}: it cannot teach yet.",
                "finish it first, or name another run.",
            )
        return TeacherRef(name=_backbone_name(run.plan, f"run {run.key}"), run=run.key)

    def by_checkpoint(self, path: Path) -> TeacherRef:
        """Return the teacher in a checkpoint that kdctl wrote.

        Raises:
            KdctlError: the file is missing, damaged, unsafe, or ships no plain backbone.
        """
        try:
            content = read_trained(path)
        except DamagedCheckpointError as error:
            raise _from_elsewhere(path) or error from error
        name = _backbone_name(content.plan, str(path))
        return TeacherRef(name=name, checkpoint_sha256=content.sha256, checkpoint=str(path))


def read_trained(path: Path) -> ModelCheckpoint:
    """Read a model that a run left behind, with the plan that says what it is.

    Raises:
        KdctlError: the file is missing, damaged, unsafe, or was not written by kdctl.
    """
    content = read_model(path)
    if not is_plan(content.plan):
        raise foreign(path)
    return content


def load_teacher(teacher: TeacherRef, data: SelectedData, context: RunContext) -> LoadedTeacher:
    """Build a teacher for these data, give it its weights, and freeze it in eval mode.

    One that was trained on images of another normalisation gets them so.
    What is known of a teacher's run is read from its folder, so that this works without a database.

    Raises:
        KdctlError: the weights are missing, damaged, or do not fit the data's classes.
    """
    folder = context.folder(teacher.run) if teacher.run else None
    path = folder.path / f"{Selection.LAST.value}.pt" if folder else Path(teacher.checkpoint)
    content = read_trained(path)
    expected = teacher.checkpoint_sha256 or (_recorded_sha256(folder, path.name) if folder else "")
    if expected and content.sha256 != expected:
        raise KdctlError(
            f"{path} is not the file it was: its SHA-256 differs from the one on record.",
            "restore it from a copy, or train or name the teacher anew.",
        )
    sizes = sizes_of(data)
    classifier = content.weights.get("classifier.weight")
    num_classes = len(classifier) if classifier is not None and classifier.dim() else sizes.num_classes
    backbone = models.get(teacher.name).item(num_classes, sizes.input_size)
    load_weights(backbone, content.weights, path)
    show_images_as_trained(backbone, trained_normalisation(content.plan), data)
    backbone.eval().requires_grad_(requires_grad=False)
    result = folder.result() if folder else None
    return LoadedTeacher(
        backbone=backbone,
        checkpoint_sha256=content.sha256,
        data_fingerprint=str(content.plan["data_fingerprint"]),
        test_top1=result.selected[Selection.LAST.value].test.top1 if result else None,
    )


def _recorded_sha256(folder: RunFolder, name: str) -> str:
    """Return the SHA-256 that a run's checkpoint had at its end; empty if it is not known."""
    return next((artifact.sha256 for artifact in folder.artifacts() if artifact.name == name), "")


def show_images_as_trained(
    backbone: Backbone, trained: InputNormalisation | None, data: SelectedData
) -> None:
    """Give a model the images of `data`, which the engine normalises, in the normalisation it knows.

    Args:
        backbone: a model; its taps and the names of its weights stay as they are.
        trained: what the model's images were normalised by; None: as the data are.
        data: what it will see.
    """
    if trained is None or (trained.mean, trained.std) == (data.mean, data.std):
        return
    channels = zip(trained.mean, trained.std, data.mean, data.std, strict=True)
    steps = [(std / own_std, (mean - own_mean) / own_std) for own_mean, own_std, mean, std in channels]
    scale, shift = zip(*steps, strict=True)
    backbone.adapt_input(scale, shift)


def _from_elsewhere(path: Path) -> KdctlError | None:
    """Say how the weights of a public repository become a teacher; None if there are none in the file."""
    try:
        weights = read_public_weights(path)
    except KdctlError:
        return None
    names = fitting_models(weights, _USUAL_SIZE)
    model = names[0] if len(names) == 1 else "NAME"
    kind = f" of {' or '.join(names)}" if names else ""
    return KdctlError(
        f"{path} holds weights{kind} that kdctl did not train.",
        f"store and evaluate them first (see its --mean): kdctl import-weights {path} --model {model}; "
        "then name the run as the teacher.",
    )


def _backbone_name(plan: Mapping[str, Any], what: str) -> str:
    """Return the architecture of a model that is a plain backbone."""
    student = str(plan["student"]["name"])
    if is_imported(plan):
        return student
    method = read_component("method", plan["method"], full_catalog())
    if not methods.get(method.name).item.ships_student(method.options):
        raise KdctlError(
            f"{what} was trained by '{method.name}', which ships more than a plain {student}.",
            "teach with a run of 'ce' or of another method that ships the student as it is.",
        )
    return student


def require_teachers(plans: Iterable[RunPlan], context: RunContext) -> None:
    """Load every teacher that was trained before, once for each selection of data.

    Raises:
        RecipeError: teachers that know other classes, weights of another model or head; all of them.
    """
    selected: dict[str, SelectedData] = {}
    mistakes: dict[tuple[TeacherRef, str], tuple[Mistake, ...]] = {}
    for plan in plans:
        source = canonical_json(plan.data.tree())
        if source not in selected:
            selected[source] = context.library.select(plan.data)
        for teacher in plan.teachers:
            # One that is given by its plan is trained first, on these data.
            if teacher.plan is None and (teacher, source) not in mistakes:
                mistakes[teacher, source] = _mistakes(teacher, selected[source], context)
    if found := [mistake for those in mistakes.values() for mistake in those]:
        raise RecipeError(found)


def _mistakes(teacher: TeacherRef, data: SelectedData, context: RunContext) -> tuple[Mistake, ...]:
    try:
        _require_teacher(teacher, data, context)
    except KdctlError as error:
        return error.mistakes
    return ()


def _require_teacher(teacher: TeacherRef, data: SelectedData, context: RunContext) -> None:
    backbone = load_teacher(teacher, data, context).backbone
    if backbone.num_classes != data.num_classes:
        where = f"run {teacher.run}" if teacher.run else teacher.checkpoint
        raise KdctlError(
            f"the teacher {teacher.name} ({where}) tells {backbone.num_classes} classes apart, "
            f"the data have {data.num_classes}.",
            "name a teacher of the same classes, or change data.num_classes.",
        )
