"""The work of a step in a form that a CUDA graph can record.

A graph repeats its kernels on the same addresses and with the same numbers. So whatever changes from step
to step is in tensors whose memory stays the same: the order of the epoch, the number of the step, a table
of the epoch's learning rates and progress, batch and teacher outputs, the logits of an evaluation. The host
writes the tables once an epoch. Between two steps it only sets the seeds of the methods' random numbers.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from kdctl.engine.batches import EpochOrder
from kdctl.engine.device import Compute
from kdctl.engine.evaluate import predict
from kdctl.engine.frozen import widened
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member, StepInputs
from kdctl.engine.optim import copy_learning_rate
from kdctl.engine.streamed_batches import EvaluationImages
from kdctl.engine.table_filler import TableFiller
from kdctl.engine.teacher_lookahead import TeacherLookahead
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Batch


class RecordedBatches:
    """What the members of a gang share in a step: its number, its batch, and the teachers' outputs on it."""

    def __init__(self, gang: Gang, order: EpochOrder) -> None:
        """`order` is that of the first epoch; those of later epochs are copied into it."""
        device, reads = gang.compute.device, gang.reads()
        run_teachers = functools.partial(gang.run_teachers, reads=reads)
        self._train = gang.data.train
        self._order = order
        self.lookahead = TeacherLookahead(gang.chunks, order, reads=reads, run_teachers=run_teachers)
        """Runs the teachers."""
        table = gang.table
        self.filler = table and TableFiller(table, gang.chunks, order, reads=reads, run_teachers=run_teachers)
        """Reads the teachers' outputs from the table instead; None without a table."""
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)
        """[1]: the running step of the epoch."""
        self._range = torch.arange(self._train.batch_size, device=device)
        self._seen: dict[int, tuple[Batch, tuple[Outputs, ...]]] = {}

    def copy_from(self, order: EpochOrder) -> None:
        """Take over the random choices of another epoch."""
        self._order.copy_from(order)

    def seek(self, step: int) -> None:
        """Let the next batch be that of `step`."""
        self.counter.fill_(step - 1)

    def advance(self, size: int) -> None:
        """Make the next batch, of `size` images, and read the teachers' outputs on it."""
        self.counter.add_(1)
        places = self.counter * self._train.batch_size + self._range[:size]
        batch = self._train.gather(self._order, places)
        self._seen[size] = (batch, widened(self.lookahead.read(places)))

    def seen(self, size: int) -> tuple[Batch, tuple[Outputs, ...]]:
        """Return batch and teacher outputs of a step with `size` images: the same tensors in each step."""
        return self._seen[size]


class RecordedStep:
    """The training step of one member."""

    def __init__(self, member: Member, batches: RecordedBatches, gang: Gang) -> None:
        """Remember what `member` looks like before warm-up runs."""
        self._member = member
        self._batches = batches
        self._compute = gang.compute
        self._num_steps = gang.data.train.num_steps
        self._run_teachers = functools.partial(gang.outputs_for, member)
        num_columns = 2 + len(member.optimizers)
        self._schedule = torch.zeros(self._num_steps, num_columns, device=gang.compute.device)
        """At each step of the epoch: progress, the recipe's learning rate, that of each optimizer."""
        self._before = [(tensor, tensor.detach().clone()) for tensor in member.changing()]

    def begin_epoch(self) -> None:
        """Write the epoch's learning rates and progress into the table on the device."""
        points = [self._member.schedule_at(step, self._num_steps) for step in range(self._num_steps)]
        rows = [(point.progress, point.learning_rate, *point.group_rates) for point in points]
        self._schedule.copy_(torch.tensor(rows))

    def learn(self, size: int) -> None:
        """Train on the current batch, of `size` images."""
        batch, teachers = self._batches.seen(size)
        row = self._schedule.index_select(0, self._batches.counter)[0]
        progress, learning_rate, *rates = row.unbind()
        for part, rate in zip(self._member.optimizers, rates, strict=True):
            copy_learning_rate(part.optimizer, rate)
        inputs = StepInputs(batch=batch, teachers=teachers, progress=progress, learning_rate=learning_rate)
        self._member.learn(inputs, self._compute, self._run_teachers)

    @torch.no_grad()
    def undo_warm_up(self) -> None:
        """Restore what the warm-up runs changed; tensors that they created become zero."""
        known = {id(tensor) for tensor, _ in self._before}
        for tensor, value in self._before:
            tensor.copy_(value)
        for tensor in self._member.changing():
            if id(tensor) not in known:
                tensor.zero_()
        for part in self._member.optimizers:
            part.optimizer.zero_grad(set_to_none=True)

    def forget_start(self) -> None:
        """Give back the memory of what `undo_warm_up` restores: there is no further warm-up."""
        self._before = []


class RecordedEvaluation:
    """The evaluation of one model of a member on one split."""

    def __init__(self, name: str, model: nn.Module, images: EvaluationImages, compute: Compute) -> None:
        """Evaluate the member's model called `name`; most of its weights are the tensors that are trained."""
        self._name = name
        self._model = model
        self._images = images
        self._compute = compute
        self.logits = torch.empty(0)
        """[N, K]: the logits after a run."""

    def run(self) -> None:
        """Predict every image of the split."""
        self.logits = predict(self._model, self._images, self._compute)

    def fits(self, name: str, model: nn.Module, images: EvaluationImages) -> bool:
        """Say whether the record can evaluate `model`: of the same name, built alike, on the same split."""
        same = name == self._name and images is self._images
        return same and _shapes(model) == _shapes(self._model)

    @torch.no_grad()
    def copy_weights(self, model: nn.Module) -> None:
        """Copy the weights that `model` does not share with training, such as averages of weights."""
        latest = model.state_dict()
        for name, value in self._model.state_dict().items():
            if value.data_ptr() != latest[name].data_ptr():
                value.copy_(latest[name])


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
