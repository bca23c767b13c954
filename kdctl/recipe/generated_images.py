"""Options of methods that make their own training images: their runs read no image of the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """How many images a method makes; its `Config` adds its own options to these."""

    batch_size: Annotated[int, Gt(1)] = 256
    """Images per update."""
    steps_per_epoch: Annotated[int, Gt(0)] = 100
    """Training steps that count as an epoch."""
