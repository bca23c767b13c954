"""Weights that timm has fetched before: found in its caches, without a network."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdctl.errors import KdctlError, UsageError, suggestion

_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the files are called on the hub."""


@dataclass(frozen=True, kw_only=True)
class CachedWeights:
    """A file of weights, and the input they were trained on."""

    path: Path
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def cached_weights(name: str) -> CachedWeights:
    """Return the weights that timm calls `name`: an architecture, and after a dot which of its weights.

    Raises:
        KdctlError: timm is not installed, or the weights were not fetched yet.
        UsageError: timm knows no such weights.
    """
    if importlib.util.find_spec("timm") is None:
        raise KdctlError(
            f"the weights 'timm:{name}' are timm's, which is not installed.", "pip install 'kdctl[timm]'"
        )
    from timm.models import get_pretrained_cfg, list_pretrained  # noqa: PLC0415 - an extra, slow to import

    try:
        config: Any = get_pretrained_cfg(name)
    except RuntimeError:  # it knows the architecture, and not these weights
        config = None
    if config is None or not config.has_weights:
        hint = suggestion(name, list_pretrained(), "Weights of timm")
        raise UsageError(f"timm has no weights '{name}'.", hint)
    path = _from_hub(config) or _from_torch(config)
    if path is None:
        raise KdctlError(
            f"timm has not fetched the weights '{name}' yet: they are in none of its caches.",
            f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\" fetches them.",
        )
    return CachedWeights(path=path, mean=_three(config.mean), std=_three(config.std))


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _from_hub(config: Any) -> Path | None:
    """Return the file in the cache of the hub of models."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - comes with timm

    if not config.hf_hub_id:
        return None
    for file in (config.hf_hub_filename, *_FILES):
        found = try_to_load_from_cache(config.hf_hub_id, file) if file else None
        if isinstance(found, str):
            return Path(found)
    return None


def _from_torch(config: Any) -> Path | None:
    """Return the file in torch's cache, where older versions put it."""
    from torch.hub import get_dir  # noqa: PLC0415 - beside the others

    path = Path(get_dir()) / "checkpoints" / (config.url or "").rpartition("/")[2]
    return path if path.is_file() else None
