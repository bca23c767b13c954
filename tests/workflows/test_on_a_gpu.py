"""Sweeps by the code that only a GPU runs, on one that is pretended (tests/fixtures/pretended_gpu.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_sweeps import SLOW, num_teachers, word_of, written
from tensors_on_gpu import PretendedGpu
from torch import Tensor

from kdctl import workflows
from kdctl.engine.checkpoint import read_model
from kdctl.protocols.distiller import methods
from kdctl.records import RunState, StoredRun

METHODS = '[grid]\nmethod = [{name = "crd", num_negatives = 8}, {name = "fitnet", hint_share = 0.5}]'
"""Random numbers and memory banks; two phases."""

KD = '[grid]\nmethod = ["kd"]'

DATA_FREE = '[grid]\nmethod = [{name = "dafl", batch_size = 6, steps_per_epoch = 3, noise_size = 8}]'

STOP_AFTER = 5
"""Questions whether to stop: in the middle of an epoch."""

pytestmark = [
    pytest.mark.extended,
    pytest.mark.usefixtures("pretended_gpu", "torch_settings", "optuna_reads_its_history_once"),
]

Trained = tuple[dict[str, StoredRun], dict[str, dict[str, Tensor]]]
Train = Callable[..., Trained]


@pytest.fixture
def train(recipe: Callable[..., Path], tmp_path: Path) -> Train:
    """Train some methods into a folder of its own; returns records and weights by run key."""

    def run(body: str = METHODS, *, folder: str = "runs", stop: Any = lambda: False, **words: Any) -> Trained:
        settings = {
            name: words.pop(name) for name in ("graphs", "teacher_cache", "num_workers") if name in words
        }
        words.setdefault("schedule", 'schedule = {name = "constant", epochs = 2}')
        opened = workflows.open_workspace(
            tmp_path / folder, tmp_path / "data", device="cuda", num_threads=1, **settings
        )
        with opened as workspace:
            outcome = workflows.sweep(recipe(body, **words), workspace, stop=stop)
            runs = {run.key: run for run in outcome.runs}
            assert not [run.reason for run in runs.values() if run.state is RunState.FAILED]
            places = {key: workspace.folder(key).path / "last.pt" for key in runs}
            return runs, {
                key: dict(read_model(path).weights) for key, path in places.items() if path.is_file()
            }

    return run


def executions(trained: Trained) -> set[str]:
    return {run.environment.execution for run in trained[0].values() if run.environment}


def assert_same(left: Trained, right: Trained) -> None:
    assert left[1].keys() == right[1].keys() == left[0].keys()
    for key, weights in left[1].items():
        other = right[1][key]
        assert [name for name, value in weights.items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize(
    "engine", ["", "student_precision = 'bf16', teacher_precision = 'fp16', teacher_lookahead = 2"]
)
def test_replayed_runs_end_like_plain_ones(train: Train, engine: str) -> None:
    words = {"engine": f"engine = {{{engine}}}"}
    plain = train(folder="plain", graphs="off", **words)
    replayed = train(folder="replayed", graphs="on", **words)
    assert executions(plain) == {"eager"}
    assert executions(replayed) == {"graphs"}
    assert_same(plain, replayed)


def test_a_replayed_run_that_was_stopped_ends_like_one_that_was_not(train: Train) -> None:
    whole = train(folder="whole", graphs="on")
    asked = iter(range(10**9))
    with contextlib.suppress(KeyboardInterrupt):
        train(folder="parts", graphs="on", stop=lambda: next(asked) >= STOP_AFTER)
    assert_same(whole, train(folder="parts", graphs="on"))


def test_kept_teacher_outputs_are_read_in_replays(train: Train) -> None:
    plain = train(KD, folder="plain", graphs="off")
    kept = train(KD, folder="kept", graphs="on", teacher_cache="on")
    assert executions(kept) == {"graphs", "graphs, teacher outputs kept"}  # a teacher has none
    assert_same(plain, kept)


def test_streamed_images_are_trained_on_without_records_and_without_waiting(
    train: Train, pretended_gpu: PretendedGpu
) -> None:
    data = 'data = {name = "digits", size = 8, samples_per_class = 8, augmentation = "random-resized-crop"'
    mixed = train(KD, data=f"{data}, mixup = 0.4, label_smoothing = 0.1, batch_size = 32}}")
    assert executions(mixed) == {"eager: its images are streamed"}
    assert not [what for what in pretended_gpu.waits if "mask" in what or "indices" in what]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "dot", "lamb"])
def test_every_optimizer_clips_gradients_and_mixes_images_there(train: Train, optimizer: str) -> None:
    data = "mixup = 0.4, cutmix = 1.0, label_smoothing = 0.1, batch_size = 32"
    words = {
        "data": f'data = {{name = "digits", size = 8, samples_per_class = 8, {data}}}',
        "optimizer": f'optimizer = {{name = "{optimizer}", learning_rate = 0.01, max_gradient_norm = 1.0}}',
    }
    trained = train(KD, **words)
    replays = optimizer in ("adamw", "sgd")
    assert executions(trained) == {"graphs" if replays else "eager: the optimizer's step is not recorded"}


def test_images_that_a_method_makes_are_made_in_replays(train: Train) -> None:
    plain, replayed = (train(DATA_FREE, folder=graphs, graphs=graphs) for graphs in ("off", "on"))
    assert executions(replayed) == {"graphs"}
    assert_same(plain, replayed)


@pytest.mark.parametrize("number", [1, 2])
def test_what_tests_on_a_real_gpu_train_can_be_planned(tmp_path: Path, number: int) -> None:
    path = tmp_path / "gpu.toml"
    every = [word_of(method) for method in methods.names()]
    path.write_text(written([word for word in every if num_teachers(word) == number], lines=SLOW))
    with workflows.open_workspace(tmp_path / "runs", tmp_path / "data", device="cuda") as opened:
        assert len(workflows.plan_sweep(path, opened).runs) > number
