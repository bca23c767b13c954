from __future__ import annotations

import torch

from kdctl.projectors.pointwise import PointwiseProjector
from kdctl.protocols.projector import projectors
from kdctl.registry import NoOptions


def test_its_parameters_are_those_of_the_papers_table_5() -> None:
    projector = PointwiseProjector(NoOptions(), (256, 8, 8), (256, 8, 8))
    assert sum(parameter.numel() for parameter in projector.parameters()) == 66_048
    assert projectors.get("1x1").item is PointwiseProjector


def test_every_position_is_projected_alike_and_rectified() -> None:
    torch.manual_seed(0)
    projector = PointwiseProjector(NoOptions(), (3, 2, 2), (5, 2, 2)).eval()
    features = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    projected = projector(features)
    assert projected.min() >= 0
    torch.testing.assert_close(projector(features.flip(2, 3)), projected.flip(2, 3))
