"""Batches of images that do not lie on the device: worker processes decode and augment them, some ahead.

They stand where `TrainingSet` and `EvaluationSet` stand. Order and augmentation depend on (seed, epoch,
sample) only, so a resumed run sees the very same batches, and a gang decodes each of them once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kdctl.engine.batches import (
    EVALUATION_BATCH,
    EpochOrder,
    EvaluationSet,
    GeneratedBatches,
    Normalisation,
    TrainingSet,
    num_steps,
    repeated,
    require_two_images,
)
from kdctl.engine.batches_ahead import AugmentedImages, BatchesAhead, CroppedImages, Position
from kdctl.engine.image_workers import ImageWorkers, image_errors
from kdctl.engine.mixing import Mixer, mirrored
from kdctl.engine.seeds import derive, generator
from kdctl.machine_errors import as_machine_errors
from kdctl.protocols.augmentation import build_augmentation
from kdctl.protocols.dataset import DatasetOptions, PreparedSource, Split, StreamedSplit
from kdctl.protocols.step import Batch

NUM_SLOTS = 3
"""Batches in memory: one that is trained on, and two that are filled meanwhile."""

_EVALUATION_PIXELS = EVALUATION_BATCH * 96 * 96
"""Of a batch in an evaluation: larger images come fewer at a time."""


class StreamedTrainingSet:
    """A training split whose batches are decoded and augmented by worker processes."""

    num_views = 0
    """Augmentation makes more views than can be kept teacher outputs of."""

    def __init__(
        self,
        split: Split | StreamedSplit,
        normalise: Normalisation,
        options: DatasetOptions,
        device: torch.device,
        workers: ImageWorkers,
        num_classes: int | None = None,
    ) -> None:
        """Open buffers for the batches; `num_classes` is as in `open_training_set`.

        Raises:
            KdctlError: there are not even two images to make a batch of, or no memory for the buffers.
        """
        require_two_images(len(split))
        prepare_images(split, workers.meanwhile)
        self.batch_size = options.batch_size
        self._count, self._repeats = len(split), options.repeats
        self._normalise, self._device, self._workers = normalise, device, workers
        self._labels = torch.from_numpy(split.labels)
        size = split.input_size
        self._mixer = Mixer(options, self._labels, num_classes=num_classes, size=size, device=device)
        prepare = AugmentedImages(split, build_augmentation(options), size)
        batch_size = min(self.batch_size, len(split))
        self._ring = workers.open_ring(prepare, num_slots=NUM_SLOTS, batch_size=batch_size, size=size)
        self._ring.pin(device)
        self._ahead = BatchesAhead(workers, self._ring, self._submit, self._following)
        self._latest: tuple[Position, Batch] | None = None
        self._share: Callable[[int], slice] = lambda size: slice(0, size)
        self._rows = functools.lru_cache(maxsize=2)(self._draw_rows)

    def __len__(self) -> int:
        return self._count

    @property
    def num_steps(self) -> int:
        """Steps per epoch. A last batch of one image is skipped: batch norm cannot take it."""
        return num_steps(len(self), self.batch_size)

    @property
    def waited_seconds(self) -> float:
        """Return how long steps have waited for images."""
        return self._ahead.waited_seconds

    def size(self, step: int) -> int:
        """Return how many images the batch of a step (counted from 0) has."""
        return min(self.batch_size, len(self) - step * self.batch_size)

    def order(self, seed: int, epoch: int) -> EpochOrder:
        """Draw the order of an epoch (counted from 0) of the run with `seed`; it stays on the host."""
        rows = self._rows(seed, epoch)
        none = torch.zeros(0, dtype=torch.int64)
        return EpochOrder(
            rows=rows,
            offsets=none.view(0, 2),
            flips=none.bool(),
            mixing=self._mixer.draw(seed, epoch, math.ceil(len(self) / self.batch_size)),
            name=(seed, epoch),
        )

    def take_share(self, share: Callable[[int], slice]) -> None:
        """Decode and hold a part of each batch only, where other processes take the rest of it.

        Args:
            share: returns, for the number of images of a batch, those that `gather` will be asked for.
        """
        self._share = share

    def views(self, order: EpochOrder) -> Tensor:
        """Return which view stands at each place of an epoch: no view comes twice."""
        raise ValueError("streamed images have no views")

    def batch(self, order: EpochOrder, step: int) -> Batch:
        """Return the batch of a step (counted from 0)."""
        position = (*order.name, step)
        if self._latest is None or self._latest[0] != position:
            self._latest = position, self._made(order, step)
        return self._latest[1]

    def _made(self, order: EpochOrder, step: int) -> Batch:
        held, device = self._held(step), self._device
        images = self._normalise(self._ahead.take((*order.name, step), device, held))
        first = step * self.batch_size
        rows = order.rows[first + held.start : first + held.stop]
        index, labels = _to(rows, device), _to(self._labels[rows], device)
        if order.mixing is None:
            return Batch(images=images, labels=self._mixer.smoothed(labels), index=index)
        own = Batch(images=images, labels=labels, index=index)
        other = Batch(images=images.flip(0), labels=labels.flip(0), index=index)
        return self._mixer.mixed(own, other, order.mixing, torch.full_like(index, step))

    def gather(self, order: EpochOrder, places: slice | Tensor) -> Batch:
        """Return the samples at some `places` of one step's batch, a slice.

        Raises:
            ValueError: they belong to several batches, are no slice, or are not this process's share.
        """
        if isinstance(places, Tensor):
            raise ValueError("streamed images come batch by batch")
        start, stop, _ = places.indices(len(self))
        step, skipped = divmod(start, self.batch_size)
        if stop > (step + 1) * self.batch_size:
            raise ValueError("streamed images come batch by batch")
        part, share = slice(skipped, skipped + stop - start), self._share(self.size(step))
        if part.start < share.start or part.stop > share.stop:
            raise ValueError("these images are decoded by another process")
        batch, first = self.batch(order, step), self._held(step).start
        part = slice(part.start - first, part.stop - first)
        return Batch(images=batch.images[part], labels=batch.require_labels()[part], index=batch.index[part])

    def _held(self, step: int) -> slice:
        """Return which images of a batch go to the device: the share, or all where they are mixed."""
        size = self.size(step)
        return slice(0, size) if self._mixer.mixes else self._share(size)

    def _draw_rows(self, seed: int, epoch: int) -> Tensor:
        random = generator(seed, "data", epoch)
        return repeated(torch.randperm(len(self), generator=random), self._repeats)

    def _following(self, position: Position) -> Position:
        """Return what comes after a batch: the next epoch's first follows the last."""
        seed, epoch, step = position
        return (seed, epoch, step + 1) if step + 1 < self.num_steps else (seed, epoch + 1, 0)

    def _submit(self, slot: int, position: Position) -> None:
        seed, epoch, step = position
        places = torch.arange(step * self.batch_size, step * self.batch_size + self.size(step))
        rows = self._rows(seed, epoch)[places]
        stream = derive(seed, "augmentation", epoch)
        needed = self._needed(len(rows))
        self._workers.submit(self._ring, slot, rows, places % self._repeats, stream, needed)

    def _needed(self, size: int) -> list[slice]:
        """Return which images of a batch are read: the share, and those it is mixed with."""
        share = self._share(size)
        if not self._mixer.mixes:
            return [share]
        first, second = sorted((share.start, share.stop) for share in (share, mirrored(share, size)))
        if second[0] <= first[1]:
            return [slice(first[0], max(first[1], second[1]))]
        return [slice(*first), slice(*second)]


