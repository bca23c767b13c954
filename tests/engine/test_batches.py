from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kdctl.engine.batches import EpochOrder, EvaluationSet, Normalisation, TrainingSet
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import DatasetOptions, Split

CPU = torch.device("cpu")
MEAN = np.array([0.5, 0.4, 0.3])
STD = np.array([0.2, 0.25, 0.3])

Draw = Callable[[int, int], Split]


def plainly(image: np.ndarray) -> Tensor:
    """Normalise one image [H, W, 3] as the formula says, in float64: [3, H, W]."""
    return torch.from_numpy(((image / 255 - MEAN) / STD).transpose(2, 0, 1))


def augmented_plainly(split: Split, order: EpochOrder, place: int, padding: int) -> Tensor:
    """Pad, crop and flip one image, then normalise it, one after the other."""
    image = split.images[order.rows[place]]
    top, left = order.offsets[place].tolist()
    size = image.shape[0]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    crop = padded[top : top + size, left : left + size]
    return plainly(crop[:, ::-1] if order.flips[place] else crop)


def test_every_byte_becomes_the_number_that_its_channel_says() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(2, 16, 8, 3)
    turned = pixels.transpose(1, 2)  # does not lie in memory row by row
    for image in (pixels, turned):
        expected = (image.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
        normalised = Normalisation(mean, std, CPU)(image)
        assert normalised.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(normalised.double(), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-6)
    # As the formula of three steps rounds, so that an upgrade changes no number.
    scale, shift = 1.0 / (255.0 * torch.tensor(std)), -torch.tensor(mean) / torch.tensor(std)
    assert torch.equal(Normalisation(mean, std, CPU)(pixels), (pixels * scale + shift).permute(0, 3, 1, 2))


@pytest.mark.parametrize("padding", [0, 2, 4])
@pytest.mark.parametrize("augmentation", ["crop-flip", "crop", "none"])
def test_a_batch_is_what_padding_cropping_and_flipping_give(
    split: Draw, normalise: Normalisation, augmentation: str, padding: int
) -> None:
    images = split(20, 3)
    options = DatasetOptions(augmentation=augmentation, padding=padding, batch_size=8)  # type: ignore[arg-type]
    train = TrainingSet(images, normalise, options, CPU)
    order = train.order(seed=1, epoch=2)
    for step in range(train.num_steps):
        batch = train.batch(order, step)
        for row in range(len(batch.labels)):
            place = 8 * step + row
            used = padding if augmentation != "none" else 0
            expected = augmented_plainly(images, order, place, used)
            torch.testing.assert_close(batch.images[row].double(), expected, rtol=0, atol=1e-6)
            assert batch.labels[row] == images.labels[order.rows[place]]
            assert batch.index[row] == order.rows[place]


def test_without_augmentation_images_are_only_shuffled(split: Draw, normalise: Normalisation) -> None:
    train = TrainingSet(split(20, 3), normalise, DatasetOptions(augmentation="none", padding=4), CPU)
    order = train.order(0, 0)
    assert not order.flips.any()
    assert not order.offsets.any()
    assert order.rows.tolist() != list(range(20))


def test_crops_reach_every_offset_and_half_of_the_images_are_flipped(
    split: Draw, normalise: Normalisation
) -> None:
    train = TrainingSet(split(2000, 0), normalise, DatasetOptions(padding=2), CPU)
    order = train.order(0, 0)
    assert {tuple(pair) for pair in order.offsets.tolist()} == {(y, x) for y in range(5) for x in range(5)}
    assert 900 < order.flips.sum() < 1100
    only_crops = TrainingSet(
        split(2000, 0), normalise, DatasetOptions(padding=2, augmentation="crop"), CPU
    ).order(0, 0)
    assert not only_crops.flips.any()
    assert torch.equal(only_crops.offsets, order.offsets)  # the streams do not depend on the mode


def test_an_epoch_is_drawn_from_its_seed_and_number_alone(split: Draw, normalise: Normalisation) -> None:
    def first_batch(seed: int, epoch: int) -> Tensor:
        train = TrainingSet(split(20, 3), normalise, DatasetOptions(batch_size=8), CPU)
        torch.randn(7)  # whatever happens to torch's own generator
        return train.batch(train.order(seed, epoch), 0).images

    assert torch.equal(first_batch(4, 5), first_batch(4, 5))
    assert not torch.equal(first_batch(4, 5), first_batch(4, 6))
    assert not torch.equal(first_batch(4, 5), first_batch(5, 5))


@pytest.mark.parametrize(("count", "sizes"), [(32, [8] * 4), (20, [8, 8, 4]), (18, [8, 8, 2]), (5, [5])])
def test_every_image_comes_once_an_epoch_the_last_batch_being_shorter(
    split: Draw, normalise: Normalisation, count: int, sizes: list[int]
) -> None:
    train = TrainingSet(split(count, 0), normalise, DatasetOptions(batch_size=8), CPU)
    order = train.order(0, 0)
    batches = [train.batch(order, step) for step in range(train.num_steps)]
    assert [len(batch.labels) for batch in batches] == sizes
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(count))


def test_a_last_batch_of_one_image_is_skipped(split: Draw, normalise: Normalisation) -> None:
    train = TrainingSet(split(17, 0), normalise, DatasetOptions(batch_size=8), CPU)
    assert train.num_steps == 2
    left_out = {train.order(0, epoch).rows[16].item() for epoch in range(20)}
    assert len(left_out) > 5  # another image each time


def test_a_single_image_cannot_be_trained_on(split: Draw, normalise: Normalisation) -> None:
    with pytest.raises(KdctlError, match=r"has 1 image"):
        TrainingSet(split(1, 0), normalise, DatasetOptions(), CPU)


def test_batches_are_channels_last_floats(split: Draw, normalise: Normalisation) -> None:
    train = TrainingSet(split(20, 0), normalise, DatasetOptions(batch_size=8), CPU)
    images = train.batch(train.order(0, 0), 0).images
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_an_evaluation_set_yields_every_image_in_order(split: Draw, normalise: Normalisation) -> None:
    images = split(503, 0)
    evaluation = EvaluationSet(images, normalise, CPU)
    batches = list(evaluation.images())
    assert [len(batch) for batch in batches] == [500, 3]
    assert len(evaluation) == 503
    whole = torch.cat(batches)
    for row in (0, 250, 502):
        torch.testing.assert_close(whole[row].double(), plainly(images.images[row]), rtol=0, atol=1e-6)
    assert torch.equal(evaluation.labels, torch.from_numpy(images.labels))
