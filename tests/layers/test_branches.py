from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.layers.branches import ChannelShuffle, Concatenation, HalfThrough, Residual


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.factor * features


def test_a_residual_adds_its_input_unless_a_shortcut_replaces_it() -> None:
    features = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(Residual(Times(2))(features), 3 * features)
    torch.testing.assert_close(Residual(Times(2), Times(5))(features), 7 * features)


def test_a_concatenation_puts_the_first_view_first() -> None:
    features = torch.randn(2, 3, 4, 4)
    both = Concatenation(Times(1), Times(2))(features)
    assert torch.equal(both[:, :3], features)
    assert torch.equal(both[:, 3:], 2 * features)


def test_half_of_the_channels_pass_untouched() -> None:
    features = torch.randn(2, 4, 3, 3)
    output = HalfThrough(Times(2))(features)
    assert torch.equal(output[:, :2], features[:, :2])
    assert torch.equal(output[:, 2:], 2 * features[:, 2:])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_shuffle_takes_one_channel_of_each_group_in_turn(memory_format: torch.memory_format) -> None:
    features = (
        torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 3, 2).contiguous(memory_format=memory_format)
    )
    shuffled = ChannelShuffle(3)(features)
    assert shuffled.shape == features.shape
    assert shuffled[0, :, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_shuffling_with_complementary_groups_restores_the_order() -> None:
    features = torch.randn(2, 12, 3, 3)
    assert torch.equal(ChannelShuffle(4)(ChannelShuffle(3)(features)), features)


class Remembers(nn.Module):
    """Doubles a map, and remembers how the gradients lie that come back."""

    def __init__(self) -> None:
        super().__init__()
        self.strides: list[tuple[int, ...]] = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        doubled = 2 * features
        node = doubled.grad_fn
        assert node is not None
        node.register_hook(lambda _, gradients: self.strides.append(gradients[0].stride()))
        return doubled


@pytest.mark.parametrize("halves", [False, True])
def test_what_is_concatenated_gets_a_gradient_without_gaps(halves: bool) -> None:
    piece = Remembers()
    join = HalfThrough(piece) if halves else Concatenation(piece, Times(3))
    features = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    output = join(features)
    output.backward(torch.randn_like(output))
    channels = output.shape[1] // 2
    assert piece.strides == [(9 * channels, 1, 3 * channels, channels)]


def test_a_shuffle_leaves_channels_last() -> None:
    features = torch.randn(2, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    assert ChannelShuffle(3)(features).is_contiguous(memory_format=torch.channels_last)
