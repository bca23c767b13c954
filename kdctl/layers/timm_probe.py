"""What a model of timm is like, seen in a forward pass without numbers."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.errors import KdctlError
from kdctl.protocols.shapes import MapShape, Shape, TokenShape, VectorShape

FEATURES = "features"
"""The tap of what timm's `forward_features` gives."""

CLASS_TOKEN, DISTILLATION_TOKEN, PATCH_MEAN = "class_token", "distillation_token", "patch_mean"
"""Taps of single tokens of the features, and of the mean over those of patches."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was seen."""

    shapes: dict[str, Shape]
    """Of all taps up to the features, shallow to deep, then of its tokens."""
    places: dict[str, int]
    """Of inner taps in what `forward_intermediates` can give."""
    channels_last: bool
    """Whether the model gives maps as [B, H, W, C]."""
    body_names: frozenset[str]
    """Children of the model that make features."""
    head_names: frozenset[str]
    """Children of the model that read them."""


@torch.no_grad()
def probe(model: Any, input_size: int) -> Probe:
    """Return what a model of timm does with images of that size.

    Raises:
        KdctlError: it cannot take them, or does not show its inner features.
    """
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        raise KdctlError(
            f"timm's {type(model).__name__} does not show its inner features.", "choose another model."
        )
    hollow = copy.deepcopy(model).eval().to("meta")
    images = torch.empty(2, 3, input_size, input_size, device="meta")
    try:
        with _called(hollow) as in_body:
            features = hollow.forward_features(images)
        with _called(hollow) as in_head:
            hollow.forward_head(features)
        _, maps = hollow.forward_intermediates(images, output_fmt="NCHW")
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise unfit(type(model).__name__, input_size, reason) from error
    children = {name for name, _ in model.named_children()}
    head_names = frozenset((children & in_head) - in_body)
    channels_last = features.dim() == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC"
    names = [str(info["module"]) for info in model.feature_info]
    return Probe(
        shapes=_shapes(names, features, maps, channels_last=channels_last, has_prefix=takes_prefix(model)),
        places={name: place for place, name in enumerate(names)},
        channels_last=channels_last,
        body_names=frozenset(children - head_names),
        head_names=head_names,
    )


def unfit(what: str, input_size: int, reason: str) -> KdctlError:
    """Return the error for images of a size that a model cannot take."""
    return KdctlError(
        f"timm's {what} cannot take images of {input_size}x{input_size} pixels: {reason}.",
        "use another size: a multiple of the patch, at least as large as the strides need.",
    )


def takes_prefix(model: nn.Module) -> bool:
    """Whether `forward_intermediates` can give class tokens and the like, too."""
    code = type(model).forward_intermediates.__code__  # type: ignore[attr-defined]
    return "return_prefix_tokens" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def restricted(model: nn.Module, names: frozenset[str], *, with_own: bool) -> nn.Module:
    """Return the same object with some of its children only, and its own parameters if asked; shared."""
    part = copy.copy(model)
    state = vars(part)
    state["_modules"] = {name: module for name, module in model.named_children() if name in names}
    for own in ("_parameters", "_buffers"):
        state[own] = dict(state[own]) if with_own else {}
    return part


def _shapes(
    names: Sequence[str], features: Tensor, maps: Sequence[Tensor], *, channels_last: bool, has_prefix: bool
) -> dict[str, Shape]:
    if features.dim() == 4:
        last = features.permute(0, 3, 1, 2) if channels_last else features
        inner: dict[str, Shape] = {
            name: MapShape(*seen.shape[1:]) for name, seen in zip(names, maps, strict=True)
        }
        return {**inner, FEATURES: MapShape(*last.shape[1:])}
    grid, width = _size(maps[-1]), features.shape[2]
    num_prefix = features.shape[1] - math.prod(grid)
    tokens: dict[str, Shape] = {
        name: TokenShape(seen.shape[1], grid=_size(seen), num_prefix=num_prefix if has_prefix else 0)
        for name, seen in zip(names, maps, strict=True)
    }
    singles = [CLASS_TOKEN, DISTILLATION_TOKEN][: min(num_prefix, 2)]
    return {
        **tokens,
        FEATURES: TokenShape(width, grid=grid, num_prefix=num_prefix),
        **{tap: VectorShape(width) for tap in (*singles, PATCH_MEAN)},
    }


def _size(features: Tensor) -> tuple[int, int]:
    return features.shape[-2], features.shape[-1]


@contextlib.contextmanager
def _called(model: nn.Module) -> Generator[set[str]]:
    """Collect the names of a model's children of which a part is called inside."""
    names: set[str] = set()

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            names.add(name)

        return hook

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, child in model.named_children()
        for module in child.modules()
    ]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()
