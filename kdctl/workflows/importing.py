"""Weights from elsewhere become a run of the store, which can teach and be evaluated like any other."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch

from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import Sizes, counted_sizes
from kdctl.assembly.environment import describe_environment
from kdctl.assembly.workspace import Workspace
from kdctl.engine.adopted_weights import adopt, fitting_models
from kdctl.engine.checkpoint import MisfitCheckpointError, write_model
from kdctl.engine.public_weights import PublicWeights, named_parts, read_public_weights
from kdctl.errors import KdctlError, UsageError
from kdctl.evaluation_records import Evaluation
from kdctl.files import is_gone
from kdctl.layers.timm_weights import cached_weights
from kdctl.protocols.backbone import Backbone, models
from kdctl.recipe.component import Spec
from kdctl.recipe.imported import ImportedPlan, InputNormalisation
from kdctl.recipe.layers import NAME, Layer, merge
from kdctl.recipe.load import override_layer
from kdctl.recipe.resolve import Resolver
from kdctl.records import ModelFacts, RunResult, RunState, Selected, Selection, StoredRun
from kdctl.store.store import Owner
from kdctl.workflows.evaluation import evaluate_model
from kdctl.workflows.loaded_model import LoadedModel, load_as_trained

COMMAND_LINE = "command line"
LEASE_SECONDS = 600.0

_OF_TIMM = "timm:"
"""How weights begin that timm has in its cache."""

_LIKE_CHANCE = 1.5
"""Times the accuracy of guessing; what is below it was hardly trained for these images."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A file of weights, with what its maker knows about it and the file does not say."""

    path: Path
    model: str | None = None
    """Architecture; None: the one that fits, if only one does."""
    dataset: str = "cifar100"
    """What it was trained for, and is evaluated on."""
    overrides: Sequence[str] = ()
    """`data.option=value`."""
    normalisation: InputNormalisation | None = None
    """Of the images it was trained on; None: that of the data set."""
    source: str = ""
    """Where the file came from; its name if empty."""
    prefix: str = ""
    """Only tensors whose names begin so are read, without it."""
    renames: Mapping[str, str] = field(default_factory=dict[str, str])
    """Parts of dotted names -> what they are called instead."""


@dataclass(frozen=True, kw_only=True)
class MatchedWeights:
    """Weights of a file in the model that they fit."""

    file: WeightsFile
    sha256: str
    """Of the weights."""
    backbone: Backbone
    model: Spec
    data: Spec

    @property
    def source(self) -> str:
        """Where the weights are from, as far as anybody said."""
        return self.file.source or self.file.path.name


def import_weights(
    weights: MatchedWeights | WeightsFile, workspace: Workspace
) -> tuple[StoredRun, Evaluation]:
    """Match the weights of a file with a model, evaluate it, and store it as a finished run.

    Importing the same weights again gives the same run.

    Args:
        weights: what to import; weights that `match_weights` found a model for are not matched again.
        workspace: where runs and data lie.

    Raises:
        KdctlError: the file or the data cannot be read, or weights, model and data do not fit together.
    """
    matched = weights if isinstance(weights, MatchedWeights) else _matched(weights, workspace)
    plan = ImportedPlan(
        model=matched.model,
        data=matched.data,
        data_fingerprint=workspace.library.fingerprint(matched.data),
        weights_sha256=matched.sha256,
        source=matched.source,
        normalisation=matched.file.normalisation,
    )
    evaluation = _stored(plan, matched.backbone, workspace)
    chance = 100.0 / matched.backbone.num_classes
    if evaluation.metrics.top1 < _LIKE_CHANCE * chance:
        _log.warning(
            "%.2f %% is about what chance gives (%.2f %%): perhaps the weights are for images of another "
            "normalisation (--mean, --std), or for classes in another order",
            evaluation.metrics.top1,
            chance,
        )
    return workspace.store.run(plan.key), evaluation


def match_weights(file: WeightsFile, workspace: Workspace) -> MatchedWeights:
    """Find the model that weights fit: nothing is made or downloaded for a file that is useless.

    It is, too, where the outputs are not finite even for a black image: a variance is below zero, say.

    Raises:
        KdctlError: as `import_weights`.
    """
    matched = _matched(file, workspace)
    black = torch.zeros(2, 3, matched.backbone.input_size, matched.backbone.input_size)
    with torch.inference_mode():
        logits = matched.backbone.eval()(black)
    if not logits.isfinite().all():
        raise _no_outputs(matched.source)
    workspace.library.select(matched.data)
    return matched


def located(file: WeightsFile) -> WeightsFile:
    """Return where weights lie that are called by timm's name for them, with what timm knows of them.

    Raises:
        KdctlError: timm is missing, knows no such weights, or has not fetched them.
    """
    word = str(file.path)
    if not word.startswith(_OF_TIMM):
        return file
    found = cached_weights(word.removeprefix(_OF_TIMM))
    return replace(
        file,
        path=found.path,
        model=file.model or word,
        normalisation=file.normalisation or InputNormalisation(mean=found.mean, std=found.std),
        source=file.source or word,
    )