class StreamedEvaluationSet:
    """A split whose images are decoded and cropped by worker processes, in order."""

    def __init__(
        self, split: StreamedSplit, normalise: Normalisation, device: torch.device, workers: ImageWorkers
    ) -> None:
        """Open buffers for the batches.

        Raises:
            KdctlError: there is no memory for the buffers.
        """
        prepare_images(split, workers.meanwhile)
        size = split.input_size
        self.labels = torch.from_numpy(split.labels).to(device)
        self._batch = min(EVALUATION_BATCH, max(1, _EVALUATION_PIXELS // size**2), max(1, len(split)))
        self.normalise, self._device, self._workers = normalise, device, workers
        prepare = CroppedImages(split)
        self._ring = workers.open_ring(prepare, num_slots=NUM_SLOTS, batch_size=self._batch, size=size)
        self._ring.pin(device)
        self._ahead = BatchesAhead(workers, self._ring, self._submit, self._following)
        self._every = 1

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, start: int = 0, every: int = 1) -> Iterator[Tensor]:
        """Yield normalised images [B, 3, H, W]: batch number `start`, and each `every`-th from there."""
        self._every = every
        for step in range(start, math.ceil(len(self) / self._batch), every):
            part = slice(0, min(self._batch, len(self) - step * self._batch))
            yield self.normalise(self._ahead.take((0, 0, step), self._device, part))

    def close(self) -> None:
        """End the processes that decode its images: those of other splits, too, if they share them."""
        self._workers.close()

    def _following(self, position: Position) -> Position | None:
        step = position[2] + self._every
        return (0, 0, step) if step * self._batch < len(self) else None

    def _submit(self, slot: int, position: Position) -> None:
        first = position[2] * self._batch
        places = torch.arange(first, min(first + self._batch, len(self)))
        self._workers.submit(self._ring, slot, places, torch.zeros_like(places), 0, [slice(0, len(places))])


TrainingBatches = TrainingSet | StreamedTrainingSet | GeneratedBatches
"""Where the batches of a training come from."""

EvaluationImages = EvaluationSet | StreamedEvaluationSet
"""Where the images of an evaluation come from."""


def open_training_set(
    split: Split | StreamedSplit,
    normalise: Normalisation,
    options: DatasetOptions,
    device: torch.device,
    workers: ImageWorkers,
    num_classes: int | None = None,
) -> TrainingSet | StreamedTrainingSet:
    """Return where batches come from: the device, if images in memory are only shifted and mirrored.

    Soft labels tell `num_classes` apart; None: as many as the split's labels show.

    Raises:
        KdctlError: there are not even two images to make a batch of, or no memory for buffers.
    """
    if isinstance(split, Split) and not is_streamed(split, options):
        return TrainingSet(split, normalise, options, device, num_classes)
    return StreamedTrainingSet(split, normalise, options, device, workers, num_classes)


def is_streamed(split: Split | StreamedSplit | None, options: DatasetOptions) -> bool:
    """Whether worker processes make the training images of a split; None: as far as the options tell."""
    return isinstance(split, StreamedSplit) or build_augmentation(options).views is None


def open_evaluation_set(
    split: Split | StreamedSplit, normalise: Normalisation, device: torch.device, workers: ImageWorkers
) -> EvaluationImages:
    """Return a split in order, without augmentation.

    Raises:
        KdctlError: there is no memory for buffers.
    """
    if isinstance(split, Split):
        return EvaluationSet(split, normalise, device)
    return StreamedEvaluationSet(split, normalise, device, workers)


def prepare_images(split: Split | StreamedSplit, meanwhile: Callable[[], None]) -> None:
    """Let a source store what it wants to have at hand, before worker processes ask for it.

    What `meanwhile` raises, which is called again and again, ends it.

    Raises:
        KdctlError: there is no room for it, or an image that was listed cannot be read any more.
    """
    if isinstance(split, StreamedSplit) and isinstance(split.source, PreparedSource):
        with as_machine_errors(), image_errors():
            split.source.prepare(split.rows.tolist(), meanwhile)


def _to(values: Tensor, device: torch.device) -> Tensor:
    """Copy a few numbers to the device without waiting for it."""
    if device.type != "cuda":
        return values
    return values.pin_memory().to(device, non_blocking=True)
