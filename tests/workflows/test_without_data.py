"""Runs that make their images get none of the training set, and need none to be there."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdctl import workflows
from kdctl.assembly.data import DataLibrary
from kdctl.cli.formatting import evaluation_only
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import (
    BalancedForm,
    ImageData,
    Split,
    datasets,
    fingerprint,
    without_training_images,
)
from kdctl.readers.cifar_pickles import PickledFile, PickleLayout, read_pickled_data
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState

METHODS = {
    "zskt": "batch_size = 8, steps_per_epoch = 2, student_updates = 2, noise_size = 4",
    "dafl": "batch_size = 8, steps_per_epoch = 2, noise_size = 4",
    "cmi": "batch_size = 8, steps_per_epoch = 2, images_per_round = 8, pool_size = 16, inversion_steps = 2",
    "fast": "batch_size = 8, steps_per_epoch = 2, images_per_round = 8, pool_size = 16, warmup_rounds = 1",
}

RecipeWriter = Callable[..., Path]


@pytest.fixture
def lose_training_images(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let digits be a published data set, whose training images can be taken away."""
    digits = datasets.get("digits").item
    options, load = dataclasses.replace(digits.Config(augmentation=None)), digits.load  # type: ignore[arg-type]
    whole = load(options, Path())
    form = BalancedForm(num_classes=10, input_size=16, train_per_class=124, test_per_class=50)
    monkeypatch.setattr(digits, "published_fingerprint", fingerprint(whole))
    monkeypatch.setattr(digits, "published_form", form)

    def lose() -> None:
        def refuse(options: Any, root: Path) -> ImageData:
            raise KdctlError("there are no training images.", "look for them.")

        def load_test(options: Any, root: Path) -> ImageData:
            return without_training_images(load(options, root))

        monkeypatch.setattr(digits, "load", staticmethod(refuse))
        monkeypatch.setattr(digits, "load_test", staticmethod(load_test), raising=False)

    return lose


@pytest.mark.parametrize("method", METHODS)
def test_they_train_where_no_training_image_is(
    tmp_path: Path, recipe: RecipeWriter, lose_training_images: Callable[[], None], method: str
) -> None:
    path = recipe(f"method = {{ name = '{method}', {METHODS[method]} }}")
    runs = tmp_path / "runs"
    with workflows.open_workspace(runs, tmp_path / "data", num_threads=1) as workspace:
        (teacher,) = workflows.plan_training(path, workspace).teachers
        (alone,) = workflows.train(recipe("method = 'kd'"), workspace)
        assert alone.plan["teachers"][0]["run"] == teacher.key
    lose_training_images()
    with workflows.open_workspace(runs, tmp_path / "data", num_threads=1) as workspace:
        (run,) = workflows.train(path, workspace)
        assert run.state is RunState.FINISHED
        with pytest.raises(KdctlError, match="there are no training images"):
            workflows.train(recipe("method = { name = 'kd', temperature = 2.0 }"), workspace)
        assert any(name.name.startswith("invented") for name in workspace.store.artifacts(run.key))


def test_the_plan_says_so(recipe: RecipeWriter, tmp_path: Path) -> None:
    with workflows.open_workspace(tmp_path / "runs", tmp_path / "data") as workspace:
        plans = [
            *workflows.plan_training(
                recipe(f"method = {{ name = 'zskt', {METHODS['zskt']} }}"), workspace
            ).runs,
            *workflows.plan_training(recipe("method = 'kd'"), workspace).runs,
        ]
    (line,) = evaluation_only(plans)
    assert line.startswith("data for evaluation only: zskt (")
    assert not list(evaluation_only(plans[1:]))


def test_a_plan_tells_the_batches_that_the_method_makes(recipe: RecipeWriter, tmp_path: Path) -> None:
    with workflows.open_workspace(tmp_path / "runs", tmp_path / "data") as workspace:
        made = workflows.plan_training(recipe("method = { name = 'zskt', batch_size = 24 }"), workspace)
    (teacher,), (student,) = made.teachers, made.runs
    assert teacher.batch_size == teacher.data.options.batch_size != 24
    assert student.batch_size == 24


def test_images_that_are_held_out_are_kept_and_the_others_dropped(
    recipe: RecipeWriter, tmp_path: Path
) -> None:
    library = DataLibrary(tmp_path)
    with workflows.open_workspace(tmp_path / "runs", library) as workspace:
        data = "data = { name = 'digits', samples_per_class = 10, val_fraction = 0.2 }"
        path = recipe(f"method = {{ name = 'zskt', {METHODS['zskt']} }}", data=data)
        (plan,) = workflows.plan_training(path, workspace).runs
    assert isinstance(plan, RunPlan)
    selected = library.select_for(plan)
    assert len(selected.train) == 0
    assert isinstance(selected.train, Split)
    assert isinstance(selected.test, Split)
    assert selected.train.images.shape[1:] == selected.test.images.shape[1:]
    assert selected.val is not None
    assert len(selected.val) > 0


def test_official_files_of_cifar_are_read_without_those_of_the_training_set(tmp_path: Path) -> None:
    layout = PickleLayout(
        folder="cifar",
        train=(),
        test=(),
        meta=PickledFile(name="meta", md5=None),
        label_key="labels",
        names_key="names",
    )
    (tmp_path / "meta").write_bytes(pickle.dumps({"names": ["a", "b"]}, protocol=2))
    data = read_pickled_data(tmp_path, layout)
    assert isinstance(data.train, Split)
    assert data.train.images.shape == (0, 32, 32, 3)
    assert data.train.images.dtype == np.uint8
    assert len(data.test) == 0
