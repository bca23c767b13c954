"""Data-free distillation from a pool of invented images, to which each epoch adds some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from kdctl.losses.inversion_terms import Augmentation, shifted_views
from kdctl.protocols.distiller import Batch, Distiller, DivergedError, Setup, Update
from kdctl.recipe.component import tunable
from kdctl.recipe.data_free import GeneratedImages

_NUM_SHOWN = 64
"""Images in a picture."""


@dataclass(frozen=True, kw_only=True)
class PoolOptions(GeneratedImages):
    """How many images are kept and read, and what all losses of inventing ask for."""

    batch_size: Annotated[int, Gt(1), Le(1_000_000)] = 256
    """Images in each of the student's steps."""
    steps_per_epoch: Annotated[int, Gt(0), Le(1_000_000)] = 400
    """The student's steps after each round of inventing."""
    images_per_round: Annotated[int, Gt(1), Le(1_000_000)] = 256
    """Images invented before each epoch."""
    pool_size: Annotated[int, Gt(1), Le(10_000_000)] = 51_200
    """Images that are kept, the latest; a multiple of `images_per_round`. Two bytes a number: 300 MiB of
    32x32 pixels, on the device and in saved states."""
    noise_size: Annotated[int, Gt(0), Le(100_000)] = 256
    """Numbers of noise that an image is made of; they are trained, too."""
    bn_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.01, 10.0, log=True)
    """Of the distance from the statistics of the teacher's batch norms."""
    one_hot_weight: Annotated[float, Ge(0)] = tunable(0.5, 0.01, 10.0, log=True)
    """Of the cross-entropy of the teacher's predictions with classes drawn for each image."""
    adversarial_weight: Annotated[float, Ge(0)] = tunable(0.5, 0.01, 10.0, log=True)
    """Of the student's divergence from the teacher where they decide alike, which is to be large."""
    augmentation: Augmentation = "crop-flip"
    """Of views of invented images, while they are invented and in the student's steps; 'crop' for digits."""
    padding: Annotated[int, Ge(0), Le(1024)] = 4
    """Zero pixels on each side before a random crop."""

    def __post_init__(self) -> None:
        """Refuse a pool that rounds do not fill."""
        if self.pool_size % self.images_per_round:
            raise ValueError(
                f"pool_size = {self.pool_size} is no multiple of images_per_round = {self.images_per_round}"
            )


class LearnsFromPool(Distiller):
    """Before each epoch a round of inventing adds images to a pool, of which the student's batches are.

    A subclass writes `losses` for the student's steps and `invented` for a round.
    """

    pooling: PoolOptions
    pool: Tensor
    """[pool_size, 3, H, W], fp16: the invented images, normalised; the latest ones, in a ring."""
    num_invented: Tensor
    """0-dim, int64: images invented so far, those that were replaced included."""

    def __init__(self, config: Any, setup: Setup) -> None:
        """Make room for the pool."""
        super().__init__(config, setup)
        self.pooling = config
        size = setup.student.input_size
        self.register_buffer("pool", torch.zeros(config.pool_size, 3, size, size, dtype=torch.float16))
        self.register_buffer("num_invented", torch.zeros((), dtype=torch.int64))

    def invented(self) -> Tensor:
        """Return images [images_per_round, 3, H, W] of a round; called in eval mode.

        Raises:
            DivergedError: a loss of the generator is no number.
        """
        raise TypeError(f"{type(self).__name__} must define invented()")

    def prepare_epoch(self, *, first_of_phase: bool) -> None:
        """Invent images and add them to the pool.

        Raises:
            DivergedError: a loss of the generator is no number.
        """
        was_training = self.training
        self.eval()
        try:
            images = self.invented()
        finally:
            self.train(was_training)
        self.keep(images, int(self.num_invented) % self.pooling.pool_size)

    def keep(self, images: Tensor, place: int) -> None:
        """Put images [N, 3, H, W] into the pool at a place."""
        self.pool[place : place + len(images)] = images.to(self.pool.dtype)
        self.num_invented.add_(len(images))

    def make_batch(self, update: Update) -> Batch:
        """Return random views of random images of the pool."""
        config, random = self.pooling, self.setup.rng
        filled = self.num_invented.clamp(min=1, max=config.pool_size)
        places = torch.rand(config.batch_size, generator=random, device=self.pool.device) * filled
        index = torch.minimum(places.long(), filled - 1)
        images = self.pool.index_select(0, index).float()
        views = shifted_views(images, config.augmentation, config.padding, random)
        return Batch(images=views.contiguous(memory_format=torch.channels_last), labels=None, index=index)

    def invented_images(self) -> Tensor | None:
        """Return the images that were invented last; none before the first epoch."""
        invented = int(self.num_invented)
        if invented == 0:
            return None
        end = (invented - 1) % self.pooling.pool_size + 1
        latest = self.pool[end - min(self.pooling.images_per_round, end) : end]
        return latest[:: -(-len(latest) // _NUM_SHOWN)].float()

    def draw_noise(self) -> Tensor:
        """Return noise [images_per_round, noise_size] from N(0, 1)."""
        size = (self.pooling.images_per_round, self.pooling.noise_size)
        return torch.randn(*size, generator=self.setup.rng, device=self.pool.device)

    def draw_classes(self) -> Tensor:
        """Return classes [images_per_round], int64, in order: pictures are easier to look at."""
        count, device = self.pooling.images_per_round, self.pool.device
        classes = torch.randint(self.setup.num_classes, (count,), generator=self.setup.rng, device=device)
        return classes.sort().values


class BestImages:
    """Those of smallest loss among images that were tried; nothing is read back before the end."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        """Begin with none, to be of a shape [N, 3, H, W]."""
        self._images = torch.zeros(shape, device=device)
        self._loss = torch.tensor(torch.inf, device=device)
        self._are_numbers = torch.ones((), dtype=torch.bool, device=device)

    @torch.no_grad()
    def offer(self, images: Tensor, loss: Tensor) -> None:
        """Take images whose loss, 0-dim, is smaller than that of those before."""
        is_better = loss < self._loss
        self._images = torch.where(is_better, images, self._images)
        self._loss = torch.where(is_better, loss, self._loss)
        self._are_numbers = self._are_numbers & loss.isfinite()

    def taken(self) -> Tensor:
        """Return the best images.

        Raises:
            DivergedError: a loss was no number.
        """
        if not self._are_numbers:
            raise DivergedError("the loss of the generator of images is not finite")
        return self._images
