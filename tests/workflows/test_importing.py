from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdctl import workflows
from kdctl.assembly.teachers import TeacherLibrary, load_teacher
from kdctl.assembly.workspace import Workspace
from kdctl.engine.batches import EvaluationSet, Normalisation
from kdctl.engine.checkpoint import MisfitCheckpointError
from kdctl.errors import KdctlError, RecipeError, UsageError
from kdctl.execution.slurm_executor import SlurmConfig
from kdctl.protocols.backbone import Backbone, models
from kdctl.recipe.imported import IMAGENET, InputNormalisation
from kdctl.records import RunState, StoredRun
from kdctl.workflows.importing import WeightsFile
from kdctl.workflows.loaded_model import load_model

DIGITS = ["data.size=8", "data.samples_per_class=8"]
CPU = torch.device("cpu")

RecipeWriter = Callable[..., Path]
Save = Callable[..., WeightsFile]


@pytest.fixture
def backbone() -> Backbone:
    """Return a model as somebody else trained it: its images were normalised as ImageNet's are."""
    torch.manual_seed(0)
    return models.get("resnet8").item(10, 8).eval()


@pytest.fixture
def save(tmp_path: Path, publish: Callable[..., dict[str, Tensor]]) -> Save:
    """Write a model to a file as a public repository would."""

    def write(name: str, backbone: Backbone, **facts: object) -> WeightsFile:
        path = tmp_path / f"{name}.pth"
        torch.save({"model": publish(name, backbone), "epoch": 240}, path)
        return WeightsFile(path=path, **{"model": name, "dataset": "digits", "overrides": DIGITS, **facts})  # type: ignore[arg-type]

    return write


def import_weights(file: WeightsFile, workspace: Workspace) -> StoredRun:
    return workflows.import_weights(file, workspace)[0]


def images_of(run: StoredRun, workspace: Workspace, normalisation: InputNormalisation | None) -> Tensor:
    """Return the test images as the data, or somebody else, would normalise them."""
    data = load_model(run.key, workspace).data
    mean, std = (normalisation.mean, normalisation.std) if normalisation else (data.mean, data.std)
    (images,) = EvaluationSet(data.test, Normalisation(mean, std, CPU), CPU).images()
    return images


@pytest.mark.extended
def test_weights_become_a_finished_run_with_their_origin(
    workspace: Workspace, save: Save, backbone: Backbone
) -> None:
    file = save("resnet8", backbone, source="https://example.org/resnet8.pth")
    run, evaluation = workflows.import_weights(file, workspace)
    assert run.state is RunState.FINISHED
    assert run.plan["student"] == {"name": "resnet8"}
    assert run.plan["method"]["source"] == "https://example.org/resnet8.pth"
    assert len(run.plan["method"]["weights_sha256"]) == 64
    assert run.result is not None
    assert run.result.epochs == 0
    assert run.result.selected["last"].test == evaluation.metrics
    assert workflows.evaluate(run.key, workspace) == evaluation
    assert workspace.folder(run.key).plan().plan == run.plan


@pytest.mark.extended
def test_the_model_is_recognised_or_may_be_named_in_any_spelling(
    workspace: Workspace, save: Save, backbone: Backbone
) -> None:
    recognised = import_weights(save("resnet8", backbone, model=None), workspace)
    named = import_weights(save("resnet8", backbone, model="ResNet-8"), workspace)
    assert recognised.key == named.key
    assert [run.key for run in workspace.store.runs()] == [named.key]


@pytest.mark.extended
def test_other_weights_or_another_normalisation_are_another_run(
    workspace: Workspace, save: Save, backbone: Backbone
) -> None:
    first = import_weights(save("resnet8", backbone), workspace)
    normalised = import_weights(save("resnet8", backbone, normalisation=IMAGENET), workspace)
    with torch.no_grad():
        backbone.classifier.bias += 1.0
    other = import_weights(save("resnet8", backbone), workspace)
    assert len({first.key, normalised.key, other.key}) == 3


