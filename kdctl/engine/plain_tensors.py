"""Tensors from files of others: plain, finite, and of the kind that a model has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kdctl.engine.file_kinds import DamagedCheckpointError
from kdctl.errors import KdctlError

_NUMBERS = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    }
)
"""What tensors of a model may consist of."""


def require_plain(tensors: Mapping[str, Tensor], path: Path, num_bytes: int) -> None:
    """Refuse tensors that no model is saved as, and that fail or fill the memory as soon as they are used.

    Args:
        tensors: by name.
        path: the file that they are from.
        num_bytes: of that file.

    Raises:
        DamagedCheckpointError: one is sparse, quantized, of another device, of numbers that no model has, or
            has more numbers than its file has bytes.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            form = "sparse, quantized or nested"
        elif tensor.device.type != "cpu":
            form = "without its numbers"
        elif tensor.dtype not in _NUMBERS:
            form = str(tensor.dtype).removeprefix("torch.")
        elif tensor.numel() > num_bytes:
            form = f"{tensor.numel():,} numbers in a file of {num_bytes:,} bytes"
        else:
            continue
        raise DamagedCheckpointError(
            f"{path} holds {name} in a form that no model has ({form}).",
            "save plain tensors: torch.save(model.state_dict(), ...).",
        )


def require_finite(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse weights that were not saved by a training that went well.

    Raises:
        KdctlError: a tensor has a NaN or an infinity.
    """
    spoilt = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if spoilt:
        raise KdctlError(
            f"{source} has numbers that are not finite (NaN or infinity) in {len(spoilt)} of {len(tensors)} "
            f"tensors, the first is {spoilt[0]}.",
            "its training diverged, or the file was made wrong: use another one.",
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() and not tensor.is_complex():
        return True
    # Models compute with 32 bits, which hold less than 64 do; with 8 bits nothing computes.
    numbers = tensor.float() if tensor.is_floating_point() else tensor
    return bool(torch.isfinite(numbers).all())


def difference(tensor: Tensor, own: Tensor) -> str:
    """Say in what a tensor differs from the one of a model that it stands for; empty if in nothing.

    Whole numbers are not taken for real ones: torch would copy them without their scale.
    """
    if tensor.shape != own.shape:
        return f"is {_shape(tensor)}, not {_shape(own)}"
    if own.is_floating_point() and not tensor.is_floating_point():
        return f"has numbers of {_kind(tensor)}, not of {_kind(own)}"
    return ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
