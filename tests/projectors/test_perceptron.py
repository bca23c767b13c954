from __future__ import annotations

import pytest
import torch

from kdctl.projectors.perceptron import PerceptronConfig, PerceptronProjector


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_it_is_matrices_with_rectifiers_between_them(num_layers: int) -> None:
    torch.manual_seed(0)
    projector = PerceptronProjector(PerceptronConfig(num_layers=num_layers), (5, 4, 3), (7, 4, 3))
    features = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    first, *others = (parameter.flatten(1) for parameter in projector.parameters())
    assert len(others) == num_layers - 1
    expected = torch.einsum("oc,bchw->bohw", first, features)
    for weight in others:
        expected = torch.einsum("oc,bchw->bohw", weight, expected.clamp(min=0))
    torch.testing.assert_close(projector(features), expected)


def test_it_ends_linearly() -> None:
    torch.manual_seed(0)
    projector = PerceptronProjector(PerceptronConfig(), (5, 4, 4), (7, 4, 4))
    features = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    assert projector(features).min() < 0 < projector(features).max()
