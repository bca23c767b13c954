"""Mixup, cutmix and label smoothing, on whole batches on the device.

The images of a batch are mixed in pairs: the first with the last, the second with the last but one, and so
on. What is drawn for a batch is drawn when the epoch begins, so that a step needs nothing from the host, and
any step can be made again. Teachers see the mixed images, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdctl.engine.seeds import derive
from kdctl.protocols.dataset import DatasetOptions
from kdctl.protocols.step import Batch


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """What is drawn for the batches of an epoch, on the device."""

    shares: Tensor
    """[S] float32: how much of an image is itself, at each step."""
    boxes: Tensor
    """[S, 4] int64: first row, last row + 1, first column, last column + 1 of what is pasted; all 0: nothing
    is pasted, the images are blended."""

    def copy_from(self, other: Mixing) -> None:
        """Hold the choices of another epoch in the same memory."""
        self.shares.copy_(other.shares)
        self.boxes.copy_(other.boxes)


class Mixer:
    """Mixes images and their labels as the options of a data set say."""

    def __init__(
        self,
        options: DatasetOptions,
        labels: Tensor,
        *,
        num_classes: int | None,
        size: int,
        device: torch.device,
    ) -> None:
        """Keep the options.

        Args:
            options: of the data set.
            labels: [N], of all images.
            num_classes: which soft labels tell apart; None: as many as `labels` show.
            size: height and width of the images.
            device: where the images are.
        """
        self._options, self._device = options, device
        self._num_classes = num_classes or int(labels.max()) + 1
        self._range = torch.arange(size, device=device)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return self._options.mixup > 0 or self._options.cutmix > 0

    def draw(self, seed: int, epoch: int, num_steps: int) -> Mixing | None:
        """Draw the choices of an epoch; None if nothing is mixed."""
        if not self.mixes:
            return None
        # The streams of RandomState never change, so old run keys keep their meaning.
        random = np.random.RandomState(derive(seed, "mixing", epoch) % 2**32)
        shares, boxes = np.ones(num_steps, dtype=np.float32), np.zeros((num_steps, 4), dtype=np.int64)
        options, size = self._options, len(self._range)
        for step in range(num_steps):
            is_mixed, pastes = random.rand(2) < (options.mix_probability, 0.5)
            if options.mixup == 0 or options.cutmix == 0:
                pastes = options.cutmix > 0
            alpha = options.cutmix if pastes else options.mixup
            share, centre = random.beta(alpha, alpha), random.randint(0, size, 2)
            if not is_mixed:
                continue
            if pastes:
                half = int(size * np.sqrt(1.0 - share)) // 2
                low, high = np.clip(centre - half, 0, size), np.clip(centre + half, 0, size)
                boxes[step] = low[0], high[0], low[1], high[1]
                share = 1.0 - float(np.prod(high - low)) / size**2
            shares[step] = share
        return Mixing(
            shares=torch.from_numpy(shares).to(self._device), boxes=torch.from_numpy(boxes).to(self._device)
        )

    def mixed(self, own: Batch, other: Batch, mixing: Mixing, steps: Tensor) -> Batch:
        """Return images mixed in pairs, with probabilities of each class as labels.

        Args:
            own: the images, normalised, with labels [B].
            other: the other image of each pair.
            mixing: the choices of the epoch.
            steps: [B] int64: the step that each image is trained on.
        """
        share = mixing.shares[steps][:, None]
        labels = self._soft(own.require_labels()) * share + self._soft(other.require_labels()) * (1.0 - share)
        images = self._mixed_images(own.images, other.images, mixing, steps)
        return Batch(images=images, labels=labels, index=own.index)

    def smoothed(self, labels: Tensor) -> Tensor:
        """Return labels [B] as they are, or [B, K] float where labels are smoothed."""
        return self._soft(labels) if self._options.label_smoothing else labels

    def _mixed_images(self, own: Tensor, other: Tensor, mixing: Mixing, steps: Tensor) -> Tensor:
        top, bottom, left, right = mixing.boxes[steps].unbind(1)
        rows = (self._range >= top[:, None]) & (self._range < bottom[:, None])
        columns = (self._range >= left[:, None]) & (self._range < right[:, None])
        pasted = rows[:, :, None] & columns[:, None, :]
        blended = mixing.shares[steps][:, None, None].expand(pasted.shape)
        is_pasted = (bottom > top)[:, None, None]
        weight = torch.where(is_pasted, (~pasted).to(blended.dtype), blended)[:, None]
        # Where one of the weights is 0, the other image comes out with its own bits.
        return own * weight + other * (1.0 - weight)

    def _soft(self, labels: Tensor) -> Tensor:
        smoothing = self._options.label_smoothing
        hot = functional.one_hot(labels, self._num_classes).float()
        return hot * (1.0 - smoothing) + smoothing / self._num_classes


def mirrored(places: slice, size: int) -> slice:
    """Return with which images of a batch of `size` those at `places` are paired."""
    return slice(size - places.stop, size - places.start)


def partners(places: Tensor, batch_size: int, num_images: int) -> Tensor:
    """Return the place of the epoch that each of `places` [B] int64 is mixed with: its batch in reverse."""
    first = places // batch_size * batch_size
    last = (first + batch_size).clamp(max=num_images) - 1
    return last - (places - first)
