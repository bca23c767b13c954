"""Arithmetic that autocast must not touch."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context in which matrix products on the tensor's device keep their operands' precision.

    Under autocast `float()` is not enough: a product of two fp32 tensors would be taken in bf16, whose
    three digits are too few for differences of similarities.
    """
    return torch.autocast(tensor.device.type, enabled=False)
