"""The training loop of the official SimKD repository, run from a copy that is not ours to ship.

    git clone https://github.com/DefangChen/SimKD /tmp/SimKD
    python benchmarks/against_public.py --official /tmp/SimKD

Its `train_distill` is called as it is, on its own models, with the settings of its SimKD script
(-c 0 -d 0 -b 1); only the data come from here, through the same transforms.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import torch
from public_style import BATCH, endless
from torch import nn
from torch.utils.data import DataLoader

NAMES = {
    "wrn_40_2_post": "resnet38x2",
    "resnet8x4": "resnet8x4",
    "resnet32x4": "resnet32x4",
    "mobilenetv2x2": "MobileNetV2_1_0",
}
"""Our names -> theirs."""


class _Batches:
    """So many batches of an endless loader; the loop asks for their number."""

    def __init__(self, batches: Any, count: int) -> None:
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Any:
        return itertools.islice(self._batches, self._count)


class OfficialLoop:
    """SimKD of one pair, by the official code."""

    def __init__(
        self, checkout: Path, teacher: str, student: str, loader: DataLoader[Any], device: torch.device
    ) -> None:
        if str(checkout) not in sys.path:
            sys.path.insert(0, str(checkout))
        catalogue = importlib.import_module("models").model_dict
        parts = importlib.import_module("models.util")
        self._train = importlib.import_module("helper.loops").train_distill
        with contextlib.redirect_stdout(io.StringIO()):  # some of their models print while they are built
            model_t, model_s = (catalogue[NAMES[name]](num_classes=100) for name in (teacher, student))
        images = torch.randn(2, 3, 32, 32)
        widths = [model.eval()(images, is_feat=True)[0][-2].shape[1] for model in (model_s, model_t)]
        head = parts.SimKD(s_n=widths[0], t_n=widths[1], factor=2)
        self._modules = nn.ModuleList([model_s, head, model_t]).to(device)
        weights = [*model_s.parameters(), *head.parameters()]
        self._optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=5e-4)
        zoo = importlib.import_module("distiller_zoo.KD")
        self._criteria = nn.ModuleList([nn.CrossEntropyLoss(), zoo.DistillKL(4), nn.MSELoss()])
        self._batches = endless(loader)
        self._device = device
        self._options = argparse.Namespace(
            dali=None,
            distill="simkd",
            batch_size=BATCH,
            gpu=0 if device.type == "cuda" else None,
            multiprocessing_distributed=False,
            cls=0.0,
            div=0.0,
            beta=1.0,
            print_freq=200,
        )

    def take(self, num_steps: int) -> float:
        """Take steps; return the wall time in seconds."""
        batches = _Batches(self._batches, num_steps)
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            self._train(1, batches, self._modules, self._criteria, self._optimizer, self._options)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - began
