"""Two peers that learn from each other in turn, one of them followed by a moving average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from kdctl.layers.moving_average import MovingAverage
from kdctl.losses.soft_targets import soft_target_kl
from kdctl.losses.supervision import label_loss
from kdctl.protocols.distiller import (
    Distiller,
    Losses,
    NamedModel,
    ParameterGroup,
    Setup,
    Step,
    Update,
    methods,
)


@dataclass(frozen=True, kw_only=True)
class PeersConfig:
    peer: str = "resnet8"


@methods.register("proof_peers", label="Proof: peers")
class Peers(Distiller):
    """Each learns from labels and from the other as it is just then; the average of the student ships."""

    Config: ClassVar[type] = PeersConfig
    num_teachers: ClassVar[tuple[int, int | None]] = (0, 0)
    config: PeersConfig

    def __init__(self, config: PeersConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.peer = setup.make_model(config.peer)
        self.average = MovingAverage(setup.student, 0.9)

    def updates(self) -> tuple[Update, ...]:
        return (Update(name="student", groups=("student",)), Update(name="peer", groups=("peer",)))

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        return (
            ParameterGroup(name="student", parameters=tuple(self.student.parameters())),
            ParameterGroup(name="peer", parameters=tuple(self.peer.parameters()), learning_rate_scale=0.5),
        )

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {"average": self.average}

    def models(self) -> tuple[NamedModel, ...]:
        average = NamedModel(name="average", module=self.average.model)
        return (NamedModel(name="peer", module=self.peer), average)

    def losses(self, step: Step) -> Losses:
        own, other = step.student.require_logits(), self.peer(step.batch.images)
        if step.update.name == "peer":
            own, other = other, own
        return Losses(
            task=label_loss(own, step.batch),
            transfer={"mutual": soft_target_kl(own, other.detach(), 1.0)},
            logits=own if step.update.name == "student" else None,
        )

    def after_update(self, step: Step) -> None:
        if step.update.name == "student":
            self.average.update(self.student)
