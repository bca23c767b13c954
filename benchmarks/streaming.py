"""Images per second at which training data come: kdctl's workers, a DataLoader with Pillow, timm's loader.

All decode the same JPEGs, cut a random resized crop of 224 pixels, mirror half of them, and end as normalised
float batches in the training process. They take turns, so that a disturbance meets all; medians count.

python benchmarks/streaming.py FOLDER_OR_TAR [--workers 2] [--batch 64] [--batches 8] [--rounds 5]

FOLDER_OR_TAR: JPEGs, at any depth. With `--flat N`, it also reads N images through links and tells how much
memory all processes have after a tenth of them, and at the end.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdctl.engine.batches import Normalisation
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.streamed_batches import StreamedTrainingSet
from kdctl.protocols.dataset import CentreCrop, DatasetOptions, StreamedSplit
from kdctl.readers.image_listing import ListedImages
from kdctl.readers.image_manifest import ImageListing, ImageNames
from kdctl.readers.streamed_folders import IMAGENET_MEAN, IMAGENET_STD

SIZE = 224
CPU = torch.device("cpu")

Take = Callable[[], int]
"""Takes one batch and returns how many images it has."""


class Files(Dataset):
    """JPEGs as torchvision's ImageFolder reads them."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], object] | None = None) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[object, int]:
        with Image.open(self.paths[row]) as image:
            return self.transform(image.convert("RGB")), 0  # type: ignore[misc]


def forever(loader: DataLoader) -> Iterator[torch.Tensor]:
    while True:
        for images, _ in loader:
            yield images


def plain_loader(paths: list[Path], batch: int, workers: int) -> Take:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    loader = DataLoader(
        Files(paths, transform),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        drop_last=True,
    )
    batches = forever(loader)
    return lambda: len(next(batches))


def timm_loader(paths: list[Path], batch: int, workers: int) -> Take:
    from timm.data import create_loader  # noqa: PLC0415 - an extra

    loader = create_loader(
        Files(paths),
        input_size=(3, SIZE, SIZE),
        batch_size=batch,
        is_training=True,
        use_prefetcher=False,
        color_jitter=None,
        hflip=0.5,
        interpolation="bilinear",
        num_workers=workers,
        persistent_workers=True,
        device=CPU,
    )
    batches = forever(loader)
    return lambda: len(next(batches))


def streamed_split(paths: list[Path]) -> StreamedSplit:
    count = len(paths)
    return StreamedSplit(
        source=ListedImages(
            ImageListing(
                folder=Path("/"),
                names=ImageNames([str(path)[1:] for path in paths]),
                labels=np.zeros(count, dtype=np.int64),
                num_bytes=np.array([path.stat().st_size for path in paths], dtype=np.int64),
                modified_ns=np.zeros(count, dtype=np.int64),
            )
        ),
        rows=np.arange(count),
        labels=np.zeros(count, dtype=np.int64),
        digests=np.zeros((count, 32), dtype=np.uint8),
        evaluation=CentreCrop(resize=256, size=SIZE),
    )


def kdctl_loader(paths: list[Path], batch: int, workers: int) -> tuple[Take, ImageWorkers]:
    pool = ImageWorkers(workers)
    normalise = Normalisation(IMAGENET_MEAN, IMAGENET_STD, CPU)
    options = DatasetOptions(augmentation="random-resized-crop", batch_size=batch)  # type: ignore[arg-type]
    train = StreamedTrainingSet(streamed_split(paths), normalise, options, CPU, pool)
    order, steps = [train.order(0, 0)], itertools.count()

    def take() -> int:
        epoch, step = divmod(next(steps), train.num_steps)
        if step == 0:
            order[0] = train.order(0, epoch)
        return len(train.batch(order[0], step).images)

    return take, pool


def rate(take: Take, num_batches: int) -> float:
    began = time.perf_counter()
    images = sum(take() for _ in range(num_batches))
    return images / (time.perf_counter() - began)


def memory_mib() -> float:
    """Return the memory of this process and its children, shared pages counted once (Linux)."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    lines = [
        line
        for process in (own, *children)
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    ]
    return sum(int(line.split()[1]) for line in lines) / 1024


def memory_growth(paths: list[Path], count: int, batch: int, workers: int) -> None:
    """Read `count` images through links, and tell the memory at the first tenth and at the end."""
    with tempfile.TemporaryDirectory() as folder:
        links = [Path(folder) / f"{number}.jpg" for number in range(count)]
        for number, link in enumerate(links):
            link.symlink_to(paths[number % len(paths)])
        take, pool = kdctl_loader(links, batch, workers)
        seen, early = 0, 0.0
        while seen < count - batch:
            seen += take()
            if not early and seen > count / 10:
                early = memory_mib()
        print(f"memory over {seen} images: {early:.0f} MiB at a tenth, {memory_mib():.0f} MiB at the end")
        pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path)
    for name, default in (("workers", 2), ("batch", 64), ("batches", 8), ("rounds", 5), ("flat", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if given.images.is_file():
            with tarfile.open(given.images) as archive:
                archive.extractall(folder, filter="data")
        root = Path(folder) if given.images.is_file() else given.images.resolve()
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        paths *= max(1, -(-given.batch * given.batches // len(paths)))
        ours, pool = kdctl_loader(paths, given.batch, given.workers)
        ways = {"kdctl": ours, "DataLoader, Pillow": plain_loader(paths, given.batch, given.workers)}
        try:
            ways["timm"] = timm_loader(paths, given.batch, given.workers)
        except ImportError:
            print("timm is not installed")
        found: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            rate(way, 4)  # start workers, fill buffers
        for _ in range(given.rounds):
            for name, way in ways.items():
                # What the others prefetched meanwhile is used up before the clock runs.
                rate(way, 4)
                found[name].append(rate(way, given.batches))
        for name, rates in found.items():
            times = median(found["kdctl"]) / median(rates)
            spread = f"{min(rates):.0f} to {max(rates):.0f}"
            print(f"{name:20} {median(rates):8.0f} images/s ({spread}); kdctl: {times:.2f} x", flush=True)
        pool.close()
        if given.flat:
            memory_growth(paths, given.flat, given.batch, given.workers)


if __name__ == "__main__":
    main()
