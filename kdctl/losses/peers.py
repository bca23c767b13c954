"""Several models that learn from scratch and from each other: what such methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from kdctl.errors import KdctlError
from kdctl.losses.supervision import label_loss
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.distiller import Distiller, Losses, NamedModel, ParameterGroup, Setup, Step, Update
from kdctl.protocols.step import WHOLE_STEP
from kdctl.recipe.component import tunable

SAME = "student"
"""What a recipe calls another model of the student's kind; and the name of the student among its peers."""

_VERSION = "@"
"""Between the name of a peer and the version of the plug-in that brings it."""


@dataclass(frozen=True, kw_only=True)
class PeerOptions:
    """Who learns beside the student; a method's `Config` adds its own to these."""

    peers: tuple[str, ...] = (SAME,)
    """Who learns beside the student, by model; 'student': another one of its kind. All are drawn anew."""
    kd_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 10.0, log=True)
    """Of what a model learns from the others, beside the cross-entropy with the labels."""
    order: Literal["together", "in_turn"] = "together"
    """'together': all predict, then all are updated. 'in_turn': each is updated by what the others predict
    just then, those updated before it included: a forward pass of every model for every update."""

    def __post_init__(self) -> None:
        """Bring names to the form that run keys are made of.

        Raises:
            ValueError: there is no peer, or no model of a name.
        """
        if not self.peers:
            raise ValueError("peers = []: with no peer there is nobody to learn from")
        object.__setattr__(self, "peers", tuple(map(_versioned, self.peers)))


class LearnsWithPeers(Distiller):
    """Trains the student and its peers by the labels and by each other; the student is shipped.

    A subclass says in `lesson` what a model learns from the others' predictions.
    """

    Config: ClassVar[type] = PeerOptions
    num_teachers: ClassVar[tuple[int, int | None]] = (0, 0)
    peers: nn.ModuleList
    still_finite: Tensor
    """[1 + peers], bool: whose loss against the labels was a finite number in every step."""
    finite_steps: Tensor
    """[1 + peers], int64: in how many steps it was, before the first in which it was not."""

    def __init__(self, config: Any, setup: Setup) -> None:
        """Build the peers.

        Raises:
            KdctlError: a peer does not take the data's images, or tells other classes apart.
        """
        super().__init__(config, setup)
        self.peers = nn.ModuleList(_build(name, setup) for name in config.peers)
        self.names = (SAME, *(f"peer_{place}" for place in range(1, len(self.peers) + 1)))
        self.register_buffer("still_finite", torch.ones(len(self.names), dtype=torch.bool))
        self.register_buffer("finite_steps", torch.zeros(len(self.names), dtype=torch.int64))

    def models(self) -> tuple[NamedModel, ...]:
        """Return the peers."""
        return tuple(
            NamedModel(name=name, module=peer) for name, peer in zip(self.names[1:], self.peers, strict=True)
        )

    def updates(self) -> tuple[Update, ...]:
        """Return one update of all models, or one for each."""
        if self.config.order == "together":
            return (WHOLE_STEP,)
        return tuple(Update(name=name, groups=(name,)) for name in self.names)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Return one group of all models, or one for each."""
        if self.config.order == "together":
            return super().parameter_groups()
        return tuple(
            ParameterGroup(name=name, parameters=tuple(model.parameters()))
            for name, model in zip(self.names, (self.student, *self.peers), strict=True)
        )

    def lesson(self, logits: Sequence[Tensor], place: int, step: Step) -> Tensor:
        """Return what one model learns from the others, before its weight, 0-dim.

        Args:
            logits: [B, K] of every model, the student's first; gradients are to go to the model's own alone.
            place: of the model among them.
            step: whose labels may count.
        """
        raise TypeError(f"{type(self).__name__} must define lesson()")

    def losses(self, step: Step) -> Losses:
        """Return the loss against the labels and the lesson of each model that is updated."""
        logits = self._predict(step)
        tasks = [label_loss(each, step.batch) for each in logits]
        self._watch(torch.stack(tasks).detach())
        terms: dict[str, Tensor] = {}
        for place, (name, task) in enumerate(zip(self.names, tasks, strict=True)):
            if step.update.name in ("", name):
                prefix = "" if name in (SAME, step.update.name) else f"{name}_"
                terms[f"{prefix}task"] = task
                terms[f"{prefix}lesson"] = self.config.kd_weight * self.lesson(logits, place, step)
        own = logits[0] if step.update.name in ("", SAME) else None
        return Losses(task=terms.pop("task", None), transfer=terms, logits=own)

    def first_not_finite(self) -> tuple[str, ...]:
        """Name the models whose loss against the labels was the first that was no finite number."""
        first = int(self.finite_steps.min())
        return tuple(
            name
            for name, steps, finite in zip(
                self.names, self.finite_steps.tolist(), self.still_finite.tolist(), strict=True
            )
            if steps == first and not finite
        )

    def _predict(self, step: Step) -> list[Tensor]:
        """Return the logits of all models; those of models that are not updated have no gradient."""
        logits = [step.student.require_logits()]
        for name, peer in zip(self.names[1:], self.peers, strict=True):
            with torch.set_grad_enabled(step.update.name in ("", name)):
                logits.append(peer(step.batch.images))
        return logits

    @torch.no_grad()
    def _watch(self, tasks: Tensor) -> None:
        """Count the steps until a loss is no finite number; nothing is read back from the device."""
        self.still_finite.logical_and_(tasks.isfinite())
        self.finite_steps.add_(self.still_finite)


def _versioned(name: str) -> str:
    """Return a model's name as the registry writes it; with its version, if a plug-in brings it.

    An edited plug-in so has other run keys.

    Raises:
        ValueError: there is no such model, or only another version of it.
    """
    plain, _, version = name.partition(_VERSION)
    if plain == SAME:
        return plain
    try:
        entry = models.get(plain)
    except KdctlError as error:
        raise ValueError(f"peers: {error.problem} {error.hint}".rstrip(".")) from error
    known = entry.origin.sha256[:12] if entry.origin else ""
    if version and version != known:
        raise ValueError(f"peers: another version of the plug-in that brings '{entry.name}' is meant")
    return f"{entry.name}{_VERSION}{known}" if known else entry.name


def _build(name: str, setup: Setup) -> Backbone:
    """Draw a peer.

    Raises:
        KdctlError: it cannot learn with this student, and why.
    """
    plain = setup.student_name if name == SAME else name.partition(_VERSION)[0]
    if not plain:
        raise KdctlError(
            "the student is a model without a name: there is no other of its kind to learn with.",
            "name the peers' models: peers = ['resnet20'].",
        )
    try:
        peer = setup.make_model(plain)
    except KdctlError as error:
        raise KdctlError(f"the peer {plain} cannot learn here: {error.problem}", error.hint) from error
    if peer.num_classes != setup.num_classes:
        raise KdctlError(
            f"the peer {plain} tells {peer.num_classes} classes apart, the student {setup.num_classes}: "
            "neither can read the other's predictions.",
            "name a model that takes as many classes as it is asked for.",
        )
    return peer
