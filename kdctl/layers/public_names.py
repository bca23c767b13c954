"""What public repositories call the convolutions, norms and classifiers of their networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from kdctl.layers.branches import Residual
from kdctl.protocols.backbone import PREACTIVATION, Backbone

CLASSIFIER = "fc|linear|classifier"

Names = Iterator[tuple[str, nn.Module]]


def rectified_units(stage: nn.Module) -> list[nn.Module]:
    """Return the units of a rectified stage, without the ReLUs between them."""
    return [piece for piece in stage.children() if not isinstance(piece, nn.ReLU)]


def numbered(prefix: str, pairs: Iterable[nn.Module]) -> Names:
    """Yield the convolution and the batch norm that each of `pairs` begins with: conv1, bn1, conv2, ..."""
    for number, (conv, norm, *_) in enumerate((list(pair.children()) for pair in pairs), start=1):
        yield f"{prefix}conv{number}", conv
        yield f"{prefix}bn{number}", norm


def rectified_resnet(backbone: Backbone) -> Names:
    """Yield the names of a post-activation ResNet, whatever its blocks are made of."""
    yield from numbered("", [backbone.links["stem"]])
    for stage, tap in enumerate(backbone.stage_taps, start=1):
        for place, block in enumerate(rectified_units(backbone.links[tap + PREACTIVATION])):
            if not isinstance(block, Residual):
                raise TypeError(f"stage {stage} holds a {type(block).__name__}, not a residual block")
            prefix = f"layer{stage}.{place}."
            yield from numbered(prefix, block.branch.children())
            # A shortcut with weights is a convolution and its norm.
            if any(True for _ in block.shortcut.parameters()):
                for piece, module in enumerate(block.shortcut.children()):
                    yield f"{prefix}downsample.{piece}|{prefix}shortcut.{piece}", module
    yield CLASSIFIER, backbone.classifier


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
