"""Whether models fit into memory, before the system finds out by killing us."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdctl.assembly.architecture import Architecture, build_architecture
from kdctl.assembly.assemble import join, make_projector
from kdctl.assembly.data import Sizes
from kdctl.assembly.operations import losses_of_a_step
from kdctl.engine.device import kept_bytes, shapes_computed, shapes_only
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Distiller
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.plan import RunPlan

COPIES = 3
"""Of each trained weight, at least: itself, its gradient, its momentum."""

_LATER_COPIES = 3
"""Of each trained weight that is built, with its momentum: its gradient, and weight and momentum once more in
a state that is saved while the training goes on."""


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


def require_room(weights: Iterable[Tensor], device: torch.device) -> None:
    """Raise if what a training adds to its weights is more than is free on the CPU.

    Linux kills a process that takes what is not there, without a word; a GPU refuses by itself.

    Args:
        weights: of all that is trained in lockstep, built already.
        device: on which it is trained.

    Raises:
        MemoryError: fewer runs at once may fit.
    """
    if device.type != "cpu":
        return
    needed = _LATER_COPIES * _num_bytes(weight for weight in weights if weight.requires_grad)
    free = available_bytes(device)
    if free is not None and needed > free:
        gc.collect()  # of runs that are over: they refer to themselves
        free = available_bytes(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"gradients and saved states need {needed / 2**30:,.1f} GiB beside weights and momenta, "
            f"{free / 2**30:,.1f} GiB are free"
        )


def weight_bytes(architectures: Sequence[Architecture], sizes: Sizes, *, trained: bool) -> int:
    """Return what the weights of models take; with gradients and momenta if they are `trained`."""
    with shapes_only():
        built = [build_architecture(architecture, sizes) for architecture in architectures]
    return (COPIES if trained else 1) * _num_bytes(weight for model in built for weight in model.parameters())


@dataclass(frozen=True, kw_only=True)
class RunBytes:
    """What a run takes beside its frozen teachers."""

    weights: int
    """Of all that learns, with gradients and momenta, and of what is kept beside it: averages, banks."""
    activations: int
    """Of what an update keeps in fp32 between its forward and its backward passes."""


def run_bytes(plan: RunPlan, sizes: Sizes, num_samples: int) -> RunBytes:
    """Count what a run takes, on tensors without memory: no device is needed.

    A method that makes its images, or cannot be asked without numbers, counts like its student.

    Args:
        plan: of the run.
        sizes: of the images and labels.
        num_samples: in the training set.
    """
    with shapes_computed(batch_norms=True):
        student = build_architecture(plan.student.name, sizes)
        teachers = [build_architecture(teacher.architecture, sizes) for teacher in plan.teachers]
        weights, activations = COPIES * _num_bytes(student.parameters()), None
        with contextlib.suppress(Exception):  # code of a plug-in that needs numbers may raise anything
            distiller = join(
                plan.method, student, teachers, seed=plan.seed, student_name=plan.student.name,
                num_samples=num_samples, rng=torch.Generator("cpu"), projector=make_projector,
            )  # fmt: skip
            weights = _kept_bytes(distiller, averaged=plan.engine.average_decay > 0)
            if not isinstance(plan.method.options, GeneratedImages):
                activations = step_bytes(distiller, plan.batch_size)
        if activations is None:
            activations = pass_bytes(student, plan.batch_size)
    return RunBytes(weights=weights, activations=activations)


def _kept_bytes(distiller: Distiller, *, averaged: bool) -> int:
    """Return what lies in memory between two steps."""
    count = sum(
        (COPIES if weight.requires_grad else 1) * _num_bytes([weight]) for weight in distiller.parameters()
    )
    average = distiller.inference_model().parameters() if averaged else ()
    return count + _num_bytes(distiller.buffers()) + _num_bytes(average)


def step_bytes(distiller: Distiller, batch_size: int) -> int:
    """Return what the largest update of a training step keeps in fp32 until its backward pass.

    To be called within `shapes_computed`, with batch norms.
    """
    saved, most = _SavedTensors(distiller), 0
    with saved.counted():
        for _ in losses_of_a_step(distiller, batch_size, runs_student=True):
            most = max(most, saved.num_bytes)
            saved.clear()
    return most


def pass_bytes(model: Backbone, batch_size: int) -> int:
    """Return what a model keeps of a forward pass in fp32 until its backward pass, weights not counted.

    To be called within `shapes_computed`, with batch norms.
    """
    saved = _SavedTensors(model)
    with saved.counted():
        model.train()(torch.empty(batch_size, 3, model.input_size, model.input_size))
    return saved.num_bytes


class _SavedTensors:
    """What is kept for backward passes: each storage once, and not the weights of a module."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = {_address(parameter) for parameter in module.parameters()}
        self._kept: dict[int, torch.UntypedStorage] = {}

    @property
    def num_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._kept.values())

    def counted(self) -> contextlib.AbstractContextManager[None]:
        """Count what is kept from here on."""
        return torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def clear(self) -> None:
        self._kept.clear()

    def _note(self, tensor: Tensor) -> Tensor:
        if _address(tensor) not in self._weights:
            self._kept[_address(tensor)] = tensor.untyped_storage()  # held, lest a later one gets its address
        return tensor


def _address(tensor: Tensor) -> int:
    """Return what tells storages apart that have no memory."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def available_bytes(device: torch.device) -> int | None:
    """Return how much memory this process can have; None where the system does not tell.

    That is what is free, and what it has freed itself and keeps.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [number for number in (_available_to_system(), _available_to_container()) if number is not None]
    return min(free) + kept_bytes() if free else _total_bytes(device)


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


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _total_bytes(device: torch.device) -> int | None:
    """Return the size of the device's memory; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
