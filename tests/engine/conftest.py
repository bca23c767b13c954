"""A data set of 40 small images, and gangs that train on it in a fraction of a second."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamed_pictures import Pictures, streamed
from torch import Tensor

from kdctl.assembly.assemble import build_distiller, build_member, build_student
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import Sizes
from kdctl.engine.batches import EvaluationSet, Normalisation, TrainingSet
from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.member import Member
from kdctl.engine.resume import load_state
from kdctl.engine.streamed_batches import StreamedTrainingSet
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.dataset import DatasetOptions, Split
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.plan import NUMERICS, SCHEMA, RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.records import EpochResult
from kdctl.store.folder import RunFolder

CPU = torch.device("cpu")
SIZES = Sizes(num_classes=4, input_size=16)
NUM_TRAIN = 40


def draw_split(count: int, seed: int) -> Split:
    """Draw noise that is a little brighter for a higher class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % SIZES.num_classes
    size = SIZES.input_size
    noise = rng.integers(0, 120, (count, size, size, 3))
    images = (noise + 40 * labels[:, None, None, None]).astype(np.uint8)
    return Split(images=images, labels=labels.astype(np.int64))


@dataclass
class Record:
    """An observer that keeps what it hears, and can do something at each step."""

    results: dict[str, list[EpochResult]] = field(default_factory=dict)
    at_step: Callable[[Gang], None] = lambda _gang: None
    num_steps: int = 0

    def step_done(self, gang: Gang) -> None:
        self.num_steps += 1
        self.at_step(gang)

    def epoch_done(self, member: Member, result: EpochResult) -> None:
        self.results.setdefault(member.key, []).append(result)


@dataclass(frozen=True)
class Folders:
    """The one thing that assembling a member needs of a workspace."""

    root: Path

    def folder(self, key: str) -> RunFolder:
        return RunFolder(self.root, key)


@pytest.fixture
def normalise() -> Normalisation:
    return Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), CPU)


@pytest.fixture
def data(normalise: Normalisation) -> TrainingData:
    """Steps of 16, 16 and 8 images."""
    return TrainingData(
        train=TrainingSet(draw_split(NUM_TRAIN, 0), normalise, DatasetOptions(batch_size=16), CPU),
        val=EvaluationSet(draw_split(12, 1), normalise, CPU),
        test=EvaluationSet(draw_split(20, 2), normalise, CPU),
    )


@pytest.fixture
def teacher() -> Backbone:
    torch.manual_seed(0)
    return models.get("resnet14").item(*SIZES).eval().requires_grad_(requires_grad=False)


@pytest.fixture
def make_plan() -> Callable[..., RunPlan]:
    """Plan a short run of any method; the tables are written as in a recipe."""

    def plan(method: str | dict[str, Any] = "ce", **sections: Any) -> RunPlan:
        tree = {
            "schema": SCHEMA,
            "numerics": NUMERICS,
            "protocol": "",
            "data": "digits",
            "data_fingerprint": "",
            "student": "resnet8",
            "teachers": [],
            "method": method,
            "optimizer": "sgd",
            "schedule": {"name": "step", "epochs": 3, "milestones": [2]},
            "engine": {},
            "seed": 0,
        }
        return read_plan({**tree, **sections}, full_catalog())

    return plan


@pytest.fixture
def make_member(
    make_plan: Callable[..., RunPlan], teacher: Backbone, tmp_path: Path
) -> Callable[..., Member]:
    """Assemble a new member, from its saved state in `folder` where it has one."""

    def build(method: str | dict[str, Any] = "ce", *, folder: str = "runs", **sections: Any) -> Member:
        plan = make_plan(method, **sections)
        # A method that needs no teacher gets it too: a gang shares whatever teachers it has.
        distiller = build_distiller(plan, build_student(plan, SIZES), (teacher,), num_samples=NUM_TRAIN)
        return build_member(plan, distiller, Folders(tmp_path / folder))  # type: ignore[arg-type]

    return build


@pytest.fixture
def make_recordable(make_member: Callable[..., Member]) -> Callable[..., Member]:
    """Assemble members on the CPU with the optimizers that they would have on a GPU."""

    def build(*words: Any, **options: Any) -> Member:
        member = make_member(*words, **options)
        make = functools.partial(member.make_optimizers, recordable=True)
        again = dataclasses.replace(member, make_optimizers=make, epoch=0, step=0)
        load_state(again)
        return again

    return build


@pytest.fixture
def make_gang(data: TrainingData, teacher: Backbone) -> Callable[..., Gang]:
    """Put members into a gang; the settings are the gang's own."""

    def build(*members: Member, **settings: Any) -> Gang:
        compute = Compute(device=CPU, options=EngineOptions())
        standard = {"teachers": (teacher,), "data": data, "compute": compute}
        return Gang(members=list(members), **{**standard, **settings})

    return build


@pytest.fixture
def pool() -> Iterator[Callable[[int], ImageWorkers]]:
    """Start worker processes, which end with the test."""
    pools: list[ImageWorkers] = []

    def make(num_workers: int) -> ImageWorkers:
        pools.append(ImageWorkers(num_workers))
        return pools[-1]

    yield make
    for each in pools:
        each.close()


@pytest.fixture
def open_set(
    pool: Callable[[int], ImageWorkers], normalise: Normalisation
) -> Callable[..., StreamedTrainingSet]:
    """Stream pictures in batches of 16, with any options of a data set."""

    def build(num_workers: int = 0, source: Pictures | None = None, **options: object) -> StreamedTrainingSet:
        standard = {"augmentation": "random-resized-crop", "batch_size": 16}
        chosen = DatasetOptions(**{**standard, **options})  # type: ignore[arg-type]
        return StreamedTrainingSet(streamed(source), normalise, chosen, CPU, pool(num_workers))

    return build


@pytest.fixture
def record() -> type[Record]:
    return Record


@pytest.fixture
def split() -> Callable[[int, int], Split]:
    return draw_split


def drop_times(results: list[EpochResult]) -> list[EpochResult]:
    none = {"seconds": 0.0, "images_per_second": 0.0, "device_seconds": None}
    return [dataclasses.replace(result, **none) for result in results]


def assert_bits(left: Any, right: Any) -> None:
    """Compare two trees of tensors and plain values bit for bit."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_bits(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for first, second in zip(left, right, strict=True):
            assert_bits(first, second)
    elif isinstance(left, Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    else:
        assert left == right


def assert_end(left: Member, right: Member) -> None:
    assert_bits(left.distiller.state_dict(), right.distiller.state_dict())
    for own, other in zip(left.optimizers, right.optimizers, strict=True):
        assert_bits(own.optimizer.state_dict(), other.optimizer.state_dict())
    assert left.selected == right.selected
    assert (left.epoch, left.step) == (right.epoch, right.step)


@pytest.fixture
def assert_same_bits() -> Callable[[Any, Any], None]:
    """Compare two trees of tensors and plain values bit for bit."""
    return assert_bits


@pytest.fixture
def assert_same_end() -> Callable[[Member, Member], None]:
    """Compare weights, optimizer, place and selection of two members bit for bit."""
    return assert_end


@pytest.fixture
def without_times() -> Callable[[list[EpochResult]], list[EpochResult]]:
    """Leave out of epochs what no two runs have alike."""
    return drop_times
