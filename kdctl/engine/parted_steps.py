"""Steps whose batch is taken in parts, one after the other, on one device or on several.

The gradient of a step is the mean over the whole batch. Losses see one part at a time, and so do batch norms
that are not synchronised; their running statistics move once in a step, by the mean over its parts. Each
part draws from a random stream of its own. So the numbers of a step do not depend on where its parts are
computed, but for the order in which gradients are summed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import (
    _BatchNorm as BatchNorm,  # pyright: ignore[reportPrivateUsage]  # torch's base of them all
)

from kdctl.engine.batches import EpochOrder
from kdctl.engine.evaluate import predict, predict_each
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member, StepInputs
from kdctl.engine.ranks import Ranks, watching
from kdctl.engine.streamed_batches import EvaluationImages, StreamedTrainingSet
from kdctl.engine.sync_batch_norm import SyncBatchNorm, require_one_part
from kdctl.errors import KdctlError, UsageError
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Distiller
from kdctl.protocols.step import WHOLE_STEP, Batch
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.engine_options import EngineOptions

FEWEST = 2
"""Images in a part: batch norm cannot take one."""


def require_parts(distiller: Distiller, num_parts: int, batch_size: int, num_images: int) -> None:
    """Refuse parts that would change what a method does, are too small, or that `num_images` never fill.

    Raises:
        KdctlError: they would.
    """
    if num_parts == 1:
        return
    where = f"engine.batch_parts = {num_parts}"
    if batch_size % num_parts or batch_size // num_parts < FEWEST:
        raise KdctlError(
            f"{where} does not divide data.batch_size = {batch_size} into equal parts of {FEWEST} or more.",
            f"use -o data.batch_size={max(FEWEST, round(batch_size / num_parts)) * num_parts}.",
        )
    if why := _why_not_in_parts(distiller):
        raise KdctlError(f"{where}: {why}.", "take the batch whole, or choose another method.")
    if num_images < FEWEST * num_parts:
        problem = f"{where}: {num_images} training images are too few for parts of {FEWEST} or more."
        raise KdctlError(problem, "take the batch whole: -o engine.batch_parts=1.")


def _why_not_in_parts(distiller: Distiller) -> str:
    kind = type(distiller)
    if isinstance(distiller.config, GeneratedImages):
        return "the method makes its own images"
    if distiller.updates() != (WHOLE_STEP,):
        return "the method takes several updates in a step"
    if kind.after_update is not Distiller.after_update or kind.prepare_epoch is not Distiller.prepare_epoch:
        return "the method keeps something from step to step, and needs the batch as one"
    return ""


def bounds(size: int, num_parts: int) -> list[slice]:
    """Return the parts of a batch of `size`, which differ by one image at most."""
    return [slice(size * part // num_parts, size * (part + 1) // num_parts) for part in range(num_parts)]


class PartedSteps:
    """Takes the batch of each step in parts; nothing is recorded."""

    def __init__(self, gang: Gang) -> None:
        """Take as many parts as the plans say; raise UsageError if this process cannot."""
        self._gang = gang
        self._num_parts = gang.compute.options.batch_parts
        require_devices(gang.compute.options, gang.ranks.count if gang.ranks else 1)
        self._mine = _share_of(self._num_parts, gang.ranks)
        self._order: EpochOrder | None = None
        self._works: list[_PartedWork] = []
        if gang.ranks is not None and isinstance(gang.data.train, StreamedTrainingSet):
            gang.data.train.take_share(self._share)

    def begin_epoch(self) -> None:
        """Draw the order of the epoch."""
        first = self._gang.active[0]
        self._order = self._gang.data.train.order(first.seed, first.epoch)
        self._works = [_PartedWork(member=member, ranks=self._gang.ranks) for member in self._gang.active]

    def take(self) -> None:
        """Take a step of every active member. A last batch with too few images for all parts is skipped."""
        gang, train = self._gang, self._gang.data.train
        if self._order is None:
            raise ValueError("begin_epoch comes before the first step")
        works = [work for work in self._works if not work.member.left]
        step = works[0].member.step
        size = train.size(step)
        if size < FEWEST * self._num_parts:
            for work in works:
                work.member.step += 1
            return
        for work in works:
            work.begin(train.num_steps)
        parts = bounds(size, self._num_parts)
        for number in self._mine:
            part, start = parts[number], step * train.batch_size
            batch = train.gather(self._order, slice(start + part.start, start + part.stop))
            teachers = gang.teacher_outputs(batch.images)
            for work in works:
                weight = (part.stop - part.start) / size
                work.add(number, batch, teachers, gang, weight=weight, is_last=number == self._mine[-1])
        for work in works:
            work.finish(size)

    def _share(self, size: int) -> slice:
        """Return which images of a batch of `size` this process takes."""
        own = bounds(size, self._num_parts)[self._mine.start : self._mine.stop]
        return slice(own[0].start, own[-1].stop)

    def predict(self, member: Member, name: str, model: nn.Module, images: EvaluationImages) -> Tensor:
        """Return the logits [N, K]; of several processes each predicts a share."""
        ranks = self._gang.ranks
        if ranks is None:
            return predict(model, images, self._gang.compute)
        own = images.images(start=ranks.rank, every=ranks.count)
        shares = ranks.gather(predict_each(model, own, self._gang.compute))
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*shares))
        return torch.cat([logits for logits in in_turn if logits is not None]).to(images.labels.device)

    def join(self) -> None:
        """Let every process know the sums of all."""
        for work in self._works:
            work.reduce_sums()

    def executed_as(self, member: Member) -> str:
        """Say in how many parts a batch is taken, and on how many devices."""
        ranks = self._gang.ranks
        return f"eager, batches in {self._num_parts} parts" + (f" on {ranks.count} devices" if ranks else "")


def require_devices(options: EngineOptions, num_devices: int) -> None:
    """Raise if so many devices cannot take the parts of a batch: equally many, or one, as batch norms want.

    Raises:
        UsageError: they cannot.
    """
    if (num_parts := options.batch_parts) % num_devices:
        raise UsageError(
            f"engine.batch_parts = {num_parts} cannot be taken by {num_devices} devices.",
            f"use -o engine.batch_parts={num_devices} or a multiple of it.",
        )
    if options.sync_batch_norm:
        require_one_part(num_parts // num_devices, num_parts)


def _share_of(num_parts: int, ranks: Ranks | None) -> range:
    """Return the parts that this process takes, as many as each of the others."""
    if ranks is None:
        return range(num_parts)
    each = num_parts // ranks.count
    return range(ranks.rank * each, (ranks.rank + 1) * each)


class _Pass(nn.Module):
    """A forward pass of a member as DistributedDataParallel wants it: all parameters within one module."""

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        """Return the loss that `run` computes."""
        return run()


_WORDS = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_BUFFERS_STAY: dict[str, Any] = {
    ("forward_sync_buffers" if "forward_sync_buffers" in _WORDS else "broadcast_buffers"): False
}
"""Statistics of batch norms are averaged here, once in a step; torch 2.14 gave the option another name."""


@dataclass(kw_only=True)
class _PartedWork:
    """One member within a step: its gradients so far, and the statistics of its batch norms."""

    member: Member
    ranks: Ranks | None = None
    _pass: nn.Module = field(init=False)
    _known: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """By the identity of a sum: what of it the other processes have already."""
    _norms: list[Tensor] = field(default_factory=list[Tensor])
    """Running statistics of the batch norms that train."""
    _before: list[Tensor] = field(default_factory=list[Tensor])
    """Those statistics when the step began: every part starts from them."""
    _mean: list[Tensor] = field(default_factory=list[Tensor])
    """The mean of the statistics after each part, weighted by its images: what they become."""
    _inputs: tuple[Tensor, Tensor] | None = None
    """Progress and learning rate of the step."""

    def __post_init__(self) -> None:
        """Find the batch norms, and let gradients be summed over processes while they are computed."""
        self._pass = _Pass(self.member.distiller)
        if self.ranks is not None:
            with watching(self.ranks):  # it compares the shapes of all processes
                self._pass = nn.parallel.DistributedDataParallel(self._pass, **_BUFFERS_STAY)
            self._known = {id(tensor): tensor.clone() for tensor in self.member.sums.tensors()}
        self._norms = [
            buffer
            for module in self.member.distiller.modules()
            if isinstance(module, BatchNorm) and module.training
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]

    @torch.no_grad()
    def begin(self, num_steps: int) -> None:
        """Set learning rates, and forget the gradients of the step before."""
        self._inputs = self.member.set_learning_rates(num_steps)
        for part in self.member.optimizers:
            part.optimizer.zero_grad(set_to_none=True)
        self._before = [buffer.clone() for buffer in self._norms]
        self._mean = [torch.zeros_like(buffer) for buffer in self._norms]

    def add(
        self,
        number: int,
        batch: Batch,
        teachers: tuple[Outputs, ...],
        gang: Gang,
        *,
        weight: float,
        is_last: bool,
    ) -> None:
        """Add the gradients of a part, which counts `weight` of the step; after the last they are summed."""
        member = self.member
        if self._inputs is None:
            raise ValueError("begin comes before add")
        progress, learning_rate = self._inputs
        member.reseed(number)
        inputs = StepInputs(batch=batch, teachers=teachers, progress=progress, learning_rate=learning_rate)
        run_teachers = functools.partial(gang.outputs_for, member)
        synchronises = self.ranks and gang.compute.options.sync_batch_norm

        def run() -> Tensor:
            with SyncBatchNorm() if synchronises else contextlib.nullcontext():
                _, losses = member.forward(WHOLE_STEP, inputs, gang.compute, run_teachers)
            member.sums.add(losses, batch)
            return losses.total() * weight

        if self.ranks is None:
            torch.autograd.backward(self._pass(run))
        else:
            waits = contextlib.nullcontext() if is_last else cast(Any, self._pass).no_sync()
            with watching(self.ranks), waits:
                # DistributedDataParallel averages over processes, and the weights sum to 1 over all.
                torch.autograd.backward(self._pass(run) * self.ranks.count)
        with torch.no_grad():
            for mean, before, buffer in zip(self._mean, self._before, self._norms, strict=True):
                mean.add_(buffer, alpha=weight)
                buffer.copy_(before)

    @torch.no_grad()
    def finish(self, size: int) -> None:
        """Update the weights."""
        if self.ranks is not None:
            self.ranks.add(self._mean)
        for mean, buffer in zip(self._mean, self._norms, strict=True):
            buffer.copy_(mean)
        for part in self.member.optimizers:
            part.step()
        self.member.maybe_update_average()
        self.member.advance(size)

    @torch.no_grad()
    def reduce_sums(self) -> None:
        """Add up over all processes what each of them has counted since the last time.

        After each call all processes have the same sums. So the next time one of them, the leader, puts in
        its sums as they are, and each other only what it has added to its own since.
        """
        if self.ranks is None:
            return
        sums = self.member.sums.tensors()
        if not self.ranks.leads:
            for tensor in sums:
                if id(tensor) in self._known:
                    tensor.sub_(self._known[id(tensor)])
        self.ranks.add(sums)
        self._known = {id(tensor): tensor.clone() for tensor in sums}
