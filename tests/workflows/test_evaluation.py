from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.engine.evaluate import predict
from kdctl.errors import KdctlError, UsageError
from kdctl.records import Selection, StoredRun
from kdctl.workflows.loaded_model import load_model

RecipeWriter = Callable[..., Path]


@pytest.fixture
def taught(workspace: Workspace, recipe: RecipeWriter) -> StoredRun:
    """A student of SimKD, two epochs long, with its teacher."""
    path = recipe(schedule="schedule = {name = 'constant', epochs = 2}")
    (run,) = workflows.train(path, workspace)
    return run


@pytest.mark.extended
def test_a_run_is_found_by_the_start_of_its_key_and_evaluates_as_in_training(
    workspace: Workspace, taught: StoredRun
) -> None:
    evaluation = workflows.evaluate(taught.key[:5], workspace)
    assert taught.result is not None
    assert evaluation.run_key == taught.key
    assert evaluation.metrics == taught.result.selected["last"].test
    assert evaluation.parameters == taught.result.facts.shipped_parameters
    assert workspace.store.evaluations(taught.key) == [evaluation]
    assert workspace.folder(taught.key).evaluations() == [evaluation]


@pytest.mark.extended
def test_the_figures_are_those_of_the_shipped_model(workspace: Workspace, taught: StoredRun) -> None:
    evaluation = workflows.evaluate(taught.key, workspace)
    assert taught.result is not None
    assert evaluation.pruning_percent == taught.result.facts.pruning_percent
    shares = list(evaluation.per_class_top1.values())
    assert list(evaluation.per_class_top1) == list("0123456789")
    assert all(share is not None and 0 <= share <= 100 for share in shares)
    assert evaluation.teacher_kl is not None
    assert evaluation.teacher_kl > 0
    assert evaluation.calibration_error is not None
    assert evaluation.flops == 2 * (evaluation.multiply_adds or 0) > 0
    # Batch norm keeps means and variances besides its parameters, 4 bytes each, and an 8-byte counter.
    assert evaluation.size_mb is not None
    assert 4e-6 * evaluation.parameters < evaluation.size_mb < 4.4e-6 * evaluation.parameters
    assert [(item.batch_size, item.device, item.num_threads) for item in evaluation.latency] == [
        (1, "cpu", 1),
        (256, "cpu", 1),
    ]
    assert all(item.ms_per_image > 0 for item in evaluation.latency)


@pytest.mark.extended
def test_the_best_epoch_can_be_chosen(workspace: Workspace, taught: StoredRun) -> None:
    evaluation = workflows.evaluate(taught.key, workspace, selection=Selection.BEST_TEST)
    assert taught.result is not None
    assert evaluation.selection == "best-test"
    assert evaluation.metrics == taught.result.selected["best-test"].test


@pytest.mark.extended
def test_a_checkpoint_file_of_a_known_run_is_stored_with_it(workspace: Workspace, taught: StoredRun) -> None:
    file = workspace.folder(taught.key).path / "last.pt"
    assert workflows.evaluate(file, workspace) == workflows.evaluate(taught.key, workspace)


@pytest.mark.extended
def test_a_copy_with_other_weights_is_not_stored_as_the_run(
    workspace: Workspace, taught: StoredRun, tmp_path: Path
) -> None:
    content = torch.load(workspace.folder(taught.key).path / "last.pt", weights_only=True)
    name = next(name for name, value in content["weights"].items() if value.dim() == 4)
    content["weights"][name] = content["weights"][name] * 0.5
    torch.save(content, tmp_path / "halved.pt")
    assert workflows.evaluate(tmp_path / "halved.pt", workspace).selection == "halved"
    assert workspace.store.evaluations(taught.key) == []


@pytest.mark.extended
def test_a_shipped_model_needs_no_teacher_weights(
    workspace: Workspace, taught: StoredRun, caplog: pytest.LogCaptureFixture
) -> None:
    before = workflows.evaluate(taught.key, workspace)
    assert before.teacher_agreement is not None
    assert not caplog.messages
    shutil.rmtree(workspace.folder(taught.plan["teachers"][0]["run"]).path)
    after = workflows.evaluate(taught.key, workspace)
    assert after.metrics == before.metrics
    assert after.teacher_agreement is None
    assert caplog.messages[0].startswith("nothing is compared with the teacher resnet4: ")


