from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from kdctl.protocols.backbone import Backbone, models


@pytest.fixture
def drawn() -> Callable[[str], Backbone]:
    """Build a model for 10 classes and 16x16 images whose BNs cannot be mistaken for one another."""

    def build(name: str) -> Backbone:
        torch.manual_seed(0)
        backbone = models.get(name).item(10, 16)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        return backbone

    return build
