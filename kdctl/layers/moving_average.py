"""A model whose weights are a moving average of another's."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

Statistics = Literal["averaged", "copied", "own"]
"""What an average does with the running statistics of the model that it follows."""


class MovingAverage(nn.Module):
    """Follows a model: after each update every weight moves towards the model's by 1 - decay.

    Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv:1703.01780:
    decay_t = min(1 - 1 / (t + 1), decay), so that the first updates count more.

    Running statistics of batch norms are averaged like weights (as in timm's ModelEmaV3, and in torch's
    AveragedModel with `use_buffers`); or copied from the model, whose latest they are; or left alone where
    the average runs in training mode and so has statistics of its own, as the authors' has. The counter
    `num_batches_tracked` is not copied: the trainer sets it only when it saves, which may be at any step.
    """

    num_updates: Tensor
    """0-dim, int64."""

    def __init__(self, model: nn.Module, decay: float, *, statistics: Statistics = "averaged") -> None:
        """Start as a copy of `model`."""
        super().__init__()
        self._statistics: Statistics = statistics
        self.model = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self.decay = decay
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards `model`, which has just been updated; nothing is read back from the device."""
        self.num_updates.add_(1)
        decay = (1 - 1 / (self.num_updates + 1)).clamp(max=self.decay)
        for own, other in zip(self.model.parameters(), model.parameters(), strict=True):
            own.lerp_(other, (1 - decay).to(own.dtype))
        if self._statistics == "own":
            return
        for (name, own), other in zip(self.model.named_buffers(), model.buffers(), strict=True):
            if self._statistics == "averaged" and own.is_floating_point():
                own.lerp_(other, (1 - decay).to(own.dtype))
            elif not name.endswith("num_batches_tracked"):
                own.copy_(other)
