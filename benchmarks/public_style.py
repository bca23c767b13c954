"""A SimKD loop as public research code writes it, as the yardstick: ours in words, theirs in manner.

What makes it "the public style": PIL images through torchvision transforms and a DataLoader; fp32 in
PyTorch's standard memory layout; the teacher in eval mode under no_grad, with batch norm as it was
trained and its classifier evaluated; cross-entropy and KL computed though their weight is 0, as the
published SimKD settings have it; loss, top-1 and top-5 read from the device in every step.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdctl.protocols.backbone import models

BATCH = 64
TEMPERATURE = 4.0


class PilImages(Dataset[tuple[torch.Tensor, int]]):
    """Arrays as the CIFAR data sets of torchvision hand them out: as PIL images, one at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Any) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def make_loader(images: np.ndarray, labels: np.ndarray, num_workers: int) -> DataLoader[Any]:
    """Return the loader of the public CIFAR-100 code."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ]
    )
    data = PilImages(images, labels, transform)
    return DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=num_workers, drop_last=True)


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield batches, epoch after epoch."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


def make_projector(source: int, target: int) -> nn.Sequential:
    """Return SimKD's projector with reduction 2 (arXiv:2203.14001, Table S.1)."""
    middle = target // 2
    return nn.Sequential(
        nn.Conv2d(source, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, target, 1, bias=False),
        nn.BatchNorm2d(target),
        nn.ReLU(inplace=True),
    )


class PublicLoop:
    """SimKD of one pair of our models, trained step by step."""

    def __init__(self, teacher: str, student: str, loader: DataLoader[Any], device: torch.device) -> None:
        self.device = device
        self.teacher = models.get(teacher).item(100, 32).to(device).eval()
        self.student = models.get(student).item(100, 32).to(device).train()
        tap_s, tap_t = self.student.final_tap, self.teacher.final_tap
        self.taps = tap_s, tap_t
        self.projector = make_projector(self.student.tap_shapes[tap_s][0], self.teacher.tap_shapes[tap_t][0])
        self.projector.to(device)
        weights = [*self.student.parameters(), *self.projector.parameters()]
        self.optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.batches = endless(loader)
        self.seen = {"loss": 0.0, "top1": 0.0, "top5": 0.0}

    def take(self, num_steps: int) -> float:
        """Take steps; return the wall time in seconds."""
        _wait(self.device)
        began = time.perf_counter()
        for _ in range(num_steps):
            self._step()
        _wait(self.device)
        return time.perf_counter() - began

    def _step(self) -> None:
        images, labels = (part.to(self.device) for part in next(self.batches))
        tap_s, tap_t = self.taps
        student = self.student.observe(images, [tap_s])
        with torch.no_grad():
            teacher = self.teacher.observe(images, [tap_t])
        logits_s, logits_t = student.require_logits(), teacher.require_logits()
        cross_entropy = functional.cross_entropy(logits_s, labels)
        divergence = TEMPERATURE**2 * functional.kl_div(
            functional.log_softmax(logits_s / TEMPERATURE, dim=1),
            functional.softmax(logits_t / TEMPERATURE, dim=1),
            reduction="batchmean",
        )
        source, target = student.taps[tap_s], teacher.taps[tap_t]
        size = min(source.shape[2], target.shape[2])
        source, target = (functional.adaptive_avg_pool2d(x, (size, size)) for x in (source, target))
        projected = self.projector(source)
        prediction = self.teacher.tail(tap_t)(projected)
        loss = 0.0 * cross_entropy + 0.0 * divergence + functional.mse_loss(projected, target)
        self._count(prediction, labels, loss)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _count(self, prediction: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        hits = prediction.topk(5, dim=1).indices == labels[:, None]
        self.seen["loss"] += loss.item()
        self.seen["top1"] += hits[:, 0].float().mean().item()
        self.seen["top5"] += hits.any(dim=1).float().mean().item()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
