"""A generator of images that only its copies use: it learns to be a start from which few steps are enough."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdctl.losses.learned_generator import ImageGenerator

BETAS = (0.5, 0.999)
"""Of Adam, for copies and for what they are copied from: as in all generators of the field."""

_EPSILON = 1e-8


class MetaGenerator(nn.Module):
    """The start that copies share, and Adam with moments in buffers, which are saved with the method.

    Fang et al., "Up to 100x Faster Data-free Knowledge Distillation", AAAI 2022, arXiv:2112.06253. The
    start never makes images itself, and keeps the running statistics that it began with: copies run in
    training mode.
    """

    means: Tensor
    """[P]: moving average of gradients, of all parameters one after the other."""
    squares: Tensor
    """[P]: moving average of their squares."""
    num_updates: Tensor
    """0-dim, int64."""

    def __init__(self, noise_size: int, image_size: int) -> None:
        """Draw a generator of images [3, image_size, image_size] from noise [noise_size]."""
        super().__init__()
        self.generator = ImageGenerator(noise_size, image_size, scales=False).requires_grad_(
            requires_grad=False
        )
        count = sum(parameter.numel() for parameter in self.generator.parameters())
        self.register_buffer("means", torch.zeros(count))
        self.register_buffer("squares", torch.zeros(count))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def new_copy(self) -> ImageGenerator:
        """Return a copy that can be trained, in training mode."""
        return copy.deepcopy(self.generator).requires_grad_().train()

    @torch.no_grad()
    def learn(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take a step of Adam, by gradients in the order of the generator's parameters."""
        parameters = list(self.generator.parameters())
        gradient = torch.cat([part.flatten() for part in gradients])
        first, second = BETAS
        self.num_updates.add_(1)
        count = int(self.num_updates)
        self.means.lerp_(gradient, 1 - first)
        self.squares.lerp_(gradient.square(), 1 - second)
        mean = self.means / (1 - first**count)
        deviation = (self.squares / (1 - second**count)).sqrt()
        steps = (rate * mean / (deviation + _EPSILON)).split([parameter.numel() for parameter in parameters])
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.sub_(step.view_as(parameter))
