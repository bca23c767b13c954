"""What an epoch adds up to, and whether it counts: the last, or the first that is best on a split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdctl.protocols.step import WHOLE_STEP, Batch, Losses, Update
from kdctl.records import EpochResult, Selected, Selection


class EpochSums:
    """Sums over the steps of an epoch; adding to them never waits for the device.

    They grow in place, so that a recorded step adds to the same sums each time it is replayed.
    """

    def __init__(self, device: torch.device) -> None:
        """Start at zero."""
        self._device = device
        self._terms: dict[str, Tensor] = {}
        self._metrics: dict[str, Tensor] = {}
        self._hits = torch.zeros((), dtype=torch.int64, device=device)
        self._predicts = False
        """Whether the method tells predictions on labelled images, so that there is a training accuracy."""
        self.images = 0
        """Training images of the epoch so far; whoever takes the steps counts them, on the host."""

    @torch.no_grad()
    def add(self, losses: Losses, batch: Batch, update: Update = WHOLE_STEP, *, repeat: int = 0) -> None:
        """Add the terms and metrics of an update, weighted by the size of its batch.

        Of an update that is taken several times in a step, the mean over them counts; of its predictions,
        those of the first time.
        """
        weight = len(batch.images) if update.repeats == 1 else len(batch.images) / update.repeats
        for sums, values in ((self._terms, losses.terms()), (self._metrics, losses.metrics)):
            for term, value in values.items():
                name = f"{update.name}.{term}" if update.name else term
                if name not in sums:
                    sums[name] = torch.zeros((), dtype=torch.float64, device=self._device)
                # In double precision: a float32 sum over an epoch loses digits.
                sums[name].add_(value.detach(), alpha=weight)
        if losses.logits is not None and batch.labels is not None and repeat == 0:
            self._predicts = True
            self._hits.add_((losses.logits.argmax(dim=1) == batch.hard_labels()).sum())

    def tensors(self) -> list[Tensor]:
        """Return what `add` changes, as far as it exists yet."""
        return [*self._terms.values(), *self._metrics.values(), self._hits]

    def means(self) -> tuple[dict[str, float], float | None]:
        """Return the mean of each term per image, and the accuracy in percent; None without predictions."""
        terms = {name: float(value) / self.images for name, value in self._terms.items()}
        return terms, 100.0 * int(self._hits) / self.images if self._predicts else None

    def metrics(self) -> dict[str, float]:
        """Return the mean of each metric per image; one that is not a number any more is left out."""
        means = {name: float(value) / self.images for name, value in self._metrics.items()}
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}

    def reset(self) -> None:
        """Start the next epoch at zero."""
        for tensor in self.tensors():
            tensor.zero_()
        self.images = 0

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        terms, metrics = dict(self._terms), dict(self._metrics)
        state = {"terms": terms, "metrics": metrics, "hits": self._hits, "images": self.images}
        return {**state, "predicts": self._predicts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._terms = {name: value.to(self._device) for name, value in state["terms"].items()}
        metrics = state.get("metrics", {})  # not in states of versions before there were any
        self._metrics = {name: value.to(self._device) for name, value in metrics.items()}
        self._hits, self.images = state["hits"].to(self._device), int(state["images"])
        self._predicts = bool(state.get("predicts", True))  # before 0.2 every method told its predictions


def winning_rules(result: EpochResult, selected: Mapping[str, Selected]) -> tuple[Selection, ...]:
    """Return the rules that pick this epoch over those they `selected` before.

    An epoch that only equals the best so far does not replace it.
    """
    rules = [Selection.LAST]
    best_test = selected.get(Selection.BEST_TEST)
    if best_test is None or result.test.top1 > best_test.test.top1:
        rules.append(Selection.BEST_TEST)
    if result.val is not None:
        best = selected.get(Selection.BEST_VAL)
        if best is None or best.val is None or result.val.top1 > best.val.top1:
            rules.append(Selection.BEST_VAL)
    return tuple(rules)