def _matched(file: WeightsFile, workspace: Workspace) -> MatchedWeights:
    file = located(file)
    weights = read_public_weights(file.path, prefix=file.prefix, renames=file.renames)
    data_spec = _data_spec(file)
    if file.model:
        models.get(file.model)
    counts = workspace.library.counts(data_spec)
    sizes = counted_sizes(counts)
    name = models.get(file.model).name if file.model else recognised(weights, sizes.input_size)
    model = Resolver(merge([]), full_catalog(), COMMAND_LINE).component("model", name, "model")
    backbone = _adopted(name, weights, sizes)
    _require_same_classes(backbone, sizes, file)
    return MatchedWeights(
        file=file, sha256=weights.sha256, backbone=backbone, model=cast(Spec, model), data=data_spec
    )


def recognised(weights: PublicWeights, input_size: int) -> str:
    """Return the one model that has tensors of these names and shapes.

    Raises:
        KdctlError: none has, or several have.
    """
    names = fitting_models(weights, input_size)
    if len(names) == 1:
        return names[0]
    if names:
        raise UsageError(f"{weights.path} fits {' and '.join(names)}.", "say which one with --model.")
    raise KdctlError(
        f"{weights.path} fits no model that kdctl knows by its public names.",
        "name the architecture with --model to see what does not fit; --prefix and --rename help where only "
        f"names differ: {named_parts(weights.tensors)}",
    )


def _adopted(name: str, weights: PublicWeights, sizes: Sizes) -> Backbone:
    try:
        return adopt(models.get(name).item, weights, sizes.input_size)
    except MisfitCheckpointError as error:
        fitting = fitting_models(weights, sizes.input_size)
        if not fitting:
            raise
        raise MisfitCheckpointError(error.problem, f"it fits --model {' and '.join(fitting)}.") from error


def _data_spec(file: WeightsFile) -> Spec:
    top = override_layer(file.overrides)
    base = Layer(source=COMMAND_LINE, values={"data": {NAME: file.dataset}})
    merged = merge([base, top])
    resolver = Resolver(merged, full_catalog(), COMMAND_LINE)
    resolver.mistakes.extend(top.mistakes)
    for section in merged.tree.keys() - {"data"}:
        resolver.wrong(section, f"{section} has no part in an import.", "set options of data only.")
    spec = resolver.component("dataset", merged.tree["data"], "data")
    resolver.finish()
    return cast(Spec, spec)


def _require_same_classes(backbone: Backbone, sizes: Sizes, file: WeightsFile) -> None:
    if backbone.num_classes != sizes.num_classes:
        raise KdctlError(
            f"the weights in {file.path} tell {backbone.num_classes} classes apart, "
            f"the data '{file.dataset}' have {sizes.num_classes}.",
            "name the data they were trained on: --dataset, -o data.num_classes=...",
        )


def _stored(plan: ImportedPlan, backbone: Backbone, workspace: Workspace) -> Evaluation:
    """Write the run's folder, evaluate what lies there, and only then tell the store that it is finished.

    Where that fails, no folder is left that would be a run without an end.
    """
    folder = workspace.folder(plan.key)
    path = folder.path / f"{Selection.LAST.value}.pt"
    is_new = is_gone(folder.path)
    try:
        if not path.is_file():
            folder.write_plan(plan.planned())
            write_model(path, backbone, plan.tree())
        loaded = load_as_trained(path, workspace)
        evaluation = evaluate_model(loaded, "test")
        if not math.isfinite(evaluation.metrics.loss):
            raise _no_outputs(plan.source)
        if workspace.store.states([plan.key]).get(plan.key) is not RunState.FINISHED:
            _settle(loaded, evaluation)
    except BaseException:
        if is_new and folder.ending() is None:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    folder.append_evaluation(evaluation)
    workspace.store.record_evaluation(evaluation)
    return evaluation


def _no_outputs(source: str) -> KdctlError:
    return KdctlError(
        f"{source} gives outputs that are not finite (NaN or infinity).",
        "its weights were damaged or made wrong: use another file.",
    )


def _settle(loaded: LoadedModel, evaluation: Evaluation) -> None:
    """Write down the run as one that came to its end without an epoch."""
    key, store = loaded.plan.key, loaded.workspace.store
    folder, owner = loaded.workspace.folder(key), Owner.here()
    environment = describe_environment(
        loaded.compute, data_fingerprint=loaded.plan.data_fingerprint, teacher_checkpoints=(), gang=()
    )
    result = _result(evaluation)
    artifact = folder.artifact(loaded.path.name)
    folder.write_environment(environment)
    folder.write_result(result, [artifact])
    store.add_runs([loaded.plan.planned()])
    store.claim(key, owner, lease_seconds=LEASE_SECONDS, retry_failed=True)
    store.record_environment(key, environment)
    store.settle(key, owner, result=result, artifacts=[artifact])


def _result(evaluation: Evaluation) -> RunResult:
    selected = Selected(epoch=0, test=evaluation.metrics, val=None)
    return RunResult(
        state=RunState.FINISHED,
        epochs=0,
        selected={rule.value: selected for rule in (Selection.LAST, Selection.BEST_TEST)},
        facts=ModelFacts(
            student_parameters=evaluation.parameters,
            shipped_parameters=evaluation.parameters,
            teacher_parameters=None,
            projector_parameters=0,
            untrained=(),
        ),
        teacher_test_top1=None,
        train_seconds=0.0,
        images_per_second=0.0,
    )
