from __future__ import annotations

import pytest
import torch

from kdctl.projectors.inverted_bottleneck import InvertedBottleneckConfig, InvertedBottleneckProjector


@pytest.mark.parametrize("expansion", [1, 2, 3])
def test_its_parameters_follow_the_formula(expansion: int) -> None:
    config = InvertedBottleneckConfig(expansion=expansion)
    projector = InvertedBottleneckProjector(config, (7, 4, 4), (20, 4, 4))
    inner = 20 * expansion
    expected = 7 * inner + 9 * inner**2 + inner * 20 + 4 * inner
    assert sum(parameter.numel() for parameter in projector.parameters()) == expected


def test_it_ends_linearly() -> None:
    torch.manual_seed(0)
    projector = InvertedBottleneckProjector(InvertedBottleneckConfig(), (5, 4, 4), (7, 4, 4))
    features = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    assert projector(features).min() < 0 < projector(features).max()


def test_a_position_sees_its_neighbours() -> None:
    torch.manual_seed(0)
    projector = InvertedBottleneckProjector(InvertedBottleneckConfig(), (3, 4, 4), (6, 4, 4)).eval()
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[:, :, 0, 0] = 9
    gap = (projector(changed) - projector(features)).abs().amax(dim=(0, 1))
    assert gap[:2, :2].min() > 0
    assert gap[2:].max() == 0
