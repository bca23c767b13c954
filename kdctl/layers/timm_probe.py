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
    inner_format: dict[str, Any]
    """What `forward_intermediates` is told, to show inner features with as many tokens as it can."""
    channels_last: bool
    """Whether the model gives maps as [B, H, W, C]."""
    classifies_last: bool
    """Whether what the classifier gives are the logits: some models add others' to them."""
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
        with _called(hollow) as in_head, _given_by(hollow.get_classifier()) as classified:
            logits = hollow.forward_head(features)
        _, maps = hollow.forward_intermediates(images, output_fmt="NCHW")
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise unfit(type(model).__name__, input_size, reason) from error
    num_prefix = _num_prefix(model, features, maps)
    children = {name for name, _ in model.named_children()}
    head_names = frozenset((children & in_head) - in_body)
    channels_last = features.dim() == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC"
    names = [str(info["module"]) for info in model.feature_info]
    inner_format = _inner_format(hollow, images, num_prefix) if features.dim() == 3 else _MAPS
    return Probe(
        shapes=_map_shapes(names, features, maps, channels_last=channels_last)
        if features.dim() == 4
        else _token_shapes(
            names, features, maps, num_prefix, _num_registers(model), inner_prefix=_PREFIX in inner_format
        ),
        places={name: place for place, name in enumerate(names)},
        inner_format=inner_format,
        channels_last=channels_last,
        classifies_last=len(classified) == 1 and classified[0] is logits,
        body_names=frozenset(children - head_names),
        head_names=head_names,
    )


def unfit(what: str, input_size: int, reason: str) -> KdctlError:
    """Return the error for images of a size that a model cannot take."""
    return KdctlError(
        f"timm's {what} cannot take images of {input_size}x{input_size} pixels: {reason}.",
        "use another size: a multiple of the patch, at least as large as the strides need.",
    )


def restricted(model: nn.Module, names: frozenset[str], *, with_own: bool) -> nn.Module:
    """Return the same object with some of its children only, and its own parameters if asked; shared."""
    part = copy.copy(model)
    state = vars(part)
    state["_modules"] = {name: module for name, module in model.named_children() if name in names}
    for own in ("_parameters", "_buffers"):
        state[own] = dict(state[own]) if with_own else {}
    return part


_MAPS: dict[str, Any] = {"output_fmt": "NCHW"}
_PREFIX = "return_prefix_tokens"


def _num_prefix(model: Any, features: Any, maps: Sequence[Tensor]) -> int:
    """Return how many of the features are tokens of no patch; 0 for maps.

    Raises:
        KdctlError: they are neither maps nor the tokens of all patches.
    """
    if isinstance(features, Tensor) and features.dim() == 4:
        return 0
    if isinstance(features, Tensor) and features.dim() == 3:
        num_prefix = features.shape[1] - math.prod(_size(maps[-1]))
        if num_prefix >= 0:
            return num_prefix
    raise KdctlError(
        f"the features of timm's {type(model).__name__} are neither a map nor the tokens of all patches.",
        "choose another model.",
    )


def _num_registers(model: Any) -> int:
    """Return how many of the prefix tokens are registers (arXiv:2309.16588), which come last among them."""
    registers = getattr(model, "reg_token", None)
    return registers.shape[1] if isinstance(registers, Tensor) else 0


def _inner_format(hollow: Any, images: Tensor, num_prefix: int) -> dict[str, Any]:
    """Return how a model whose features are tokens is asked for inner ones; some show them as maps only."""
    told: dict[str, Any] = {"output_fmt": "NLC"}
    code = type(hollow).forward_intermediates.__code__
    if num_prefix and _PREFIX in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        told[_PREFIX] = True
    try:
        hollow.forward_intermediates(images, indices=[0], stop_early=True, **told)
    except AssertionError:
        return told | _MAPS
    return told


def _map_shapes(
    names: Sequence[str], features: Tensor, maps: Sequence[Tensor], *, channels_last: bool
) -> dict[str, Shape]:
    last = features.permute(0, 3, 1, 2) if channels_last else features
    inner: dict[str, Shape] = {
        name: MapShape(*seen.shape[1:]) for name, seen in zip(names, maps, strict=True)
    }
    return {**inner, FEATURES: MapShape(*last.shape[1:])}


def _token_shapes(
    names: Sequence[str], features: Tensor, maps: Sequence[Tensor], num_prefix: int, num_registers: int,
    *, inner_prefix: bool,
) -> dict[str, Shape]:  # fmt: skip
    width = features.shape[2]
    tokens: dict[str, Shape] = {
        name: TokenShape(seen.shape[1], grid=_size(seen), num_prefix=num_prefix if inner_prefix else 0)
        for name, seen in zip(names, maps, strict=True)
    }
    singles = [CLASS_TOKEN, DISTILLATION_TOKEN][: max(num_prefix - num_registers, 0)]
    return {
        **tokens,
        FEATURES: TokenShape(width, grid=_size(maps[-1]), num_prefix=num_prefix),
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


@contextlib.contextmanager
def _given_by(classifier: Any) -> Generator[list[Tensor]]:
    """Collect what a classifier gives inside; nothing where it is no module, but two of them."""
    seen: list[Tensor] = []
    if not isinstance(classifier, nn.Module):
        yield seen
        return

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(output)

    handle = classifier.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()
