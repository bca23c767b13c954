"""The pieces of a step as work that can be recorded and repeated.

A record repeats operations with the addresses and numbers they had. Hence whatever changes from step to
step lies here in tensors that stay where they are: the order of the epoch and a counter of steps, a table
of the epoch's learning rates and progress, batch and teachers' outputs, logits of an evaluation. The
host writes the tables once an epoch, and nothing between two steps but seeds of random numbers.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from kdctl.engine.batches import EpochOrder, EvaluationSet
from kdctl.engine.device import Compute
from kdctl.engine.evaluate import predict
from kdctl.engine.frozen import widened
from kdctl.engine.gang import Gang
from kdctl.engine.lookahead import Lookout
from kdctl.engine.member import Member
from kdctl.engine.optim import copy_learning_rate
from kdctl.engine.recall import Recall
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Batch


class Feed:
    """What members share of a step: its number, its batch, and what the teachers said to it."""

    def __init__(self, gang: Gang, order: EpochOrder) -> None:
        """`order` is that of the first epoch; later ones are copied into it."""
        device, wishes = gang.compute.device, gang.wishes()
        ask = functools.partial(gang.ask_teachers, wishes=wishes)
        self._train = gang.data.train
        self._order = order
        self.lookout = Lookout(gang.chunks, order, wishes=wishes, ask=ask)
        """Runs the teachers."""
        table = gang.table
        self.recall = table and Recall(table, gang.chunks, order, wishes=wishes, ask=ask)
        """Finds what was kept of them, if anything is."""
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)
        """[1]: the running step of the epoch."""
        self._range = torch.arange(self._train.batch_size, device=device)
        self._seen: dict[int, tuple[Batch, tuple[Outputs, ...]]] = {}

    def take_over(self, order: EpochOrder) -> None:
        """Go on with the choices of another epoch."""
        self._order.take_over(order)

    def stand_before(self, step: int) -> None:
        """Let the next batch be that of `step`."""
        self.counter.fill_(step - 1)

    def advance(self, size: int) -> None:
        """Make the next batch, of `size` images, and find what the teachers said to it."""
        self.counter.add_(1)
        places = self.counter * self._train.batch_size + self._range[:size]
        batch = self._train.gather(self._order, places)
        self._seen[size] = (batch, widened(self.lookout.read(places)))

    def seen(self, size: int) -> tuple[Batch, tuple[Outputs, ...]]:
        """Return where batch and teachers' outputs lie after a step with `size` images."""
        return self._seen[size]


class Pupil:
    """The part of one member in a step."""

    def __init__(self, member: Member, feed: Feed, gang: Gang) -> None:
        """Remember what `member` looks like before rehearsals."""
        self._member = member
        self._feed = feed
        self._compute = gang.compute
        self._num_steps = gang.data.train.num_steps
        self._pace = torch.zeros(self._num_steps, 2, device=gang.compute.device)
        """Learning rate and progress at each step of the epoch."""
        self._before = [(tensor, tensor.detach().clone()) for tensor in member.changing()]

    def begin_epoch(self) -> None:
        """Write down the epoch's learning rates and progress."""
        pace = [self._member.pace(step, self._num_steps) for step in range(self._num_steps)]
        self._pace.copy_(torch.tensor(pace))

    def learn(self, size: int) -> None:
        """Train on the batch that was made last, of `size` images."""
        batch, teachers = self._feed.seen(size)
        rate, progress = self._pace.index_select(0, self._feed.counter)[0].unbind()
        copy_learning_rate(self._member.optimizer, rate)
        self._member.learn(batch, teachers, progress, self._compute)

    @torch.no_grad()
    def forget(self) -> None:
        """Undo what rehearsals changed; what they made anew becomes zero."""
        known = {id(tensor) for tensor, _ in self._before}
        for tensor, value in self._before:
            tensor.copy_(value)
        for tensor in self._member.changing():
            if id(tensor) not in known:
                tensor.zero_()
        self._member.optimizer.zero_grad(set_to_none=True)


class Exam:
    """The evaluation of what a member would ship, on one split."""

    def __init__(self, model: nn.Module, images: EvaluationSet, compute: Compute) -> None:
        """Keep `model`: most of its weights are the very ones that are trained."""
        self._model = model
        self._images = images
        self._compute = compute
        self.logits = torch.empty(0)
        """[N, K]: where the logits lie after it."""

    def sit(self) -> None:
        """Predict every image of the split."""
        self.logits = predict(self._model, self._images, self._compute)

    def suits(self, model: nn.Module, images: EvaluationSet) -> bool:
        """Say whether it can evaluate `model`, which then is built like its own."""
        return images is self._images and _shapes(model) == _shapes(self._model)

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Take over what is a copy in `model`, such as a mean of weights; the rest is shared."""
        latest = model.state_dict()
        for name, value in self._model.state_dict().items():
            if value.data_ptr() != latest[name].data_ptr():
                value.copy_(latest[name])


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
