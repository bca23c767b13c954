"""Plug-ins from outside, all kinds in one file, from the plan to the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError
from kdctl.plugins import load_plugin_file
from kdctl.records import RunState

RecipeWriter = Callable[..., Path]

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from kdctl.protocols.backbone import Backbone, Link, models
from kdctl.protocols.dataset import Dataset, DatasetOptions, ImageData, Split, datasets
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.protocols.projector import Projector, projectors
from kdctl.recipe.component import Spec, component


@models.register("dot")
def dot(num_classes: int, input_size: int) -> Backbone:
    """One convolution."""
    maps = Link(name="maps", module=nn.Conv2d(3, 4, 3, padding=1), shape=(4, input_size, input_size))
    pooled = Link(name="pooled", module=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), shape=(4,))
    return Backbone(
        [maps, pooled], classifier=nn.Linear(4, num_classes), stage_taps=["maps"], input_size=input_size
    )


@projectors.register("plain")
class Plain(Projector):
    """A 1x1 convolution."""

    def __init__(self, config: Any, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        super().__init__(config, source, target)
        self.convolution = nn.Conv2d(source[0], target[0], 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.convolution(features)


@methods.register("nudge")
class Nudge(Distiller):
    """Cross-entropy and the distance of the last maps."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        projector: Spec = component("projector", "plain")

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        own, other = setup.student.final_tap, setup.teacher.final_tap
        self.student_taps, self.teacher_taps = (own,), ((other,),)
        self.projector = setup.make_projector(
            config.projector, setup.student.tap_shapes[own], setup.teacher.tap_shapes[other]
        )

    def losses(self, step: Step) -> Losses:
        (own,), (other,) = step.student.taps.values(), step.teachers[0].taps.values()
        logits = step.student.require_logits()
        distance = functional.mse_loss(self.projector(own), other)
        task = functional.cross_entropy(logits, step.batch.labels)
        return Losses(task=task, transfer={"nudge": distance}, logits=logits)


@datasets.register("stripes")
class Stripes(Dataset):
    """Horizontal and vertical stripes."""

    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetOptions):
        """No more options than every data set has."""

    published_fingerprint = None

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        lines = np.arange(8, dtype=np.uint8) % 2 * 255
        across = np.broadcast_to(lines[:, None, None], (8, 8, 3))
        images = np.stack([across, across.transpose(1, 0, 2)] * 8)
        split = Split(images=images, labels=np.array([0, 1] * 8, dtype=np.int64))
        return ImageData(
            train=split, test=split, class_names=("across", "down"), mean=(0.5,) * 3, std=(0.5,) * 3
        )
'''


LINES = {
    "plugins": "plugins = ['mine.py']",
    "student": "student = 'dot'",
    "teacher": "teacher = {name = 'dot', seed = 5}",
    "data": "data = {name = 'stripes', augmentation = 'none', batch_size = 8}",
    "method": "method = 'nudge'",
}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_a_file_brings_method_projector_model_and_data_set(
    workspace: Workspace, recipe: RecipeWriter, plugin: Path
) -> None:
    (run,) = workflows.train(recipe(**LINES), workspace)
    assert run.state is RunState.FINISHED
    assert run.plan["method"]["projector"]["name"].startswith("plain")
    shas = {run.plan[section]["plugin_sha256"] for section in ("method", "student", "data")}
    assert len(shas) == 1
    assert workflows.evaluate(run.key, workspace).teacher_agreement is not None


def test_another_version_of_the_file_is_another_run(
    workspace: Workspace, recipe: RecipeWriter, plugin: Path
) -> None:
    path = recipe(**LINES)
    before = workflows.plan_training(path, workspace).runs[0].key
    assert workflows.plan_training(path, workspace).runs[0].key == before
    plugin.write_text(plugin.read_text() + "\n# edited\n")
    assert workflows.plan_training(path, workspace).runs[0].key != before


def test_an_evaluation_asks_for_the_version_it_was_trained_with(
    workspace: Workspace, recipe: RecipeWriter, plugin: Path
) -> None:
    path = recipe(**LINES)
    (run,) = workflows.train(path, workspace)
    plugin.write_text(plugin.read_text() + "\n# edited\n")
    workflows.open_recipe(path)
    with pytest.raises(UsageError, match="plug-in") as refusal:
        workflows.evaluate(run.key, workspace)
    assert "--plugin FILE" in refusal.value.hint


def test_an_evaluation_without_the_plug_in_says_how_to_bring_it(
    workspace: Workspace, recipe: RecipeWriter, plugin: Path, forget_plugins: Callable[[], None]
) -> None:
    (run,) = workflows.train(recipe(**LINES), workspace)
    forget_plugins()
    with pytest.raises(UsageError, match="trained with a plug-in") as refusal:
        workflows.evaluate(run.key, workspace)
    assert "--plugin FILE" in refusal.value.hint
    load_plugin_file(plugin)
    assert workflows.evaluate(run.key, workspace).run_key == run.key
