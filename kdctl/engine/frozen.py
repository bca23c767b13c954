"""The copy of a frozen teacher that the engine runs: folded, laid out and in the precision it was asked for.

Methods keep the teacher as it was loaded; so does whatever is shipped.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kdctl.engine.fold import fold_batch_norms, largest_error
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.shapes import VectorShape
from kdctl.recipe.engine_options import EngineOptions

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_log = logging.getLogger(__name__)


def frozen_copy(teacher: Backbone, options: EngineOptions, images: Tensor) -> Backbone:
    """Return a teacher as the engine runs it: maps and tokens in `options.teacher_precision`, else fp32.

    Vectors and logits are always computed in fp32: they cost next to nothing, and three digits are too
    few for softened predictions.

    Args:
        teacher: frozen, in eval mode; left as it is.
        options: whether batch norms are folded, and the precision of the maps.
        images: [B, 3, H, W], normalised, on the teacher's device: a small batch to hold the copy against it.

    Raises:
        KdctlError: numbers overflow in this precision.
    """
    made = fold_batch_norms(teacher, images) if options.fold_teacher else copy.deepcopy(teacher)
    if made is None:
        _log.warning("the teacher's batch norms are not folded: its outputs would not stay the same")
        made = copy.deepcopy(teacher)
    made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.teacher_precision == "fp32":
        return made
    _lower(made, PRECISIONS[options.teacher_precision])
    error = largest_error(made, teacher, images)
    if error == math.inf:
        raise KdctlError(
            f"the teacher's features overflow in {options.teacher_precision}.",
            "set engine.teacher_precision to 'bf16' or 'fp32'.",
        )
    _log.info("in %s the teacher is off by %.2g at most", options.teacher_precision, error)
    return made


def widened(outputs: Sequence[Outputs]) -> tuple[Outputs, ...]:
    """Return teachers' outputs in fp32: in whatever precision they compute, methods compare in that."""
    return tuple(
        Outputs(logits=seen.logits, taps={tap: features.float() for tap, features in seen.taps.items()})
        for seen in outputs
    )


class _Lowered(nn.Module):
    """A link that computes its map, or its tokens, in a lower precision."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype
        for layer in module.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.to(dtype)  # once and for all; autocast would do it at every step

    def forward(self, features: Tensor) -> Tensor:
        """Return the map; batch norms that are left compute in fp32 and round."""
        with torch.autocast(features.device.type, dtype=self.dtype, cache_enabled=False):
            return self.module(features)

    def observe(self, features: Tensor, taps: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the link gives, and what it passes on the way."""
        with torch.autocast(features.device.type, dtype=self.dtype, cache_enabled=False):
            return self.module.observe(features, taps)  # type: ignore[operator]


class _Widened(nn.Module):
    """A link that computes in fp32 whatever it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        """Return the vector."""
        return self.module(features.float())


def _lower(model: Backbone, dtype: torch.dtype) -> None:
    """Let all links that give maps or tokens compute in `dtype`."""
    for name, module in list(model.links.items()):
        if name not in model.tap_shapes:  # what normalises the images before has no tap, and stays
            continue
        is_wide = isinstance(model.tap_shapes[name], VectorShape)
        model.links[name] = _Widened(module) if is_wide else _Lowered(module, dtype)
