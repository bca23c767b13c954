"""Steps of a method that makes its own images: no image of the training set is read or kept."""

from __future__ import annotations

import torch
from torch import Tensor

from kdctl.engine.batches import EpochOrder
from kdctl.protocols.step import Batch
from kdctl.recipe.generated_images import GeneratedImages


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
