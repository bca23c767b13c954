from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.losses.alignment import at_one_size, paired_maps
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Batch, Step


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [((8, 8), (4, 4), (4, 4)), ((4, 4), (8, 8), (4, 4)), ((8, 2), (4, 6), (4, 2)), ((5, 5), (5, 5), (5, 5))],
)
def test_each_map_is_pooled_to_the_smaller_height_and_width(
    first: tuple[int, int], second: tuple[int, int], shared: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    own, other = torch.randn(2, 3, *first), torch.randn(2, 7, *second)
    pool = nn.AdaptiveAvgPool2d(shared)
    for aligned, features in zip(at_one_size(own, other), (own, other), strict=True):
        torch.testing.assert_close(aligned, pool(features))


def test_maps_come_in_the_order_of_the_pairs() -> None:
    student = {"a": torch.ones(1, 2, 4, 4), "b": torch.full((1, 2, 2, 2), 2.0)}
    teacher = {"c": torch.full((1, 5, 2, 2), 3.0)}
    labels = torch.zeros(1, dtype=torch.int64)
    step = Step(
        batch=Batch(images=torch.zeros(1, 3, 8, 8), labels=labels, index=labels),
        student=Outputs(logits=None, taps=student),
        teachers=(Outputs(logits=None, taps=teacher),),
        progress=torch.tensor(0.0),
        learning_rate=torch.tensor(0.1),
    )
    maps = paired_maps(step, [("b", "c"), ("a", "c")])
    assert [(own.mean().item(), other.mean().item()) for own, other in maps] == [(2.0, 3.0), (1.0, 3.0)]
    assert all(own.shape[2:] == other.shape[2:] == (2, 2) for own, other in maps)