@pytest.mark.extended
def test_several_teachers_are_matched_one_by_one_and_as_a_mean(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    teachers = "teacher = ['resnet4', { name = 'resnet4', seed = 1 }, 'resnet6']"
    (run,) = workflows.train(recipe("method = 'aver'", teacher=teachers), workspace)
    evaluation = workflows.evaluate(run.key, workspace)
    assert [(item.place, item.teacher) for item in evaluation.teachers] == [
        *((1, "resnet4"), (2, "resnet4"), (3, "resnet6")),
    ]
    loaded = load_model(run.key, workspace)
    images = loaded.images("test")
    said = torch.stack([predict(one, images, loaded.compute) for one in loaded.teachers() if one])
    own = predict(loaded.model, images, loaded.compute).double().log_softmax(dim=1)
    mean = said.double().softmax(dim=2).mean(dim=0)
    agrees = (own.argmax(dim=1) == mean.argmax(dim=1)).double().mean().item()
    assert evaluation.teacher_agreement == pytest.approx(100 * agrees)
    divergence = (mean * (mean.log() - own)).sum(dim=1).mean().item()
    assert evaluation.teacher_kl == pytest.approx(divergence, rel=1e-4)
    alone = (own.argmax(dim=1) == said[2].argmax(dim=1)).double().mean().item()
    assert evaluation.teachers[2].agreement == pytest.approx(100 * alone)
    assert workspace.store.evaluations(run.key) == [evaluation]

    shutil.rmtree(workspace.folder(run.plan["teachers"][1]["run"]).path)
    after = workflows.evaluate(run.key, workspace)
    assert after.teacher_agreement is None
    assert after.teachers == (evaluation.teachers[0], evaluation.teachers[2])


def test_splits_that_are_not_there_are_refused(workspace: Workspace, taught: StoredRun) -> None:
    with pytest.raises(UsageError, match="no validation split"):
        workflows.evaluate(taught.key, workspace, split="val")
    with pytest.raises(UsageError, match="no split 'tset'"):
        workflows.evaluate(taught.key, workspace, split="tset")
    with pytest.raises(KdctlError, match=r"no best-val\.pt"):
        workflows.evaluate(taught.key, workspace, selection=Selection.BEST_VAL)


@pytest.mark.extended
def test_a_validation_split_is_evaluated_and_selected_on(workspace: Workspace, recipe: RecipeWriter) -> None:
    data = "data = {name = 'digits', size = 8, samples_per_class = 8, val_fraction = 0.25}"
    (run,) = workflows.train(recipe("method = 'ce'", data=data, teacher=""), workspace)
    evaluation = workflows.evaluate(run.key, workspace, split="val", selection=Selection.BEST_VAL)
    assert run.result is not None
    assert evaluation.metrics == run.result.selected["best-val"].val


class _Pwned:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("pwned", "w"))


def test_files_that_are_no_checkpoints_are_refused_and_never_run(
    workspace: Workspace, taught: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": _Pwned()}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(_Pwned()))
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "foreign.pt")
    whole = (workspace.folder(taught.key).path / "last.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("evil.pt", "raw.pt", "foreign.pt", "cut.pt"):
        with pytest.raises(KdctlError, match=name):
            workflows.evaluate(tmp_path / name, workspace)
    assert not (tmp_path / "pwned").exists()


def test_weights_of_another_architecture_are_refused(
    workspace: Workspace, taught: StoredRun, tmp_path: Path
) -> None:
    content = torch.load(workspace.folder(taught.key).path / "last.pt", weights_only=True)
    content["plan"] = content["plan"].replace("resnet3", "resnet4")
    torch.save(content, tmp_path / "swapped.pt")
    with pytest.raises(KdctlError, match="another architecture"):
        workflows.evaluate(tmp_path / "swapped.pt", workspace)


def test_data_that_changed_since_the_training_are_refused(
    workspace: Workspace, taught: StoredRun, tmp_path: Path
) -> None:
    content = torch.load(workspace.folder(taught.key).path / "last.pt", weights_only=True)
    content["plan"] = content["plan"].replace(taught.plan["data_fingerprint"], "0" * 64)
    torch.save(content, tmp_path / "elsewhere.pt")
    with pytest.raises(KdctlError, match="not those that the run was trained on"):
        workflows.evaluate(tmp_path / "elsewhere.pt", workspace)


def test_a_word_that_names_nothing_is_no_run(workspace: Workspace) -> None:
    with pytest.raises(KdctlError, match="no run 'abcdef'"):
        workflows.evaluate("abcdef", workspace)
