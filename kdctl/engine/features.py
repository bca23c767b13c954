"""What a model makes of images before it decides: the vectors that its last linear layer reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdctl.engine.device import Compute
from kdctl.engine.evaluate import predict
from kdctl.engine.streamed_batches import EvaluationImages
from kdctl.errors import KdctlError


def pooled_features(model: nn.Module, images: EvaluationImages, compute: Compute) -> Tensor:
    """Return the vectors [N, D] that the last linear layer reads, in fp32 on the CPU, in the images' order.

    Of a student that ships with a projector these are the projected features.

    Raises:
        KdctlError: the model has no linear layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise KdctlError(
            "the model has no linear layer, so there are no features before it.",
            "take features of a model that ends in a linear classifier.",
        )
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].float().cpu())

    handle = layers[-1].register_forward_pre_hook(keep)
    try:
        predict(model, images, compute)
    finally:
        handle.remove()
    return torch.cat(seen)
