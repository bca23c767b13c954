"""One training step as a method sees it: its phase, what it trains, is given, and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdctl.protocols.backbone import Outputs
from kdctl.recipe.component import Spec


class DivergedError(Exception):
    """What a method makes for an epoch is no number any more; says what, without a full stop."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training with losses, optimizer, rate schedule and `step.progress` of its own."""

    name: str = ""
    """For plans and results; empty where there is only one."""
    share: float = 1.0
    """Of the run's epochs; those of all phases sum to 1."""


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that one optimizer trains."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    """Those that are frozen or averaged are left out."""
    optimizer: Spec | None = None
    """With a learning rate of its own, which the recipe's schedule scales; None: the recipe's optimizer."""
    learning_rate_scale: float = 1.0
    """What the learning rate is multiplied by, whichever optimizer it is."""
    weight_decay: float | None = None
    """In place of the optimizer's; None: the optimizer's."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch, already augmented and normalised, on the device."""

    images: Tensor
    """[B, 3, H, W], float."""
    labels: Tensor | None
    """[B], int64; or [B, K], float: probabilities of each class. None for images that a method made up."""
    index: Tensor
    """[B], int64: which training samples these are. Meaningless for images that a method made up."""

    def require_labels(self) -> Tensor:
        """Return the labels of a method that reads them."""
        if self.labels is None:
            raise ValueError("these images have no labels: the method made them up")
        return self.labels

    def hard_labels(self) -> Tensor:
        """Return the class of each image, [B] int64: the likeliest where labels are probabilities."""
        labels = self.require_labels()
        return labels if labels.dim() == 1 else labels.argmax(dim=1)


@dataclass(frozen=True, kw_only=True)
class Update:
    """One forward pass, backward pass and optimizer step; most methods have one in each training step."""

    name: str = ""
    """How results call its loss terms, `name.term`; empty where there is only one."""
    groups: tuple[str, ...] | None = None
    """The parameter groups that it trains; None: all."""
    repeats: int = 1
    """How often it is taken in each training step."""
    reads: bool = True
    """Whether the engine runs the student (and, on images that the method makes, the teachers) for it."""


WHOLE_STEP = Update()
"""The one update of most methods: all parameter groups, by one loss."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """All that a method sees of one update."""

    batch: Batch
    student: Outputs
    """Empty where the update does not read it."""
    teachers: tuple[Outputs, ...]
    progress: Tensor
    """0-dim, on the device, from 0 at the first step to 1 after the last: schedules read this."""
    learning_rate: Tensor
    """0-dim, on the device: the recipe's learning rate in this step."""
    update: Update = WHOLE_STEP


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a method answers: the terms whose sum is trained."""

    task: Tensor | None
    """Weighted loss against the labels, 0-dim; None when the method has none (weight 0)."""
    transfer: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Weighted distillation terms by name, 0-dim each."""
    logits: Tensor | None
    """[B, K]: predictions on this batch, for the training accuracy only; None: there is none to tell."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What else is worth seeing, by name: means over the batch, 0-dim each; logged, not trained."""

    def terms(self) -> dict[str, Tensor]:
        """Return all terms by name, the task's first."""
        task = {} if self.task is None else {"task": self.task}
        return {**task, **self.transfer}

    def total(self) -> Tensor:
        """Return the sum that is minimised, 0-dim."""
        return torch.stack([term.float() for term in self.terms().values()]).sum()
