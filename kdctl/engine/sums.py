"""What an epoch adds up to, kept on the device and read once, at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdctl.protocols.distiller import Losses


class EpochSums:
    """Sums over the steps of an epoch; adding to them never waits for the device."""

    def __init__(self, device: torch.device) -> None:
        """Start at zero."""
        self._device = device
        self._terms: dict[str, Tensor] = {}
        self._hits = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    @torch.no_grad()
    def add(self, losses: Losses, labels: Tensor) -> None:
        """Add one step with labels [B], its terms weighted by B."""
        count = len(labels)
        for name, term in losses.terms().items():
            step = term.detach().double() * count  # a float32 sum over an epoch loses digits
            self._terms[name] = self._terms[name] + step if name in self._terms else step
        self._hits = self._hits + (losses.logits.argmax(dim=1) == labels).sum()
        self.images += count

    def means(self) -> tuple[dict[str, float], float]:
        """Return the mean of each term per image, and the accuracy in percent."""
        terms = {name: float(value) / self.images for name, value in self._terms.items()}
        return terms, 100.0 * int(self._hits) / self.images

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        return {"terms": dict(self._terms), "hits": self._hits, "images": self.images}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._terms = {name: value.to(self._device) for name, value in state["terms"].items()}
        self._hits, self.images = state["hits"].to(self._device), int(state["images"])
