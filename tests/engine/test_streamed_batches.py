"""Batches made by worker processes: the same whoever makes them, in whatever order they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from streamed_pictures import COUNT, Counted, all_batches, streamed

from kdctl.engine.batches import EvaluationSet, Normalisation, TrainingSet
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.graphs import GraphedSteps
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.member import Member
from kdctl.engine.streamed_batches import (
    StreamedEvaluationSet,
    StreamedTrainingSet,
    open_training_set,
)
from kdctl.engine.trainer import fit
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import DatasetOptions, Split
from kdctl.records import EpochResult

CPU = torch.device("cpu")

Draw = Callable[[int, int], Split]


Open = Callable[..., StreamedTrainingSet]


def test_batches_do_not_depend_on_the_number_of_workers(open_set: Open) -> None:
    options = {"mixup": 0.4, "label_smoothing": 0.1, "repeats": 2}
    alone = open_set(0, **options)
    images, labels = all_batches(alone, alone.order(1, 0))
    for num_workers in (1, 3):
        train = open_set(num_workers, **options)
        others = all_batches(train, train.order(1, 0))
        assert torch.equal(images, others[0])
        assert torch.equal(labels, others[1])


def test_any_step_can_be_made_again(open_set: Open) -> None:
    train = open_set(2)
    first, second = train.order(0, 0), train.order(0, 1)
    images, _ = all_batches(train, first)
    later, _ = all_batches(train, second)
    assert torch.equal(train.batch(first, 1).images, images[16:32])  # as after a resume
    assert torch.equal(train.batch(train.order(0, 1), 2).images, later[32:])
    assert not torch.equal(images, later)


def test_an_epoch_has_every_image_once_with_its_own_label(open_set: Open) -> None:
    train, split = open_set(1), streamed()
    order = train.order(0, 0)
    batches = [train.batch(order, step) for step in range(train.num_steps)]
    index = torch.cat([batch.index for batch in batches])
    assert sorted(index.tolist()) == list(range(COUNT))
    assert torch.cat([batch.require_labels() for batch in batches]).tolist() == split.labels[index].tolist()


def test_repeats_bring_fewer_images_more_often_each_time_changed_anew(open_set: Open) -> None:
    train = open_set(0, repeats=3, batch_size=42)
    batch = train.batch(train.order(0, 0), 0)
    assert torch.bincount(batch.index, minlength=COUNT).max() == 3
    assert len(batch.index.unique()) == 14
    assert not torch.equal(batch.images[0], batch.images[1])


def test_an_image_without_augmentation_is_the_same_in_every_epoch(open_set: Open) -> None:
    train = open_set(0, augmentation="none", batch_size=42)
    batch = train.batch(train.order(0, 0), 0)
    other = train.batch(train.order(5, 5), 0)
    by_index = {int(row): image for row, image in zip(other.index, other.images, strict=True)}
    for row, image in zip(batch.index.tolist(), batch.images, strict=True):
        assert torch.equal(image, by_index[row])
    assert batch.images.shape == (42, 3, 16, 16)


def test_shifts_and_flips_work_on_streamed_images_too(open_set: Open, normalise: Normalisation) -> None:
    plain, changed = (
        open_set(0, augmentation=name, padding=2, batch_size=42) for name in ("none", "crop-flip")
    )
    whole, views = (train.batch(train.order(5, 5), 0) for train in (plain, changed))
    assert torch.equal(whole.index, views.index)
    padded = normalise(torch.zeros(42, 20, 20, 3, dtype=torch.uint8))
    padded[:, :, 2:18, 2:18] = whole.images
    seen: list[tuple[int, int, bool]] = []
    for image, wide in zip(views.images, padded, strict=True):
        possible = {
            (top, left, flips): crop.flip(2) if flips else crop
            for top, left in itertools.product(range(5), repeat=2)
            for crop in [wide[:, top : top + 16, left : left + 16]]
            for flips in (False, True)
        }
        seen += [view for view, expected in possible.items() if torch.equal(image, expected)]
    assert len(seen) == 42
    assert {flips for *_, flips in seen} == {False, True}
    assert len(set(seen)) > 20


def test_parts_of_a_batch_are_its_rows(open_set: Open) -> None:
    train = open_set(1)
    order = train.order(0, 0)
    whole = train.batch(order, 1)
    assert torch.equal(train.gather(order, slice(20, 26)).images, whole.images[4:10])
    with pytest.raises(ValueError, match="batch by batch"):
        train.gather(order, slice(10, 20))


@pytest.mark.parametrize(
    ("mixup", "num_read"), [(0.0, 16 // 4 * 2 + 2), (0.4, 16 // 2 * 2 + 4)], ids=["plain", "mixed in pairs"]
)
def test_a_process_that_shares_batches_decodes_its_own_images_and_their_partners_only(
    open_set: Open, mixup: float, num_read: int
) -> None:
    """Four processes: of the batches of 16, 16 and 10 images the second takes 4, 4 and 2."""
    source = Counted()
    whole, shared = open_set(0, mixup=mixup), open_set(0, source, mixup=mixup)
    shared.take_share(lambda size: slice(size // 4, size // 2 if size == 16 else size // 4 + 2))
    order = whole.order(0, 0)
    for first, last in ((4, 8), (20, 24), (34, 36)):
        expected = whole.gather(order, slice(first, last))
        found = shared.gather(order, slice(first, last))
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.require_labels(), expected.require_labels())
        assert torch.equal(found.index, expected.index)
    assert len(source.read_rows) == num_read
    assert len(shared.batch(order, 1).images) == (16 if mixup else 4)  # what lies on the device
    with pytest.raises(ValueError, match="another process"):
        shared.gather(order, slice(0, 4))


def test_an_evaluation_that_is_shared_decodes_each_image_once(
    pool: Callable[[int], ImageWorkers], normalise: Normalisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdctl.engine.streamed_batches.EVALUATION_BATCH", 8)
    counted = Counted()
    shared = StreamedEvaluationSet(streamed(counted), normalise, CPU, pool(0))
    whole = StreamedEvaluationSet(streamed(), normalise, CPU, pool(0))
    first, second = (list(shared.images(start=start, every=2)) for start in (0, 1))
    in_turn = [batch for pair in itertools.zip_longest(first, second) for batch in pair if batch is not None]
    assert [len(batch) for batch in in_turn] == [8, 8, 8, 8, 8, 2]
    assert torch.equal(torch.cat(in_turn), torch.cat(list(whole.images())))
    assert sorted(counted.read_rows) == list(range(COUNT))


def test_an_evaluation_sees_every_image_in_order(
    pool: Callable[[int], ImageWorkers], normalise: Normalisation
) -> None:
    images = {}
    for num_workers in (0, 2):
        test = StreamedEvaluationSet(streamed(), normalise, CPU, pool(num_workers))
        next(iter(test.images()))  # a look at the first batch does not disturb
        images[num_workers] = torch.cat(list(test.images()))
    assert len(images[0]) == COUNT
    assert torch.equal(images[0], images[2])


def test_arrays_are_streamed_where_the_device_cannot_augment_them(
    split: Draw, normalise: Normalisation, pool: Callable[[int], ImageWorkers]
) -> None:
    arrays = split(20, 3)
    kinds = {
        name: type(open_training_set(arrays, normalise, DatasetOptions(augmentation=name), CPU, pool(0)))  # type: ignore[arg-type]
        for name in ("crop-flip", "random-resized-crop")
    }
    assert kinds == {"crop-flip": TrainingSet, "random-resized-crop": StreamedTrainingSet}


@pytest.mark.parametrize("augmentation", ["crop-flip", "random-resized-crop"])
def test_soft_labels_tell_of_classes_without_training_images_too(
    split: Draw, normalise: Normalisation, pool: Callable[[int], ImageWorkers], augmentation: str
) -> None:
    options = DatasetOptions(augmentation=augmentation, label_smoothing=0.2, batch_size=4)  # type: ignore[arg-type]
    train = open_training_set(split(4, 0), normalise, options, CPU, pool(0), num_classes=5)
    labels = train.batch(train.order(0, 0), 0).require_labels()
    assert labels.shape == (4, 5)
    assert torch.equal(labels[:, 4], torch.full((4,), 0.04))


def test_a_single_image_cannot_be_trained_on(normalise: Normalisation) -> None:
    one = streamed().taken(np.array([0]))
    with pytest.raises(KdctlError, match="has 1 image"):
        StreamedTrainingSet(one, normalise, DatasetOptions(), CPU, ImageWorkers(0))


@pytest.mark.extended
def test_a_streamed_gang_ends_like_runs_alone_and_like_a_resumed_one(
    pool: Callable[[int], ImageWorkers],
    normalise: Normalisation,
    make_member: Callable[..., Member],
    make_gang: Callable[..., Gang],
    record: type,
    assert_same_end: Callable[[Member, Member], None],
) -> None:
    def data(num_workers: int) -> TrainingData:
        workers = pool(num_workers)
        options = DatasetOptions(augmentation="random-resized-crop", batch_size=16, mixup=0.3)  # type: ignore[arg-type]
        return TrainingData(
            train=StreamedTrainingSet(streamed(), normalise, options, CPU, workers),
            val=None,
            test=EvaluationSet(
                Split(images=np.zeros((4, 16, 16, 3), np.uint8), labels=np.arange(4)), normalise, CPU
            ),
        )

    together = [make_member(method, folder="gang") for method in ("kd", "simkd")]
    fit(make_gang(*together, data=data(2)), record())
    for member, method in zip(together, ("kd", "simkd"), strict=True):
        alone = make_member(method, folder="alone")
        stops = iter([False] * 4 + [True])
        fit(make_gang(alone, data=data(0)), record(), stop=lambda stops=stops: next(stops))
        resumed = make_member(method, folder="alone")
        assert (resumed.epoch, resumed.step) == (1, 1)
        fit(make_gang(resumed, data=data(1)), record())
        assert_same_end(member, resumed)


def test_recorded_steps_see_streamed_images_of_an_evaluation_as_they_come(
    normalise: Normalisation,
    data: TrainingData,
    make_recordable: Callable[..., Member],
    make_gang: Callable[..., Gang],
    record: type,
    tape_streams: type,
    without_times: Callable[..., list[EpochResult]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As methods that make their training images have it: only those of the evaluation are streamed."""
    monkeypatch.setattr("kdctl.engine.streamed_batches.EVALUATION_BATCH", 8)  # more batches than buffers
    plain, replayed = record(), record()
    for observer in (plain, replayed):
        test = StreamedEvaluationSet(streamed(), normalise, CPU, ImageWorkers(0))
        streaming = TrainingData(train=data.train, val=None, test=test)
        gang = make_gang(make_recordable(folder=str(id(observer))), data=streaming)
        steps = None if observer is plain else GraphedSteps(gang, tape_streams(), required=True)
        fit(gang, observer, steps=steps)
    (left,), (right,) = plain.results.values(), replayed.results.values()
    assert without_times(left) == without_times(right)
