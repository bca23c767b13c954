"""Any finished run may teach: with its student, or with all that it ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.assembly.architecture import build_architecture
from kdctl.assembly.data import Sizes
from kdctl.assembly.teachers import TeacherLibrary, load_teacher
from kdctl.assembly.workspace import Workspace, open_workspace
from kdctl.engine.fold import largest_error
from kdctl.engine.frozen import frozen_copy
from kdctl.errors import KdctlError, RecipeError
from kdctl.recipe.engine_options import EngineOptions
from kdctl.records import RunState
from kdctl.workflows.loaded_model import load_as_trained

RecipeWriter = Callable[..., Path]

JOINT = "method = {name = 'simkd', ce_weight = 1.0, ships = 'own'}"
REUSED = "method = {name = 'simkd', reuse_from = 0.5}"
PROJECTED = "method = {name = 'sequential', feature = 'projected'}"
OTHER = "data = {name = 'digits', size = 16, samples_per_class = 8}"


@pytest.mark.extended
def test_a_student_with_its_own_classifier_can_teach_whatever_method_trained_it(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    (joint,) = workflows.train(recipe(JOINT), workspace)
    file = workspace.folder(joint.key).path / "last.pt"
    for teacher in (f"{{run = '{joint.key}'}}", f"{{checkpoint = '{file}'}}"):
        (taught,) = workflows.train(recipe("method = 'kd'", teacher=f"teacher = {teacher}"), workspace)
        assert taught.state is RunState.FINISHED
        assert taught.plan["teachers"][0]["name"] == "resnet3"


@pytest.mark.parametrize("body", ["method = 'simkd'", REUSED, PROJECTED])
def test_what_a_run_ships_teaches_with_the_taps_it_has(
    workspace: Workspace, recipe: RecipeWriter, body: str
) -> None:
    """The chain of taps gives what the shipped model gives; folded copies and precisions work with it."""
    (run,) = workflows.train(recipe(body, schedule="schedule = {name = 'constant', epochs = 2}"), workspace)
    teacher = TeacherLibrary(workspace).by_run(run.key)
    assert teacher.name == f"resnet3 ({run.plan['method']['name']})"
    data = workspace.library.select(load_as_trained(run.key, workspace).plan.data)
    backbone = load_teacher(teacher, data, workspace).backbone
    shipped = load_as_trained(run.key, workspace).model.eval()
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        seen = backbone.observe(images, list(backbone.tap_shapes))
        assert torch.equal(seen.require_logits(), shipped(images))
    assert {tap: tuple(value.shape[1:]) for tap, value in seen.taps.items()} == backbone.tap_shapes
    assert (backbone.final_tap, list(backbone.tap_shapes)[-1]) == (backbone.stage_taps[-1], "pooled")
    assert len(backbone.tap_shapes[backbone.final_tap]) == 3
    assert run.result is not None
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    assert parameters == run.result.facts.shipped_parameters
    copy = frozen_copy(backbone, EngineOptions(), images)
    assert any(isinstance(module, torch.nn.Identity) for module in copy.modules())
    assert largest_error(copy, backbone, images) < 1e-4
    frozen_copy(backbone, EngineOptions(teacher_precision="bf16"), images)


@pytest.mark.slow
def test_a_run_taught_by_a_run_that_ships_another_head_can_teach(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (first,) = workflows.train(recipe("method = 'simkd'"), workspace)
    file = workspace.folder(first.key).path / "last.pt"
    runs = {}
    for name, teacher in (("run", f"{{run = '{first.key}'}}"), ("file", f"{{checkpoint = '{file}'}}")):
        grid = "[grid]\nmethod = ['kd', 'simkd', 'at', 'srrl']"
        path = recipe(grid, name=f"name = '{name}'", teacher=f"teacher = {teacher}")
        plan = workflows.plan_sweep(path, workspace)
        assert plan.runs[0].pair() == "resnet3 <- resnet3 (simkd)"
        outcome = workflows.sweep(path, workspace)
        assert [run.state for run in outcome.runs] == [RunState.FINISHED] * 4
        runs[name] = {run.plan["method"]["name"]: run for run in outcome.runs}
    assert runs["run"]["kd"].key != runs["file"]["kd"].key
    nested = runs["file"]["simkd"]
    # Its folder says all that it takes to build the model again: its teacher's own is not needed.
    elsewhere = tmp_path / "elsewhere.pt"
    (workspace.folder(nested.key).path / "last.pt").rename(elsewhere)
    with open_workspace(tmp_path / "nothing", workspace.library, num_threads=1) as empty:
        evaluation = workflows.evaluate(elsewhere, empty)
    assert nested.result is not None
    assert evaluation.metrics.top1 == nested.result.selected["last"].test.top1
    assert evaluation.parameters == nested.result.facts.shipped_parameters
    (taught,) = workflows.train(
        recipe("method = 'kd'", teacher=f"teacher = {{checkpoint = '{elsewhere}'}}"), workspace
    )
    assert taught.state is RunState.FINISHED
    workflows.export_model(elsewhere, tmp_path / "nested.pt2", workspace)
    assert "resnet3 (simkd)" in str(
        workflows.report(workspace, sweep="file", rows=["teacher", "method"]).records()
    )


def test_what_a_plugin_ships_without_taps_teaches_methods_that_read_logits(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "twice.py").write_text(TWICE)
    plugins = {"plugins": "plugins = ['twice.py']"}
    (run,) = workflows.train(recipe("method = 'twice'", **plugins), workspace)
    teacher = f"teacher = {{run = '{run.key}'}}"
    (taught,) = workflows.train(recipe("method = 'kd'", teacher=teacher, **plugins), workspace)
    assert taught.state is RunState.FINISHED
    for method in ("at", "simkd", "crd", "sp"):
        with pytest.raises(RecipeError, match="shows nothing but its logits") as caught:
            workflows.plan_training(recipe(f"method = '{method}'", teacher=teacher, **plugins), workspace)
        assert "compares logits" in caught.value.hint


def test_a_teacher_of_other_data_is_refused_unless_it_is_meant(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    (run,) = workflows.train(recipe("method = 'ce'", teacher="", data=OTHER), workspace)
    file = workspace.folder(run.key).path / "last.pt"
    for named in (f"run = '{run.key}'", f"checkpoint = '{file}'"):
        with pytest.raises(
            RecipeError, match=r"other images or labels of 'digits' \(size = 16, not 8\)"
        ) as caught:
            workflows.plan_training(recipe("method = 'kd'", teacher=f"teacher = {{{named}}}"), workspace)
        assert "-o teacher.other_data=true" in caught.value.hint
        assert "train on the teacher's" not in caught.value.hint
    elsewhere = recipe("method = 'kd'", teacher=f"teacher.run = '{run.key}'", data="data = 'cifar100'")
    with pytest.raises(RecipeError, match="trained on 'digits', not 'cifar100'") as caught:
        workflows.plan_training(elsewhere, workspace)
    assert "or train on the teacher's: -o data=digits" in caught.value.hint
    meant = recipe("method = 'kd'", teacher=f"teacher = {{run = '{run.key}', other_data = true}}")
    (taught,) = workflows.train(meant, workspace)
    assert taught.state is RunState.FINISHED
    assert "other_data" not in str(taught.plan)


def test_a_teacher_of_other_classes_is_refused_by_the_plan_even_if_other_data_are_meant(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    five = OTHER.replace("size = 16", "size = 16, num_classes = 5")
    (run,) = workflows.train(recipe("method = 'ce'", teacher="", data=five), workspace)
    file = workspace.folder(run.key).path / "last.pt"
    for named in (f"run = '{run.key}'", f"checkpoint = '{file}'"):
        meant = recipe("method = 'kd'", teacher=f"teacher = {{{named}, other_data = true}}")
        with pytest.raises(RecipeError, match="tells 5 classes apart, the data have 10"):
            workflows.plan_training(meant, workspace)


def test_a_model_that_was_altered_after_its_run_neither_teaches_nor_is_evaluated_nor_gone_on_from(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    (run,) = workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    file = workspace.folder(run.key).path / "last.pt"
    content = torch.load(file)
    content["weights"]["classifier.bias"] += 0.001
    torch.save(content, file)
    altered = "is not the file it was: its SHA-256 differs"
    for source in (run.key, str(file)):
        with pytest.raises(KdctlError, match=altered):
            load_as_trained(source, workspace)
        student = f"student = {{name = 'resnet3', weights = '{source}'}}"
        with pytest.raises(KdctlError, match=altered):
            workflows.plan_training(recipe("method = 'ce'", teacher="", student=student), workspace)
    with pytest.raises(KdctlError, match=altered):
        workflows.plan_training(
            recipe("method = 'kd'", teacher=f"teacher = {{checkpoint = '{file}'}}"), workspace
        )
    with pytest.raises(KdctlError, match=altered):
        workflows.train(recipe("method = 'kd'", teacher=f"teacher = {{run = '{run.key}'}}"), workspace)
    copy = workspace.runs.parent / "mine.pt"
    file.rename(copy)  # what somebody made of it, under a name of its own, is a model like any other
    assert load_as_trained(copy, workspace).sha256


def test_a_teacher_that_saw_fewer_images_of_the_same_classes_is_welcome(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    fewer = "data = {name = 'digits', size = 8, samples_per_class = 4, num_classes = 10}"
    (run,) = workflows.train(recipe("method = 'ce'", teacher="", data=fewer), workspace)
    assert workflows.plan_training(recipe("method = 'kd'", teacher=f"teacher.run = '{run.key}'"), workspace)


def test_an_architecture_is_built_by_its_name() -> None:
    assert build_architecture("resnet3", Sizes(num_classes=7, input_size=8)).num_classes == 7


TWICE = """
from torch import nn

from kdctl.methods.kd import KnowledgeDistillation
from kdctl.protocols.distiller import methods


class Doubled(nn.Module):
    def __init__(self, student):
        super().__init__()
        self.student = student

    def forward(self, images):
        return 2 * self.student(images)


@methods.register("twice")
class Twice(KnowledgeDistillation):
    "Ships a model that nobody can look into."

    @classmethod
    def ships_student(cls, config):
        return False

    def inference_model(self):
        return Doubled(self.student)
"""
