"""Distillers of any method around any models, and a guard against reading the device from the host."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kdctl.assembly.assemble import build_distiller
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import Sizes
from kdctl.engine.device import Compute
from kdctl.engine.frozen import frozen_copy
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member, StepInputs
from kdctl.engine.optim import build_optimizers
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.distiller import Batch, Distiller, Losses, Step, Update, methods
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.plan import NUMERICS, SCHEMA, RunPlan
from kdctl.recipe.stored import read_plan

SIZES = Sizes(num_classes=4, input_size=16)
NUM_SAMPLES = 40
BATCH = 6
CPU = torch.device("cpu")
STUDENT_SEED = 100
"""Another one than those of the teachers."""

HOST_READS = frozenset(
    {
        "aten::_local_scalar_dense",  # .item(), float(tensor), `if tensor`
        "aten::equal",
        "aten::is_nonzero",
        "aten::nonzero",
        "aten::masked_select",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::unique_consecutive",
        "aten::repeat_interleave",
        "aten::bincount",
        "aten::lift_fresh",  # torch.tensor(3.0, device=...) is a copy from the host; torch.full is none
        # In deterministic mode a GPU copies strides from the host for these (not in all versions of torch);
        # the backward pass of `gather` has one of them, that of `index_select` has none.
        "aten::scatter",
        "aten::scatter_",
        "aten::scatter_add",
        "aten::scatter_add_",
    }
)
"""What makes the host wait for the device, or the shape of a result depend on data."""


SMALL = {
    **{"batch_size": BATCH, "steps_per_epoch": 3, "noise_size": 8, "student_updates": 2},
    **{"images_per_round": BATCH, "pool_size": 4 * BATCH, "inversion_steps": 2},
    **{"num_negatives": 5, "embedding_width": 7, "warmup_rounds": 1},
}
"""Sizes of methods that make their images, in place of their defaults."""


class HostReadError(Exception):
    """A loss looked at values that lie on the device."""


class NoDependenceOnValues(TorchDispatchMode):
    """Fails on every operation that a CUDA graph could not record."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.name().partition(".")[0]
        masks = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in HOST_READS or masks:
            raise HostReadError(func.name())
        return func(*args, **(kwargs or {}))


class NoCopiesToHost(TorchFunctionMode):
    """Fails on what reads memory without an operation, as a tensor on the CPU lets one do."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__):
            raise HostReadError(f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_host_reads_inside() -> Iterator[None]:
    with NoDependenceOnValues(), NoCopiesToHost():
        yield


@dataclass(kw_only=True)
class Trial:
    """A method at work: what it was built into, and a batch to try it on."""

    plan: RunPlan
    distiller: Distiller
    teachers: Sequence[Backbone]
    member: Member
    gang: Gang
    batch: Batch

    def inputs(self) -> StepInputs:
        """Return what a step is given, halfway through the training."""
        return StepInputs(
            batch=self.batch,
            teachers=self.gang.teacher_outputs(self.batch.images),
            progress=torch.tensor(0.5, device=self.gang.compute.device),
            learning_rate=torch.tensor(0.1, device=self.gang.compute.device),
        )

    def learn(self, inputs: StepInputs) -> None:
        """Do what a step does on the device."""
        self.member.learn(inputs, self.gang.compute, functools.partial(self.gang.outputs_for, self.member))

    def look(self, update: Update | None = None) -> Step:
        """Run student and teachers as the engine does for an update, the first if none is named."""
        self.distiller.setup.rng.manual_seed(1)
        update = update or self.distiller.updates()[0]
        run_teachers = functools.partial(self.gang.outputs_for, self.member)
        return self.member.forward(update, self.inputs(), self.gang.compute, run_teachers)[0]

    def losses(self, step: Step) -> Losses:
        """Ask the method, in the engine's arithmetic."""
        self.distiller.setup.rng.manual_seed(1)
        with self.gang.compute.arithmetic():
            return self.distiller.losses(step)

    def train_step(self) -> None:
        """Take one whole training step."""
        teachers = self.gang.teacher_outputs(self.batch.images)
        run_teachers = functools.partial(self.gang.outputs_for, self.member)
        self.member.update(self.batch, teachers, 10, self.gang.compute, run_teachers)
        self.member.advance(len(self.batch.images))


