"""Teachers: found by run or by file, loaded with their weights, frozen, and checked against the data."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from kdctl.assembly.architecture import build_shipped, num_classes, read_trained, require_model, shipped_by
from kdctl.assembly.data import Sizes, sizes_of
from kdctl.assembly.initial_weights import find_initial_weights
from kdctl.assembly.run_context import RunContext
from kdctl.engine.adopted_weights import fitting_models
from kdctl.engine.checkpoint import DamagedCheckpointError, altered, load_weights
from kdctl.engine.plain_tensors import require_finite
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError, Mistake, RecipeError
from kdctl.protocols.backbone import Backbone, as_teacher, models
from kdctl.readers.selection import SelectedData
from kdctl.recipe.component import Spec
from kdctl.recipe.imported import InputNormalisation, trained_normalisation
from kdctl.recipe.plan import InitialWeights, RunPlan, TeacherRef
from kdctl.records import SHIPPED, RunState, Selection, checkpoint_name, model_in
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
        self._weights: dict[tuple[str, str, str], InitialWeights] = {}

    def by_run(self, key: str, model: str = SHIPPED) -> TeacherRef:
        """Return the teacher that the run with this key (or prefix) trained, or another model of that run.

        Raises:
            KdctlError: no such run, it is not finished, or plug-ins of its are not here.
        """
        run = self._workspace.store.run(key)
        if run.state is not RunState.FINISHED:
            raise KdctlError(
                f"run {run.key} is {run.state.value}: it cannot teach yet.",
                "finish it first, or name another run.",
            )
        if model:
            path = self._workspace.folder(run.key).path / checkpoint_name(Selection.LAST, model)
            require_model(path, run.key, model)
        return dataclasses.replace(shipped_by(run.plan, model), run=run.key)

    def by_checkpoint(self, path: Path) -> TeacherRef:
        """Return the teacher in a checkpoint that kdctl wrote.

        Raises:
            KdctlError: the file is missing, damaged or unsafe, or plug-ins of its are not here.
        """
        try:
            content = read_trained(path)
        except DamagedCheckpointError as error:
            raise _from_elsewhere(path) or error from error
        shipped = shipped_by(content.plan, model_in(path.name))
        return dataclasses.replace(shipped, checkpoint_sha256=content.sha256, checkpoint=str(path))

    def num_classes(self, teacher: TeacherRef, otherwise: int) -> int:
        """Return how many classes a trained teacher tells apart; `otherwise` if its weights do not show it.

        Raises:
            KdctlError: the weights are missing, damaged or unsafe.
        """
        folder = self._workspace.folder(teacher.run) if teacher.run else None
        return num_classes(read_trained(_path_of(teacher, folder)).weights, otherwise)

    def weights(self, source: str, student: Spec, data: Spec) -> InitialWeights:
        """Return the weights that a student is to start from; see `find_initial_weights`.

        Raises:
            KdctlError: they are not there, or not this student's.
        """
        asked = (source, student.name, canonical_json(data.tree()))
        if asked not in self._weights:
            self._weights[asked] = find_initial_weights(source, student, data, self._workspace)
        return self._weights[asked]


def load_teacher(teacher: TeacherRef, data: SelectedData, context: RunContext) -> LoadedTeacher:
    """Build a teacher for these data, give it its weights, and freeze it in eval mode.

    One that was trained on images of another normalisation gets them so.
    What is known of a teacher's run is read from its folder, so that this works without a database.

    Raises:
        KdctlError: the weights are missing, damaged, or do not fit the data's classes.
    """
    folder = context.folder(teacher.run) if teacher.run else None
    part = teacher.model.part if teacher.model else SHIPPED
    path = _path_of(teacher, folder)
    content = read_trained(path)
    require_finite(content.weights, path)
    if teacher.checkpoint_sha256 not in ("", content.sha256):
        raise altered(path, "train or name the teacher anew")
    if part:
        require_same_input(content.plan, part, context)
    sizes = sizes_of(data)
    known = num_classes(content.weights, sizes.num_classes)
    sizes = Sizes(num_classes=known, input_size=sizes.input_size)
    if teacher.model is None:
        model: nn.Module = models.get(teacher.name).item(*sizes)
    else:
        model = build_shipped(teacher.model, sizes, part)
    load_weights(model, content.weights, path)
    backbone = as_teacher(model, *sizes)
    show_images_as_trained(backbone, trained_normalisation(content.plan), data)
    backbone.eval().requires_grad_(requires_grad=False)
    return LoadedTeacher(
        backbone=backbone,
        checkpoint_sha256=content.sha256,
        data_fingerprint=str(content.plan["data_fingerprint"]),
        test_top1=_test_top1(folder, part) if folder else None,
    )


def _path_of(teacher: TeacherRef, folder: RunFolder | None) -> Path:
    """Return where the weights of a trained teacher are."""
    part = teacher.model.part if teacher.model else SHIPPED
    return folder.path / checkpoint_name(Selection.LAST, part) if folder else Path(teacher.checkpoint)


def _test_top1(folder: RunFolder, part: str) -> float | None:
    """Return the accuracy of a model of a run after its last epoch, in percent; None if it is not known."""
    if part:
        models = folder.epochs()[-1].models
        return models[part].test.top1 if part in models else None
    result = folder.result()
    return result.selected[Selection.LAST.value].test.top1 if result else None


def require_same_input(plan: Mapping[str, Any], part: str, context: RunContext) -> None:
    """Refuse another model of a run whose teachers had images of another normalisation.

    It may be an adapted teacher, and its checkpoint does not say how it wants its images.

    Raises:
        KdctlError: the run has such a teacher.
    """
    for teacher in plan["teachers"]:
        path = (
            context.folder(teacher["run"]).path / f"{Selection.LAST.value}.pt" if teacher.get("run") else None
        )
        if path and path.is_file() and trained_normalisation(read_trained(path).plan) is not None:
            raise KdctlError(
                f"the model '{part}' cannot be rebuilt: its run has a teacher ({teacher['run']}) that was "
                "trained on images of another normalisation, and the file does not say which.",
                "use the model that the run ships.",
            )


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
        f"store and evaluate them first (see its --mean): kdctl import-weights {shlex.quote(str(path))} "
        f"--model {model}; then name the run as the teacher.",
    )


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
            selected[source] = context.library.select_for(plan)
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
    require_classes(teacher, load_teacher(teacher, data, context).backbone.num_classes, data.num_classes)


def require_classes(teacher: TeacherRef, known: int, wanted: int) -> None:
    """Refuse a teacher that tells another number of classes apart than its student is to.

    Raises:
        KdctlError: the numbers differ.
    """
    if known != wanted:
        raise KdctlError(
            f"the teacher {teacher.name} ({teacher.where}) tells {known} classes apart, "
            f"the data have {wanted}.",
            "name a teacher of the same classes, or change data.num_classes.",
        )
