"""Mixup, cutmix and smoothing against their formulas, written out one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kdctl.engine.mixing import Mixer, Mixing, partners
from kdctl.protocols.dataset import DatasetOptions
from kdctl.protocols.step import Batch

CPU = torch.device("cpu")
SIZE, CLASSES = 12, 4


def make_mixer(**options: float) -> Mixer:
    labels = torch.zeros(1, dtype=torch.int64)
    return Mixer(DatasetOptions(**options), labels, num_classes=CLASSES, size=SIZE, device=CPU)  # type: ignore[arg-type]


def draw_batch(count: int) -> Batch:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, SIZE, SIZE, generator=random)
    return Batch(images=images, labels=torch.arange(count) % CLASSES, index=torch.arange(count))


def turned(batch: Batch) -> Batch:
    return Batch(images=batch.images.flip(0), labels=batch.labels.flip(0), index=batch.index)


def one_hot(label: int) -> Tensor:
    return torch.eye(CLASSES)[label]


def drawn(mixer: Mixer, num_steps: int = 200) -> Mixing:
    mixing = mixer.draw(3, 1, num_steps)
    assert mixing is not None
    return mixing


def test_mixup_blends_images_and_labels_by_the_same_share() -> None:
    mixer, batch = make_mixer(mixup=0.8), draw_batch(5)
    mixing = drawn(mixer)
    for step in range(5):
        share = mixing.shares[step].item()
        mixed = mixer.mixed(batch, turned(batch), mixing, torch.full((5,), step))
        for row in range(5):
            expected = share * batch.images[row] + (1 - share) * batch.images[4 - row]
            torch.testing.assert_close(mixed.images[row], expected)
            label = share * one_hot(row % 4) + (1 - share) * one_hot((4 - row) % 4)
            torch.testing.assert_close(mixed.labels[row], label)


def test_cutmix_pastes_one_box_and_the_labels_tell_its_area() -> None:
    mixer, batch = make_mixer(cutmix=1.0), draw_batch(4)
    mixing = drawn(mixer)
    for step in range(10):
        mixed = mixer.mixed(batch, turned(batch), mixing, torch.full((4,), step))
        top, bottom, left, right = mixing.boxes[step].tolist()
        expected = batch.images.clone()
        expected[:, :, top:bottom, left:right] = batch.images.flip(0)[:, :, top:bottom, left:right]
        assert torch.equal(mixed.images, expected)  # bit for bit
        assert mixing.shares[step].item() == pytest.approx(1 - (bottom - top) * (right - left) / SIZE**2)


def test_shares_come_from_the_beta_distribution() -> None:
    shares = drawn(make_mixer(mixup=0.4), 4000).shares.numpy()
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(0.25 / (2 * 0.4 + 1), abs=0.01)  # of Beta(a, a)


def test_a_batch_is_mixed_as_often_as_asked_and_half_of_the_mixed_are_pasted() -> None:
    mixing = drawn(make_mixer(mixup=0.8, cutmix=1.0, mix_probability=0.4), 4000)
    pasted = (mixing.boxes[:, 1] > mixing.boxes[:, 0]).numpy()
    unmixed = (mixing.shares == 1).numpy() & ~pasted
    assert np.mean(unmixed) == pytest.approx(0.6, abs=0.05)
    assert np.mean(pasted) == pytest.approx(0.2, abs=0.03)


def test_smoothing_spreads_a_share_over_all_classes() -> None:
    soft = make_mixer(label_smoothing=0.2).smoothed(torch.tensor([2, 0]))
    torch.testing.assert_close(soft[0], torch.tensor([0.05, 0.05, 0.85, 0.05]))
    labels = torch.tensor([1, 2])
    assert make_mixer().smoothed(labels) is labels


def test_each_epoch_of_each_seed_has_choices_of_its_own() -> None:
    mixer = make_mixer(mixup=1.0)
    first, again = mixer.draw(0, 0, 9), mixer.draw(0, 0, 9)
    other, seed = mixer.draw(0, 1, 9), mixer.draw(1, 0, 9)
    assert None not in (first, again, other, seed)
    assert torch.equal(first.shares, again.shares)
    assert not torch.equal(first.shares, other.shares)
    assert not torch.equal(first.shares, seed.shares)


def test_partners_turn_each_batch_round_the_shorter_last_one_too() -> None:
    assert partners(torch.arange(10), 4, 10).tolist() == [3, 2, 1, 0, 7, 6, 5, 4, 9, 8]
