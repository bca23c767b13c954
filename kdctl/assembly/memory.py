"""Whether models fit into memory, before the system finds out by killing us."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kdctl.assembly.architecture import Architecture, build_architecture
from kdctl.assembly.data import Sizes
from kdctl.engine.device import shapes_only
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import models
from kdctl.recipe.plan import RunPlan

COPIES = 3
"""Of each trained weight, at least: itself, its gradient, its momentum."""


def require_memory(plan: RunPlan, sizes: Sizes, device: torch.device) -> None:
    """Raise if student and teachers cannot fit on the device, however small the batch.

    Raises:
        KdctlError: the weights alone are larger than the device's whole memory.
    """
    available = _total_bytes(device)
    teachers = [teacher.architecture for teacher in plan.teachers]
    names = [plan.student.name, *(teacher.name for teacher in plan.teachers)]
    needed = weight_bytes([plan.student.name], sizes, trained=True)
    needed += weight_bytes(teachers, sizes, trained=False)
    if available is not None and needed > available:
        raise KdctlError(
            f"the weights of {' and '.join(names)} need {needed / 2**30:,.1f} GiB to be trained, "
            f"{device} has {available / 2**30:,.1f} GiB.",
            "choose smaller models, or a larger device with --device.",
        )


def weight_bytes(architectures: Sequence[Architecture], sizes: Sizes, *, trained: bool) -> int:
    """Return what the weights of models take; with gradients and momenta if they are `trained`."""
    with shapes_only():
        built = [build_architecture(architecture, sizes) for architecture in architectures]
    return (COPIES if trained else 1) * _num_bytes(built)


def pass_bytes(name: str, sizes: Sizes, batch_size: int) -> int:
    """Return what a model keeps of a forward pass in fp32 until its backward pass, weights not counted.

    Counted on tensors without memory, so that no device is needed.
    """
    with shapes_only():
        model = models.get(name).item(*sizes).train()
        images = torch.empty(batch_size, 3, sizes.input_size, sizes.input_size)
    weights = {_address(parameter) for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        if _address(tensor) not in weights:
            kept[_address(tensor)] = tensor.untyped_storage()  # held, lest a later one gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images)
    return sum(storage.nbytes() for storage in kept.values())


def _address(tensor: Tensor) -> int:
    """Return what tells storages apart that have no memory."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def available_bytes(device: torch.device) -> int | None:
    """Return how much memory is free; None where the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [_available_to_system(), _available_to_container()]
    return min((number for number in free if number is not None), default=_total_bytes(device))


def _available_to_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _available_to_container() -> int | None:
    """Return what is left of the limit of this process's control group (version 2)."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)


def _num_bytes(modules: Sequence[nn.Module]) -> int:
    return sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())


def _total_bytes(device: torch.device) -> int | None:
    """Return the size of the device's memory; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
