from __future__ import annotations

import pytest
import torch

from kdctl.projectors.linear import LinearProjector
from kdctl.registry import NoOptions


@pytest.mark.parametrize("size", [(), (4, 3)], ids=["vectors", "maps"])
def test_it_is_one_matrix_and_a_bias(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    projector = LinearProjector(NoOptions(), (5, *size), (7, *size))
    features = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0))
    weight, bias = projector.parameters()
    expected = torch.einsum("oc,bc...->bo...", weight.reshape(7, 5), features)
    torch.testing.assert_close(projector(features), expected + bias.reshape(7, *(1 for _ in size)))
    assert sum(parameter.numel() for parameter in projector.parameters()) == 5 * 7 + 7


def test_it_reaches_negative_features() -> None:
    torch.manual_seed(0)
    projector = LinearProjector(NoOptions(), (5,), (5,))
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    assert projector(features).min() < 0