def draw_batch(device: torch.device = CPU) -> Batch:
    random = torch.Generator().manual_seed(3)
    size = SIZES.input_size
    images = torch.randn(BATCH, 3, size, size, generator=random).to(memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 2, 3, 1, 2])
    index = torch.randperm(NUM_SAMPLES, generator=random)[:BATCH]
    return Batch(images=images.to(device), labels=labels.to(device), index=index.to(device))


def made_small(method: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return a method with images of its own as one that makes few of them."""
    table = {"name": method} if isinstance(method, str) else method
    config = methods.get(table["name"]).config
    if not issubclass(config, GeneratedImages):
        return method
    return {**{name: size for name, size in SMALL.items() if name in config.__dataclass_fields__}, **table}


class TensorsApart(pickle.Pickler):
    """Leaves tensors out of what it writes, and keeps them by number."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: dict[int, Tensor] = {}

    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        self.tensors[id(obj)] = obj
        return id(obj)


class TensorsGiven(pickle.Unpickler):
    """Puts other tensors in their places."""

    def __init__(self, file: io.BytesIO, tensors: Mapping[int, Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self._tensors[pid]


class Copies:
    """Gives copies of a model, equal to those of `copy.deepcopy`, which is Python, in a third of its time."""

    def __init__(self, model: Backbone) -> None:
        written = io.BytesIO()
        pickler = TensorsApart(written)
        pickler.dump(model)
        self._tensors, self._structure = pickler.tensors, written.getvalue()

    def __call__(self) -> Backbone:
        tensors = {number: copy.deepcopy(tensor) for number, tensor in self._tensors.items()}
        return TensorsGiven(io.BytesIO(self._structure), tensors).load()


@functools.lru_cache(maxsize=16)
def copies_of(name: str, seed: int) -> Copies:
    """Draw a model once for many tests, each of which takes a copy: to draw takes longer."""
    torch.manual_seed(seed)
    return Copies(models.get(name).item(*SIZES))


def build_teacher(name: str, seed: int) -> Backbone:
    return copies_of(name, seed)().eval().requires_grad_(requires_grad=False)


@functools.lru_cache(maxsize=16)
def teacher_to_run(name: str, seed: int, options: EngineOptions) -> Backbone:
    """Return a teacher as the engine runs it, which no test changes."""
    return frozen_copy(build_teacher(name, seed), options, draw_batch().images)


@pytest.fixture
def try_method(tmp_path: Path) -> Callable[..., Trial]:
    """Build a method, by name or table, in its first phase around a student and the fewest teachers."""

    def build(
        method: str | dict[str, Any],
        student: str = "resnet8",
        teacher: str = "resnet14",
        *,
        device: torch.device = CPU,
        **engine: Any,
    ) -> Trial:
        tree = {
            "schema": SCHEMA,
            "numerics": NUMERICS,
            "protocol": "",
            "data": "digits",
            "data_fingerprint": "",
            "student": student,
            "teachers": [],
            "method": made_small(method),
            "optimizer": {"name": "sgd", "learning_rate": 0.01},
            "schedule": "constant",
            "engine": engine,
            "seed": 0,
        }
        plan = read_plan(tree, full_catalog())
        fewest, _ = methods.get(plan.method.name).item.num_teachers
        teachers = [build_teacher(teacher, seed).to(device) for seed in range(fewest)]
        learner = copies_of(student, STUDENT_SEED)()
        distiller = build_distiller(plan, learner, teachers, num_samples=NUM_SAMPLES, device=device)
        distiller.train()
        member = Member(
            key=plan.key,
            seed=plan.seed,
            distiller=distiller,
            make_optimizers=functools.partial(build_optimizers, plan.optimizer),
            schedule=plan.schedule.options,
            learning_rate=0.01,
            folder=tmp_path / plan.key,
            plan=plan.tree(),
        )
        compute = Compute(device=device, options=EngineOptions(**engine))
        run = [teacher_to_run(teacher, seed, compute.options) for seed in range(fewest)]
        run = run if device == CPU else [copy.deepcopy(each).to(device) for each in run]
        gang = Gang(members=[member], teachers=run, data=None, compute=compute)  # type: ignore[arg-type]
        return Trial(
            plan=plan,
            distiller=distiller,
            teachers=teachers,
            member=member,
            gang=gang,
            batch=draw_batch(device),
        )

    return build


@pytest.fixture
def no_host_reads() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return what makes a context in which reading the device from the host fails."""
    return no_host_reads_inside
