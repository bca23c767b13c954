"""RegNetY of torchvision: residual bottlenecks with grouped convolutions and squeeze-and-excitation.

Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, arXiv:2003.13678. The modules are
torchvision's own, the names timm's: `regnety_160` is RegNetY-16GF, the teacher of DeiT (arXiv:2012.12877).

A stage ends with a ReLU inside its last block, so there is no tap before it. The stem and each stage halve
the size: an image of 224 pixels ends as a map of 7x7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdctl.layers.chain import Chain
from kdctl.layers.public_names import Names, names_of_original
from kdctl.protocols.backbone import Backbone, models

_SQUEEZE = 0.25
"""Channels of the squeezed vector, as a share of those a block reads."""


@dataclass(frozen=True, kw_only=True)
class RegNetY:
    """RegNetY with four stages, as the authors' design space has it."""

    depth: int
    """Blocks in all."""
    width: int
    """w_0 of the paper's section 3.3: of the first blocks, before rounding."""
    slope: float
    """w_a: how much wider each block is than the one before it."""
    factor: float
    """w_m: by which widths of stages grow."""
    group_width: int
    """Channels in a group of the 3x3 convolutions."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        original = self._original(num_classes)
        chain = Chain("RegNetY", input_size)
        chain.add("stem", original.stem, channels=original.stem[0].out_channels, stride=2)
        for stage in original.trunk_output.children():
            width = list(stage.children())[-1].f.c[0].out_channels
            chain.add_stage(stage, None, channels=width, stride=2)
        backbone = chain.close(num_classes)
        backbone.classifier = original.fc
        return backbone

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of torchvision."""
        return names_of_original(backbone, lambda: self._original(backbone.num_classes))

    def _original(self, num_classes: int) -> Any:
        from torchvision.models.regnet import (  # noqa: PLC0415 - two seconds that only this model takes
            BlockParams,
            RegNet,
        )

        with torch.device("cpu"):  # it computes with tensors, also where only shapes are asked for
            blocks = BlockParams.from_init_params(
                self.depth, self.width, self.slope, self.factor, self.group_width, se_ratio=_SQUEEZE
            )
        return RegNet(blocks, num_classes=num_classes, norm_layer=nn.BatchNorm2d)


for _name, _numbers, _aliases in (
    ("regnety_004", (16, 48, 27.89, 2.09, 8), ("regnet_y_400mf",)),
    ("regnety_008", (14, 56, 38.84, 2.4, 16), ("regnet_y_800mf",)),
    ("regnety_016", (27, 48, 20.71, 2.65, 24), ("regnet_y_1_6gf",)),
    ("regnety_032", (21, 80, 42.63, 2.66, 24), ("regnet_y_3_2gf",)),
    ("regnety_080", (17, 192, 76.82, 2.19, 56), ("regnet_y_8gf",)),
    ("regnety_160", (18, 200, 106.23, 2.48, 112), ("regnet_y_16gf",)),
):
    _depth, _width, _slope, _factor, _group_width = _numbers
    models.register(_name, label=_name.replace("regnety_", "RegNetY-"), aliases=_aliases)(
        RegNetY(depth=_depth, width=_width, slope=_slope, factor=_factor, group_width=_group_width)
    )
