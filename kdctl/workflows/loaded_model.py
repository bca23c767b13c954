"""What can be evaluated: the model that a run or a checkpoint file would ship, with its data and teachers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.assembly.architecture import build_architecture, build_shipped, read_trained, require_model
from kdctl.assembly.assemble import count_parameters
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import DataLibrary, Sizes, sizes_of
from kdctl.assembly.teachers import load_teacher, require_same_input, show_images_as_trained
from kdctl.assembly.workspace import Workspace
from kdctl.engine.batches import Normalisation
from kdctl.engine.checkpoint import load_weights
from kdctl.engine.device import Compute, choose_device, prepare
from kdctl.engine.file_kinds import names_a_file
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.streamed_batches import EvaluationImages, open_evaluation_set
from kdctl.errors import KdctlError, RecipeError, UsageError, suggestion
from kdctl.files import is_gone
from kdctl.protocols.backbone import Backbone, models
from kdctl.readers.selection import SelectedData
from kdctl.recipe.component import PLUGIN_SHA256, places_of
from kdctl.recipe.imported import ImportedPlan, is_imported, read_imported
from kdctl.recipe.layers import flat
from kdctl.recipe.load import override_layer
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.records import SHIPPED, RunState, Selection, checkpoint_name, model_in
from kdctl.report.layout import read_selection
from kdctl.serialization import canonical_json

SPLITS = ("test", "val")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that would be shipped, on its device, with all that it takes to look at it."""

    plan: RunPlan | ImportedPlan
    path: Path
    """The checkpoint it was read from."""
    sha256: str
    """Of that file."""
    rule: Selection | None
    """The rule by which a known run selected this very model; None for a stranger's file."""
    part: str
    """Which model of the run this is, by name; empty: the one that it ships."""
    model: nn.Module
    """In eval mode; takes normalised images [B, 3, H, W] and returns logits [B, K]."""
    data: SelectedData
    """The images that the run saw, the names of its classes, and by what pixels are normalised."""
    compute: Compute
    workspace: Workspace

    @property
    def name(self) -> str:
        """Which of the run's models this is."""
        if self.rule is None:
            return self.path.stem
        return checkpoint_name(self.rule, self.part).removesuffix(".pt")

    @property
    def sizes(self) -> Sizes:
        """What the model was built for."""
        return sizes_of(self.data)

    def images(self, split: str) -> EvaluationImages:
        """Return the images of 'test' or 'val' on the device.

        Raises:
            UsageError: there is no such split.
        """
        if split not in SPLITS:
            raise UsageError(f"there is no split '{split}'.", suggestion(split, SPLITS, "Splits"))
        chosen = self.data.test if split == "test" else self.data.val
        if chosen is None:
            raise UsageError(
                "the run held out no validation split.", "train with data.val_fraction > 0, or use test."
            )
        normalise = Normalisation(self.data.mean, self.data.std, self.compute.device)
        workers = ImageWorkers(self.workspace.num_workers)
        return open_evaluation_set(chosen, normalise, self.compute.device, workers)

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the normalised images [B, 3, H, W] of 'test' or 'val', in order, with their labels [B].

        Raises:
            UsageError: there is no such split.
        """
        with contextlib.closing(self.images(split)) as images:
            place = 0
            for batch in images.images():
                yield batch, images.labels[place : place + len(batch)]
                place += len(batch)

    def teacher(self) -> Backbone | None:
        """Return the first teacher on the device; None without one, or if its weights are gone."""
        return next(iter(self.teachers()), None)

    def teachers(self) -> Iterator[Backbone | None]:
        """Yield the teachers on the device, one at a time; None for one whose weights are gone."""
        for teacher in self.plan.teachers:
            try:
                loaded = load_teacher(teacher, self.data, self.workspace)
            except KdctlError as error:  # the student can be evaluated all the same
                _log.warning("nothing is compared with the teacher %s: %s", teacher.name, error.problem)
                yield None
            else:
                yield loaded.backbone.to(self.compute.device)

    def teacher_parameters(self) -> int | None:
        """Return the size of the largest teacher; None without one."""
        return max(map(count_parameters, _structures(self.plan, self.sizes)), default=None)


def load_model(
    source: str | Path,
    workspace: Workspace,
    selection: Selection | str = Selection.LAST,
    *,
    part: str = SHIPPED,
) -> LoadedModel:
    """Rebuild a model of a run (key or prefix) or of a checkpoint file, for code of one's own.

    Its data have to be there, and be those that it was trained on. Its weights lie in memory as those of a
    new module of torch, for `torch.nn.utils.prune` and `view` take no others.

    Args:
        source: run key, unique prefix of one, or path of a checkpoint that kdctl wrote.
        workspace: where runs and data lie.
        selection: which epoch's model of a run.
        part: another model of the run, by name, in place of the one it ships. A file's name says it itself.

    Raises:
        KdctlError: no such run, rule, model or file, a damaged or foreign checkpoint, missing or other data.
    """
    loaded = load_as_trained(source, workspace, selection, part=part)
    loaded.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return loaded


def load_as_trained(
    source: str | Path,
    workspace: Workspace,
    selection: Selection | str = Selection.LAST,
    *,
    part: str = SHIPPED,
) -> LoadedModel:
    """Rebuild a model as `load_model` does, its weights in memory as those of the run that trained it."""
    rule = read_selection(selection)
    path = Path(source) if names_a_file(source) else _checkpoint(str(source), workspace, rule, part)
    part = part or model_in(path.name)
    content = read_trained(path)
    plan = _plan(content.plan, path)
    if part:
        require_same_input(content.plan, part, workspace)
    data = _require_same_data(plan, workspace.library)
    compute = Compute(device=choose_device(workspace.device), options=plan.engine)
    prepare(compute, workspace.num_threads)
    return LoadedModel(
        plan=plan,
        path=path,
        sha256=content.sha256,
        rule=_rule(plan.key, path, content.sha256, workspace, part),
        part=part,
        model=rebuilt(plan, content.weights, path, data, part).to(compute.device).eval(),
        data=data,
        compute=compute,
        workspace=workspace,
    )


def _plan(tree: Mapping[str, Any], path: Path) -> RunPlan | ImportedPlan:
    """Read the plan in a checkpoint; say how to bring the plug-ins it was made with."""
    try:
        return (read_imported if is_imported(tree) else read_plan)(tree, full_catalog())
    except RecipeError as error:
        if PLUGIN_SHA256 not in canonical_json(tree):
            raise
        raise UsageError(
            f"{path} was trained with a plug-in: {error.problem}",
            "name the plug-in file as it was then: --plugin FILE",
        ) from error


def data_places(overrides: Sequence[str]) -> dict[str, str]:
    """Read where data lie that were moved: `data.path=FOLDER`.

    Raises:
        UsageError: a word says something else.
    """
    layer = override_layer(overrides)
    if layer.mistakes:
        raise RecipeError(layer.mistakes)
    wrong = next(
        (
            name
            for name, value in flat(layer.values).items()
            if name.split(".")[:-1] != ["data"] or not isinstance(value, str)
        ),
        None,
    )
    if wrong:
        raise UsageError(
            f"-o {wrong}: what a run was trained with stays as it was.",
            "say only where its images lie now: -o data.path=FOLDER.",
        )
    return layer.values.get("data", {})


def _require_same_data(plan: RunPlan | ImportedPlan, library: DataLibrary) -> SelectedData:
    """Return the data that the run was trained on."""
    moved = " If they were moved: -o data.path=FOLDER." if places_of(plan.data.options) else ""
    try:
        data = library.select(plan.data)
    except UsageError:
        raise
    except KdctlError as error:
        raise KdctlError(error.problem, f"{error.hint}{moved}") from error
    if library.fingerprint(plan.data) != plan.data_fingerprint:
        raise KdctlError(
            f"the data '{plan.data.name}' below {library.root} are not those that the run was trained on.",
            f"bring the files back as they were; fingerprints are in plan.json of the run.{moved}",
        )
    return data


def _rule(key: str, path: Path, sha256: str, workspace: Workspace, part: str) -> Selection | None:
    """Return the rule by which a known run selected this very model; None for a stranger's file."""
    if key not in workspace.store.states([key]):
        return None
    folder = workspace.folder(key)
    names = {rule: checkpoint_name(rule, part) for rule in Selection}
    rules = sorted(Selection, key=lambda rule: names[rule] != path.name)  # one epoch may be last and best
    kept = (rule for rule in rules if (folder.path / names[rule]).is_file())
    return next((rule for rule in kept if folder.artifact(names[rule]).sha256 == sha256), None)


