"""What methods ship whose classifier reads projected features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from torch import Tensor, nn

from kdctl.protocols.backbone import Backbone, Link, Shape
from kdctl.protocols.maps import Size, pool_to

PROJECTED = "projected"
"""The tap behind the projector."""

_REUSED = "reused_"
"""Before the name of a link of the classifier's that is taken already."""


class ProjectedClassifier(nn.Module):
    """A student's encoder, a projector, and a classifier that is not the student's own."""

    def __init__(
        self,
        student: Backbone,
        tap: str,
        projector: nn.Module,
        classifier: nn.Sequential,
        *,
        target: Shape,
        links: Mapping[str, Shape],
        stages: Collection[str] = (),
    ) -> None:
        """Share the student's modules up to a tap.

        Args:
            student: whose map at `tap` is pooled to the target's height and width where it is larger.
            tap: name of the student's last tap that is kept.
            projector: map of the student [B, C_s, H, W] -> map [B, C, H, W] that the classifier reads.
            classifier: that map -> logits [B, K]; its last module is linear.
            target: shape of the projected map: (C, H, W).
            links: name and shape of what each module of the classifier gives, without the last one.
            stages: which of them are stages.
        """
        super().__init__()
        self.encoder = student.encoder(tap)
        self.projector = projector
        self.classifier = classifier
        self.size: Size = (target[1], target[2])
        kept = list(student.links)[: list(student.links).index(tap) + 1]
        self._encoder_taps = {name: student.tap_shapes[name] for name in kept}
        self._encoder_stages = tuple(name for name in student.stage_taps if name in kept and name != tap)
        self._target = target
        self._links = dict(links)
        self._stages = frozenset(stages)
        self._input_size = student.input_size

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of normalised images [B, 3, H, W]."""
        return self.classifier(self.projector(pool_to(self.encoder(images), self.size)))

    def backbone(self) -> Backbone:
        """Return the same modules as a chain of taps, so that this model can teach.

        The projected map stands for the student's last stage; reused stages of another model follow it.
        """
        own = [
            Link(name=name, module=module, shape=shape)
            for (name, shape), module in zip(self._encoder_taps.items(), self.encoder, strict=True)
        ]
        projector = nn.Sequential(_PooledTo(self.size), self.projector)
        own.append(Link(name=PROJECTED, module=projector, shape=self._target))
        taken = {link.name for link in own}
        *modules, head = self.classifier
        names = {name: _REUSED + name if name in taken else name for name in self._links}
        reused = [
            Link(name=names[name], module=module, shape=shape)
            for (name, shape), module in zip(self._links.items(), modules, strict=True)
        ]
        stages = (*self._encoder_stages, PROJECTED, *(names[name] for name in names if name in self._stages))
        return Backbone(
            [*own, *reused],
            classifier=cast(nn.Linear, head),
            stage_taps=stages,
            input_size=self._input_size,
        )


def links_after(backbone: Backbone, tap: str, size: Size) -> dict[str, Shape]:
    """Return what the links after a tap give, by name, where the map at the tap has another size.

    Strides are those that the backbone's own shapes show.
    """
    names = list(backbone.tap_shapes)
    shapes: dict[str, Shape] = {}
    for name in names[names.index(tap) + 1 :]:
        channels, *own = backbone.tap_shapes[name]
        strides = [
            round(before / after) for before, after in zip(backbone.tap_shapes[tap][1:], own, strict=False)
        ]
        shapes[name] = (
            channels,
            *(-(-length // stride) for length, stride in zip(size, strides, strict=False)),
        )
    return shapes


class _PooledTo(nn.Module):
    """Average-pools maps that are larger than a size."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C, H, W] of at most that size."""
        return pool_to(features, self.size)
