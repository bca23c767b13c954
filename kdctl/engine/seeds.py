"""Random streams that depend on nothing but their names: the same run always sees the same numbers."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """Return the seed of the stream called `names` in the run with `seed`: 63 bits."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator at the start of the stream called `names`."""
    return torch.Generator().manual_seed(derive(seed, *names))
