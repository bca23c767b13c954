"""Files made of the model that a run would ship: for deployment, and for figures."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from kdctl.assembly.workspace import Workspace
from kdctl.engine.checkpoint import MisfitCheckpointError, write_model
from kdctl.engine.evaluate import pooled_features
from kdctl.engine.exported_program import check_target, exported
from kdctl.errors import UsageError
from kdctl.records import SHIPPED, Selection
from kdctl.report.figure import Features
from kdctl.store.atomic import write_atomically
from kdctl.workflows.loaded_model import LoadedModel, load_as_trained, rebuilt
from kdctl.workflows.plots import require_free

CHECKPOINT = ".pt"
FEATURES = ".npz"


def export_model(
    source: str | Path,
    target: Path | str,
    workspace: Workspace,
    *,
    selection: Selection | str = Selection.LAST,
    model: str = SHIPPED,
) -> None:
    """Write the model that a run or a checkpoint would ship as ONNX (`.onnx`) or a torch program (`.pt2`).

    With `model`, the other one of the run that has this name.

    The file takes normalised images [B, 3, H, W], any B, and gives logits [B, K]. It is read back and
    must predict the same before it is kept.

    Raises:
        KdctlError: no such run or format, missing packages, or the file predicts otherwise.
    """
    target = Path(target)
    check_target(target)
    loaded = load_as_trained(source, workspace, selection, part=model)
    facts = {
        "run": loaded.plan.key,
        "model": loaded.name,
        "checkpoint_sha256": loaded.sha256,
        "classes": loaded.data.class_names,
        "input_size": loaded.sizes.input_size,
        "mean": loaded.data.mean,
        "std": loaded.data.std,
    }
    write_atomically(target, exported(loaded.model, loaded.sizes.input_size, target, facts))


def save_model(loaded: LoadedModel, target: Path | str, *, force: bool = False) -> None:
    """Write a loaded model as it is now, pruned or trained further, as a checkpoint of kdctl.

    `kdctl eval`, `--teacher` and `student.weights` take the file as they take those of runs: it says that
    it is this run's model, on this run's data. The run itself stays as it was.

    Args:
        loaded: what `load_model` gave; its `model` is written.
        target: a `.pt` file.
        force: write over a file that is there.

    Raises:
        KdctlError: there is a file, or it cannot be written; or the model has other tensors than the run's,
            so that nobody could load them.
    """
    target = Path(target)
    if target.suffix != CHECKPOINT:
        raise UsageError(f"{target}: models are saved as {CHECKPOINT} files.", f"name it *{CHECKPOINT}.")
    require_free([target], force=force)
    try:
        weights = loaded.model.state_dict()
        rebuilt(loaded.plan, weights, f"the model of run {loaded.plan.key}", loaded.data, loaded.part)
    except MisfitCheckpointError as error:
        raise UsageError(
            error.problem,
            "masks of torch.nn.utils.prune become weights by its remove(); a model of other layers or widths "
            "is kept by torch.save.",
        ) from error
    write_model(target, loaded.model, loaded.plan.tree())


def save_features(
    source: str | Path,
    target: Path | str,
    workspace: Workspace,
    *,
    split: str = "test",
    selection: Selection | str = Selection.LAST,
    model: str = SHIPPED,
) -> None:
    """Write the pooled features of a split, of the shipped model and of its first teacher, to an `.npz` file.

    With `model`, those of the other one of the run that has this name.

    Arrays: `student` [N, D] (after the projector, where one is shipped), `teacher` [N, D'] unless there is
    none, `labels` [N], `index` [N] (places in the canonical order of the split) and `classes`.

    Raises:
        KdctlError: no such run or split, or another suffix.
    """
    target = Path(target)
    if target.suffix != FEATURES:
        raise UsageError(f"{target}: features are written to {FEATURES} files.", f"name it *{FEATURES}.")
    features = features_of(source, workspace, split=split, selection=selection, model=model)
    arrays: dict[str, Any] = {
        "labels": features.labels,
        "index": np.arange(len(features.labels)),
        "classes": np.array(features.class_names),
        **features.vectors,
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(target, buffer.getvalue())


def features_of(
    source: str | Path,
    workspace: Workspace,
    *,
    split: str = "test",
    selection: Selection | str = Selection.LAST,
    model: str = SHIPPED,
) -> Features:
    """Return the pooled features of a split, of the shipped model and of its first teacher if it has one.

    With `model`, those of the other one of the run that has this name, as `student`.

    Raises:
        KdctlError: no such run or split, or the model is gone.
    """
    loaded = load_as_trained(source, workspace, selection, part=model)
    teacher = loaded.teacher()
    models = {"student": loaded.model} if teacher is None else {"student": loaded.model, "teacher": teacher}
    with contextlib.closing(loaded.images(split)) as images:
        return Features(
            labels=images.labels.cpu().numpy(),
            class_names=loaded.data.class_names,
            vectors={
                name: pooled_features(model, images, loaded.compute).numpy() for name, model in models.items()
            },
        )
