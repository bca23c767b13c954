from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, UsageError
from kdctl.records import RunState, StoredRun
from kdctl.workflows.loaded_model import load_model

RecipeWriter = Callable[..., Path]


@pytest.fixture
def taught(workspace: Workspace, recipe: RecipeWriter) -> StoredRun:
    """A student of SimKD: it ships with a projector and its teacher's classifier."""
    (run,) = workflows.train(recipe(), workspace)
    return run


@pytest.mark.extended
def test_what_is_exported_is_what_would_be_shipped(
    workspace: Workspace, taught: StoredRun, tmp_path: Path
) -> None:
    workflows.export_model(taught.key, tmp_path / "model.pt2", workspace)
    program = torch.export.load(BytesIO((tmp_path / "model.pt2").read_bytes())).module()
    loaded = load_model(taught.key, workspace)
    images = next(loaded.images("test").images())
    with torch.no_grad():
        torch.testing.assert_close(program(images), loaded.model.eval()(images))


def test_a_model_in_python_predicts_what_was_stored(workspace: Workspace, taught: StoredRun) -> None:
    loaded = workflows.load_model(taught.key, workspace)
    assert not loaded.model.training
    right = total = 0
    with torch.no_grad():
        for images, labels in loaded.batches("test"):
            right += int((loaded.model(images).argmax(dim=1) == labels).sum())
            total += len(labels)
    assert total == len(loaded.data.test)
    stored = workflows.evaluate(taught.key, workspace).metrics.top1
    assert 100 * right / total == pytest.approx(stored)
    with pytest.raises(UsageError, match="no split 'tests'"):
        next(loaded.batches("tests"))


def test_a_model_in_python_can_be_pruned_by_torch(workspace: Workspace, taught: StoredRun) -> None:
    model = workflows.load_model(taught.key, workspace).model
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        prune.l1_unstructured(module, "weight", amount=0.5)
    assert all((module.weight == 0).float().mean() >= 0.4 for module in convolutions)


@pytest.mark.extended
def test_a_model_that_was_pruned_in_python_can_be_saved_evaluated_and_taught_from(
    workspace: Workspace, taught: StoredRun, recipe: RecipeWriter, tmp_path: Path
) -> None:
    loaded = workflows.load_model(taught.key, workspace)
    path = tmp_path / "pruned.pt"
    with torch.no_grad():
        convolution = next(module for module in loaded.model.modules() if isinstance(module, nn.Conv2d))
        prune.l1_unstructured(convolution, "weight", amount=0.5)
        with pytest.raises(UsageError, match="1 missing, 2 unknown") as caught:
            workflows.save_model(loaded, path)
        assert "remove()" in caught.value.hint
        assert not path.exists()
        prune.remove(convolution, "weight")
        predicted = [loaded.model(images).argmax(dim=1) for images, _ in loaded.batches("test")]
    workflows.save_model(loaded, path)
    with pytest.raises(KdctlError, match="is there already"):
        workflows.save_model(loaded, path)
    again = workflows.load_model(path, workspace)
    assert again.rule is None  # not what the run has stored
    weight = next(module for module in again.model.modules() if isinstance(module, nn.Conv2d)).weight
    assert (weight == 0).float().mean() >= 0.4
    labels = torch.cat([labels for _, labels in loaded.batches("test")])
    right = (torch.cat(predicted) == labels).float().mean().item()
    assert workflows.evaluate(path, workspace).metrics.top1 == pytest.approx(100 * right)
    (student,) = workflows.train(
        recipe("method = 'kd'", teacher=f"teacher = {{checkpoint = '{path}'}}"), workspace
    )
    assert student.state is RunState.FINISHED


def test_a_file_of_another_format_is_refused_before_anything_is_read(
    workspace: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no format of models"):
        workflows.export_model("no such run", tmp_path / "model.pb", workspace)
    with pytest.raises(UsageError, match=r"written to \.npz files"):
        workflows.save_features("no such run", tmp_path / "features.csv", workspace)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_features_of_model_and_teacher_lead_to_their_logits(
    workspace: Workspace, taught: StoredRun, tmp_path: Path
) -> None:
    workflows.save_features(taught.key, tmp_path / "features.npz", workspace)
    stored = np.load(tmp_path / "features.npz")
    loaded = load_model(taught.key, workspace)
    images = loaded.images("test")
    teacher = loaded.teacher()
    assert teacher is not None
    assert stored["student"].shape == stored["teacher"].shape == (len(images), teacher.classifier.in_features)
    assert stored["labels"].tolist() == images.labels.tolist()
    assert stored["index"].tolist() == list(range(len(images)))
    assert stored["classes"].tolist() == list("0123456789")
    batch = next(images.images())
    with torch.no_grad():
        for name, model in (("student", loaded.model.eval()), ("teacher", teacher)):
            logits = teacher.classifier(torch.from_numpy(stored[name][: len(batch)]))
            torch.testing.assert_close(logits, model(batch), rtol=1e-4, atol=1e-4)


def test_a_student_without_a_teacher_has_features_of_its_own(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (run,) = workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    workflows.save_features(run.key, tmp_path / "features.npz", workspace)
    assert set(np.load(tmp_path / "features.npz")) == {"student", "labels", "index", "classes"}


def test_a_place_that_cannot_be_written_is_named(
    workspace: Workspace, taught: StoredRun, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KdctlError, match=r"features\.npz cannot be written"):
        workflows.save_features(taught.key, tmp_path / "file" / "features.npz", workspace)
