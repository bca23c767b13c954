from __future__ import annotations

import pytest
import torch

from kdctl.projectors.double_pointwise import DoublePointwiseConfig, DoublePointwiseProjector
from kdctl.protocols.projector import projectors


def test_its_parameters_are_those_of_the_papers_table_5() -> None:
    projector = DoublePointwiseProjector(DoublePointwiseConfig(), (256, 8, 8), (256, 8, 8))
    assert sum(parameter.numel() for parameter in projector.parameters()) == 66_304
    assert projectors.get("1x1-1x1").item is DoublePointwiseProjector


@pytest.mark.parametrize("reduction", [1, 2, 3, 64])
def test_its_parameters_follow_the_formula(reduction: int) -> None:
    config = DoublePointwiseConfig(reduction=reduction)
    projector = DoublePointwiseProjector(config, (7, 4, 4), (20, 4, 4))
    inner = max(20 // reduction, 1)
    expected = 7 * inner + inner * 20 + 2 * inner + 2 * 20
    assert sum(parameter.numel() for parameter in projector.parameters()) == expected


def test_a_position_does_not_see_its_neighbours() -> None:
    torch.manual_seed(0)
    projector = DoublePointwiseProjector(DoublePointwiseConfig(), (3, 4, 4), (6, 4, 4)).eval()
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[:, :, 0, 0] = 9
    torch.testing.assert_close(projector(changed)[:, :, 1:], projector(features)[:, :, 1:])
