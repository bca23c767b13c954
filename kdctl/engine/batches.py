"""Where batches come from: images that live on the device, or a method that makes its own.

All randomness of an epoch (order, crops, flips) is drawn at its start from (seed, epoch); a batch is
one gather. So any step of any epoch can be made again, alone or in a gang, before or after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdctl.engine.mixing import Mixer, Mixing, partners
from kdctl.engine.seeds import generator
from kdctl.errors import KdctlError
from kdctl.protocols.augmentation import build_augmentation
from kdctl.protocols.dataset import DatasetOptions, Split
from kdctl.protocols.step import Batch
from kdctl.recipe.data_free import GeneratedImages
from kdctl.text import plural

EVALUATION_BATCH = 500
"""Images per step of an evaluation: large enough to be efficient, small enough for any memory."""


class Normalisation:
    """From pixels to the numbers a model was trained on: (pixel / 255 - mean) / std."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        """`mean` and `std` are per channel, of pixels scaled to [0, 1]."""
        deviation = torch.tensor(std, device=device).view(1, -1, 1, 1)
        self._scale = 1.0 / (255.0 * deviation)
        self._shift = -torch.tensor(mean, device=device).view(1, -1, 1, 1) / deviation

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return float images [B, 3, H, W], channels last in memory, for uint8 [B, H, W, 3]."""
        # Whole rows of pixels at a time: three channels alone are too few for the vector units of a CPU.
        scale, shift = (part.flatten().repeat(pixels.shape[2]) for part in (self._scale, self._shift))
        images = pixels.flatten(2).float().mul_(scale).add_(shift)
        return images.view(pixels.shape).permute(0, 3, 1, 2)

    def pixels(self, images: Tensor) -> Tensor:
        """Return uint8 pixels [B, H, W, 3] of normalised images [B, 3, H, W], cut off at black and white."""
        values = (images.float() - self._shift) / self._scale
        return values.round().clamp(0, 255).nan_to_num(0).to(torch.uint8).permute(0, 2, 3, 1)


class EvaluationSet:
    """A split on the device, in order, without augmentation."""

    def __init__(self, split: Split, normalise: Normalisation, device: torch.device) -> None:
        """Copy the split to `device`."""
        self._pixels = torch.from_numpy(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.normalise = normalise

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, start: int = 0, every: int = 1) -> Iterator[Tensor]:
        """Yield normalised images [B, 3, H, W]: batch number `start`, and each `every`-th from there."""
        for pixels in self._pixels.split(EVALUATION_BATCH)[start::every]:
            yield self.normalise(pixels)

    def close(self) -> None:
        """Nothing works for it."""


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """One epoch's random choices, on the device."""

    rows: Tensor
    """[N] int64: which sample stands where."""
    offsets: Tensor
    """[N, 2] int64: row and column at which each sample is cropped from its padded image."""
    flips: Tensor
    """[N] bool: which samples are mirrored."""
    mixing: Mixing | None = None
    """How the batches are mixed; None: not at all."""
    name: tuple[int, int] = (0, 0)
    """Seed and epoch it was drawn for."""

    def copy_from(self, other: EpochOrder) -> None:
        """Hold the choices of another epoch, in the same memory: recorded steps read it there."""
        self.rows.copy_(other.rows)
        self.offsets.copy_(other.offsets)
        self.flips.copy_(other.flips)
        if self.mixing is not None and other.mixing is not None:
            self.mixing.copy_from(other.mixing)