@pytest.mark.parametrize("normalisation", [None, IMAGENET])
@pytest.mark.extended
def test_a_model_sees_images_as_it_was_trained_on_them(
    workspace: Workspace, save: Save, backbone: Backbone, normalisation: InputNormalisation | None
) -> None:
    run = import_weights(save("resnet8", backbone, normalisation=normalisation), workspace)
    as_the_data_are = images_of(run, workspace, None)
    loaded = load_model(run.key, workspace)
    teacher = load_teacher(TeacherLibrary(workspace).by_run(run.key), loaded.data, workspace)
    with torch.no_grad():
        expected = backbone(images_of(run, workspace, normalisation))
        evaluated = loaded.model.eval()(as_the_data_are)
        taught = teacher.backbone.observe(as_the_data_are, ["stage3"])
    torch.testing.assert_close(evaluated, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(taught.require_logits(), expected, rtol=1e-3, atol=1e-3)
    assert teacher.backbone.state_dict().keys() == backbone.state_dict().keys()
    assert teacher.backbone.tap_shapes == backbone.tap_shapes


@pytest.mark.extended
def test_an_imported_run_teaches_by_its_key_or_its_file(
    workspace: Workspace, recipe: RecipeWriter, save: Save, backbone: Backbone
) -> None:
    teacher = import_weights(save("resnet8", backbone, normalisation=IMAGENET), workspace)
    (by_key,) = workflows.train(recipe(teacher=f"teacher = {{run = '{teacher.key}'}}"), workspace)
    file = workspace.folder(teacher.key).path / "last.pt"
    (by_file,) = workflows.train(recipe(teacher=f"teacher = {{checkpoint = '{file}'}}"), workspace)
    assert by_key.result is not None
    assert by_file.result is not None
    assert teacher.result is not None
    assert by_key.result.teacher_test_top1 == teacher.result.selected["last"].test.top1
    assert by_key.result.selected == by_file.result.selected
    assert workflows.evaluate(by_key.key, workspace).teacher_agreement is not None


@pytest.mark.extended
def test_how_well_it_teaches_depends_on_its_normalisation(
    workspace: Workspace, recipe: RecipeWriter, save: Save, backbone: Backbone
) -> None:
    results = []
    for normalisation in (None, IMAGENET):
        teacher = import_weights(save("resnet8", backbone, normalisation=normalisation), workspace)
        (run,) = workflows.train(recipe(teacher=f"teacher = {{run = '{teacher.key}'}}"), workspace)
        results.append(workspace.store.epochs(run.key)[0].train_loss)
    assert results[0] != results[1]


@pytest.mark.extended
def test_imported_runs_do_not_disturb_an_estimate_or_a_report(
    workspace: Workspace, recipe: RecipeWriter, save: Save, backbone: Backbone
) -> None:
    import_weights(save("resnet8", backbone), workspace)
    plan = workflows.plan_sweep(recipe("method = 'ce'", student="student = 'resnet8'", teacher=""), workspace)
    estimate = workflows.estimate_sweep(plan, workspace)
    assert estimate is not None
    assert estimate.basis.startswith("operations")  # nobody trained the imported run, so it tells no rate
    table = workflows.report(workspace)
    assert [record["method"] for record in table.records() if "method" in record] == ["imported"]


@pytest.mark.extended
def test_weights_that_are_imported_on_a_submit_host_say_nothing_of_the_devices_that_jobs_have(
    workspace: Workspace, recipe: RecipeWriter, save: Save, backbone: Backbone
) -> None:
    (trained,) = workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    assert trained.environment is not None
    elsewhere = dataclasses.replace(trained.environment, device="a fast GPU")
    workspace.store.record_environment(trained.key, elsewhere)
    imported = import_weights(save("resnet8", backbone), workspace)
    assert imported.updated > trained.updated
    plan = workflows.plan_sweep(recipe("method = 'ce'\nseeds = [7]", teacher="", seeds=""), workspace)
    estimate = workflows.estimate_sweep(plan, workspace, executor=SlurmConfig())
    assert estimate is not None
    assert estimate.basis == "earlier runs"


@pytest.mark.extended
def test_an_interrupted_import_can_be_repeated(
    workspace: Workspace, save: Save, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save("resnet8", backbone)
    with monkeypatch.context() as patch:
        patch.setattr("kdctl.workflows.importing.evaluate_model", _stop)
        with pytest.raises(KeyboardInterrupt):
            import_weights(file, workspace)
    assert workspace.store.runs() == []
    assert import_weights(file, workspace).state is RunState.FINISHED


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_weights_for_other_classes_than_the_data_have_are_refused(
    workspace: Workspace, save: Save, backbone: Backbone
) -> None:
    file = save("resnet8", backbone, overrides=["data.num_classes=5"])
    with pytest.raises(KdctlError, match="tell 10 classes apart, the data 'digits' have 5"):
        import_weights(file, workspace)
    assert workspace.store.runs() == []


@pytest.mark.extended
def test_weights_of_another_model_are_refused_with_the_one_that_fits(
    workspace: Workspace, save: Save, backbone: Backbone
) -> None:
    with pytest.raises(MisfitCheckpointError, match=r"layer1\.1\.conv1\.weight is missing") as caught:
        import_weights(save("resnet8", backbone, model="resnet14"), workspace)
    assert caught.value.hint == "it fits --model resnet8."


@pytest.mark.extended
def test_weights_that_fit_no_model_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    torch.save({"a.b.weight": torch.zeros(2, 2), "c.d.weight": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(KdctlError, match="fits no model") as caught:
        import_weights(WeightsFile(path=tmp_path / "odd.pth", dataset="digits"), workspace)
    assert "--model" in caught.value.hint


def test_only_options_of_the_data_can_be_set(workspace: Workspace, save: Save, backbone: Backbone) -> None:
    file = save("resnet8", backbone, overrides=["data.sise=8", "optimizer.learning_rate=1"])
    with pytest.raises(RecipeError) as caught:
        import_weights(file, workspace)
    assert "has no option 'sise'" in caught.value.problem
    assert "optimizer has no part in an import" in caught.value.problem


@pytest.mark.extended
def test_a_public_file_named_as_a_teacher_is_refused_with_the_way_to_import_it(
    workspace: Workspace, recipe: RecipeWriter, save: Save, backbone: Backbone
) -> None:
    file = save("resnet8", backbone)
    with pytest.raises(UsageError, match="holds weights of resnet8 that kdctl did not train") as caught:
        workflows.train(recipe(teacher=f"teacher = {{checkpoint = '{file.path}'}}"), workspace)
    assert f"kdctl import-weights {file.path} --model resnet8" in caught.value.hint
