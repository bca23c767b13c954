"""A vision transformer of two blocks: its taps are tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdctl.protocols.backbone import Backbone, Link, models
from kdctl.protocols.shapes import TokenShape

PATCH, WIDTH = 4, 12


class Patches(nn.Module):
    """Images [B, 3, H, W] -> tokens [B, 1 + N, D], the class token first."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + grid * grid, WIDTH))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        weights = (query @ key.transpose(1, 2) / WIDTH**0.5).softmax(dim=-1)
        tokens = tokens + self.out(weights @ value)
        return tokens + self.mlp(self.norm2(tokens))


class ClassToken(nn.Module):
    """Tokens [B, N, D] -> the normalised class token [B, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens[:, 0])


@models.register("micro_vit", label="Micro-ViT")
def build_micro_vit(num_classes: int, input_size: int) -> Backbone:
    """Two blocks of width 12 over patches of 4x4 pixels."""
    grid = input_size // PATCH
    shape = TokenShape(WIDTH, grid=(grid, grid), num_prefix=1)
    links = [Link(name="patches", module=Patches(grid), shape=shape)]
    links += [Link(name=f"stage{number}", module=Block(), shape=shape) for number in (1, 2)]
    links.append(Link(name="pooled", module=ClassToken(), shape=(WIDTH,)))
    return Backbone(
        links,
        classifier=nn.Linear(WIDTH, num_classes),
        stage_taps=("stage1", "stage2"),
        input_size=input_size,
    )
