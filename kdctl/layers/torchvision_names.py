"""Models cut out of torchvision's: its own modules as links, and what it calls them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from kdctl.layers.public_names import Names
from kdctl.protocols.backbone import Backbone


def names_of_original(backbone: Backbone, original: Callable[[], nn.Module]) -> Names:
    """Yield torchvision's name of every piece of `backbone` that has weights of its own.

    Args:
        backbone: made of the modules of such a model, in their order.
        original: builds the model that it was cut out of.
    """
    with torch.device("meta"):
        pieces = _with_weights(original())
    own = _with_weights(backbone)
    for (name, _), (_, piece) in zip(pieces, own, strict=True):
        yield name, piece


def _with_weights(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
