"""How a backbone is laid link by link: its shapes by arithmetic, or by what modules of your own give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from kdctl.errors import KdctlError, UsageError
from kdctl.protocols.backbone import POOLED, PREACTIVATION, Backbone, GlobalAveragePool, Link

RGB = 3


class Chain:
    """Links in the making: keeps the shape after the last one.

    Every layer with stride s takes a size n to ceil(n / s).
    """

    def __init__(self, family: str, input_size: int) -> None:
        """Start with images [3, input_size, input_size]; errors call the model `family`."""
        self.channels = RGB
        self._family = family
        self._input_size = input_size
        self._size = input_size
        self._stride = 1
        self._links: list[Link] = []
        self._stages: list[str] = []

    def add(self, name: str, module: nn.Module, *, channels: int | None = None, stride: int = 1) -> None:
        """Append a link that gives `channels` (None: as many as it gets) and divides the size by `stride`.

        Raises:
            KdctlError: not even one pixel of the image would be left.
        """
        self.channels = self.channels if channels is None else channels
        self._stride *= stride
        self._size = -(-self._size // stride)
        self._check_size()
        self._links.append(Link(name=name, module=module, shape=(self.channels, self._size, self._size)))

    def add_stage(
        self, body: nn.Module, activation: nn.Module | None, *, channels: int, stride: int = 1
    ) -> None:
        """Append the next stage: taps `stageN_pre` (before `activation`) and `stageN`.

        Without an activation the stage ends linearly, and there is no tap before it.
        """
        name = f"stage{len(self._stages) + 1}"
        self._stages.append(name)
        if activation is None:
            self.add(name, body, channels=channels, stride=stride)
        else:
            self.add(name + PREACTIVATION, body, channels=channels, stride=stride)
            self.add(name, activation)

    def add_rectified_stage(self, blocks: Iterable[nn.Module], *, channels: int, stride: int = 1) -> None:
        """Append a stage of blocks that lack their last ReLU: one follows each of them."""
        pieces: list[nn.Module] = []
        for block in blocks:
            pieces += [nn.ReLU(inplace=True), block]
        # The stage's own ReLU is not in place: the map before it is a tap.
        self.add_stage(nn.Sequential(*pieces[1:]), nn.ReLU(), channels=channels, stride=stride)

    def close(self, num_classes: int) -> Backbone:
        """Append pooling and a linear classifier, and return the backbone."""
        pooled = Link(name=POOLED, module=GlobalAveragePool(), shape=(self.channels,))
        return Backbone(
            [*self._links, pooled],
            classifier=nn.Linear(self.channels, num_classes),
            stage_taps=self._stages,
            input_size=self._input_size,
        )

    def _check_size(self) -> None:
        if self._input_size < self._stride:
            raise KdctlError(
                f"images of {self._input_size}x{self._input_size} pixels are too small for {self._family}: "
                f"it divides their size by {self._stride} or more.",
                f"use a data set with larger images, or a model with fewer strides than {self._family}.",
            )


def as_backbone(
    stages: Mapping[str, nn.Module], classifier: nn.Linear, *, input_size: int, taps: tuple[str, ...] = ()
) -> Backbone:
    """Return your own model as a chain whose inner features methods can read; the modules are shared.

    A global average pool is put before the classifier where the last stage gives a map. Methods that read
    what stands before an activation (`ofd`) need more: see `kdctl.protocols.backbone.Link`.

    Args:
        stages: name -> module, in the order in which images pass them; each gives a map [B, C, H, W].
        classifier: the last linear layer.
        input_size: height and width of the images.
        taps: the stages whose maps are paired with a teacher's; stage1, stage2, ... if not given.

    Raises:
        UsageError: no stage is to be paired, or the stages do not follow each other.
    """
    paired = taps or tuple(name for name in stages if name.startswith("stage"))
    if not paired or not set(paired) <= set(stages):
        raise UsageError(
            "no stage is named that features could be read from.",
            "call stages stage1, stage2, ..., or give taps.",
        )
    links: list[Link] = []
    features = torch.zeros(1, RGB, input_size, input_size, device=classifier.weight.device)
    for name, module in stages.items():
        features = _passed(module, features)
        links.append(Link(name=name, module=module, shape=tuple(features.shape[1:])))
    if features.dim() == 4:
        links.append(Link(name=POOLED, module=GlobalAveragePool(), shape=(features.shape[1],)))
    if links[-1].shape != (classifier.in_features,):
        raise UsageError(
            f"the stages end with {list(links[-1].shape)}, the classifier reads [{classifier.in_features}].",
            "name every stage up to the classifier.",
        )
    return Backbone(links, classifier=classifier, stage_taps=paired, input_size=input_size)


@torch.no_grad()
def _passed(module: nn.Module, features: Tensor) -> Tensor:
    """Return what a module makes of features, and leave its mode as it was."""
    modes = {part: part.training for part in module.modules()}
    result: Tensor = module.eval()(features)
    for part, training in modes.items():
        part.training = training
    return result