class TrainingSet:
    """The training split on the device, padded once, cropped and flipped by one gather per batch."""

    def __init__(
        self,
        split: Split,
        normalise: Normalisation,
        options: DatasetOptions,
        device: torch.device,
        num_classes: int | None = None,
    ) -> None:
        """Copy the split to `device`.

        Args:
            split: the images.
            normalise: from pixels to a model's input.
            options: of the data set.
            device: where the images lie from now on.
            num_classes: which soft labels tell apart; None: as many as the split's labels show.

        Raises:
            KdctlError: there are not even two images to make a batch of.
        """
        require_two_images(len(split))
        views = build_augmentation(options).views
        if views is None:
            raise ValueError("images on the device are augmented by shifts and mirroring only")
        self._padding, self._flips = views.padding, views.flips
        self._normalise = normalise
        self._device = device
        self._labels = torch.from_numpy(split.labels).to(device)
        self._size = split.images.shape[1]
        pixels = torch.from_numpy(split.images)
        pad = self._padding
        self._pixels = torch.nn.functional.pad(pixels, (0, 0, pad, pad, pad, pad)).to(device)
        self._range = torch.arange(self._size, device=device)
        self.batch_size = options.batch_size
        self._repeats = options.repeats
        self._mixer = Mixer(options, self._labels, num_classes=num_classes, size=self._size, device=device)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def num_steps(self) -> int:
        """Steps per epoch. A last batch of one image is skipped: batch norm cannot take it."""
        return num_steps(len(self), self.batch_size)

    def size(self, step: int) -> int:
        """Return how many images the batch of a step (counted from 0) has."""
        return min(self.batch_size, len(self) - step * self.batch_size)

    def order(self, seed: int, epoch: int) -> EpochOrder:
        """Draw the random choices of an epoch (counted from 0) of the run with `seed`."""
        random = generator(seed, "data", epoch)
        count = len(self)
        rows = repeated(torch.randperm(count, generator=random), self._repeats)
        offsets = torch.randint(0, 2 * self._padding + 1, (count, 2), generator=random)
        flips = torch.rand(count, generator=random) < (0.5 if self._flips else 0.0)
        return EpochOrder(
            rows=rows.to(self._device),
            offsets=offsets.to(self._device),
            flips=flips.to(self._device),
            mixing=self._mixer.draw(seed, epoch, math.ceil(count / self.batch_size)),
            name=(seed, epoch),
        )

    @property
    def num_views(self) -> int:
        """Return how many images crop and flip can make of the whole set; 0: mixing makes too many."""
        return 0 if self._mixer.mixes else len(self) * self._views_per_image

    @property
    def _views_per_image(self) -> int:
        return (2 * self._padding + 1) ** 2 * (2 if self._flips else 1)

    def views(self, order: EpochOrder) -> Tensor:
        """Return which view stands at each place of an epoch: [N] int64, below `num_views`."""
        across = 2 * self._padding + 1
        crops = order.offsets[:, 0] * across + order.offsets[:, 1]
        return order.rows * self._views_per_image + (crops * 2 + order.flips if self._flips else crops)

    def batch(self, order: EpochOrder, step: int) -> Batch:
        """Return the batch of a step (counted from 0)."""
        return self.gather(order, slice(step * self.batch_size, (step + 1) * self.batch_size))

    def gather(self, order: EpochOrder, places: slice | Tensor) -> Batch:
        """Return the samples at `places` of the epoch: a slice, or [B] int64 on the device."""
        images, rows = self._images(order, places), order.rows[places]
        labels = self._labels[rows]
        if order.mixing is None:
            return Batch(images=images, labels=self._mixer.smoothed(labels), index=rows)
        if isinstance(places, slice):
            places = torch.arange(*places.indices(len(self)), device=self._device)
        paired = partners(places, self.batch_size, len(self))
        other = Batch(images=self._images(order, paired), labels=self._labels[order.rows[paired]], index=rows)
        own = Batch(images=images, labels=labels, index=rows)
        return self._mixer.mixed(own, other, order.mixing, places // self.batch_size)

    def _images(self, order: EpochOrder, places: slice | Tensor) -> Tensor:
        """Return the normalised images [B, 3, H, W] at `places` [B], cropped and flipped."""
        rows, offsets = order.rows[places], order.offsets[places]
        columns = torch.where(order.flips[places, None], self._size - 1 - self._range, self._range)
        pixels = self._pixels[
            rows[:, None, None],
            (offsets[:, :1] + self._range)[:, :, None],
            (offsets[:, 1:] + columns)[:, None, :],
        ]
        return self._normalise(pixels)


def require_two_images(count: int) -> None:
    """Raise if there are not even two training images to make a batch of.

    Raises:
        KdctlError: there are fewer.
    """
    if count < 2:
        raise KdctlError(
            f"the training set has {plural(count, 'image')}, and batch norm needs 2 at a time.",
            "raise data.samples_per_class, or lower data.val_fraction.",
        )


def num_steps(num_images: int, batch_size: int) -> int:
    """Return the steps of an epoch. A last batch of one image is skipped: batch norm cannot take it."""
    whole, rest = divmod(num_images, batch_size)
    return whole + (rest > 1)


def repeated(rows: Tensor, repeats: int) -> Tensor:
    """Return rows [N] in which each of the first `rows` [N] stands `repeats` times: a, a, b, b, ..."""
    return rows if repeats == 1 else rows.repeat_interleave(repeats)[: len(rows)]


class GeneratedBatches:
    """Stands where a `TrainingSet` stands, and holds nothing but the number and size of the steps."""

    num_views = 0
    """No view comes twice, so there is nothing to keep teacher outputs of."""

    def __init__(self, options: GeneratedImages, device: torch.device) -> None:
        """Take number and size of the steps from the method's options."""
        self.batch_size = options.batch_size
        self.num_steps = options.steps_per_epoch
        self._device = device

    def __len__(self) -> int:
        return self.batch_size * self.num_steps

    def size(self, step: int) -> int:
        """Return how many images the method makes for an update of a step."""
        return self.batch_size

    def order(self, seed: int, epoch: int) -> EpochOrder:
        """Return the random choices of an epoch: there are none."""
        return EpochOrder(rows=self._empty(0), offsets=self._empty(0, 2), flips=self._empty(0).bool())

    def batch(self, order: EpochOrder, step: int) -> Batch:
        """Return a batch without images."""
        return self.gather(order, slice(0))

    def gather(self, order: EpochOrder, places: slice | Tensor) -> Batch:
        """Return a batch without images: the method makes them."""
        images = torch.empty((0, 3, 0, 0), device=self._device)
        return Batch(images=images, labels=None, index=self._empty(0))

    def views(self, order: EpochOrder) -> Tensor:
        """Return which view stands at each place of an epoch: there are none."""
        return self._empty(0)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device=self._device)