def _checkpoint(source: str, workspace: Workspace, selection: Selection, part: str) -> Path:
    run = workspace.store.run(source)
    folder = workspace.folder(run.key).path
    path = folder / checkpoint_name(selection, part)
    if part and (folder / checkpoint_name(selection)).is_file():
        require_model(path, run.key, part)
    if is_gone(path):
        hint = (
            "its models may have been freed by `kdctl runs gc`; best-val needs data.val_fraction > 0."
            if run.state is RunState.FINISHED
            else "finish the run first."
        )
        raise KdctlError(f"run {run.key} ({run.state.value}) has no {path.name}.", hint)
    return path


def rebuilt(
    plan: RunPlan | ImportedPlan,
    weights: Mapping[str, Tensor],
    path: Path | str,
    data: SelectedData,
    part: str,
) -> nn.Module:
    """Rebuild a model of a run; the teachers' weights are not needed, only their structure.

    Raises:
        MisfitCheckpointError: the weights, those at `path`, are not of this model.
    """
    sizes = sizes_of(data)
    if isinstance(plan, ImportedPlan):
        backbone = models.get(plan.model.name).item(*sizes)
        load_weights(backbone, weights, path)
        show_images_as_trained(backbone, plan.normalisation, data)
        return backbone
    model = build_shipped(plan, sizes, part, num_samples=len(data.train))
    load_weights(model, weights, path)
    return model


def _structures(plan: RunPlan | ImportedPlan, sizes: Sizes) -> list[Backbone]:
    """Return the teachers with weights of no meaning."""
    return [build_architecture(teacher.architecture, sizes) for teacher in plan.teachers]
