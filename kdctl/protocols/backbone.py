"""What a model must offer: a classifier as a chain of named stages.

    images -> stem -> stage1 -> ... -> stageN -> (head convolution) -> pooled -> classifier -> logits

Every link has a name, its output is a tap, and its shape is declared, so that methods can ask for
inner features, build projectors without a dummy forward, and reuse the rest of a teacher from any
tap on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kdctl.errors import KdctlError
from kdctl.protocols.maps import Size, name_at, pool_to, shared_size, tap_and_size
from kdctl.protocols.shapes import MapShape, Shape, describe_shape, typed_shape
from kdctl.registry import Registry

__all__ = [
    "Backbone", "BackboneBuilder", "GlobalAveragePool", "HasPublicNames", "Link", "Outputs", "Shape",
    "models",
]  # fmt: skip

INPUT = "input"
"""Name of the link before the first, where a model's images are not the data's."""

HEADS = "heads"
"""The tap of a model with a class head and a distillation head: the logits of both, one after the other."""

POOLED = "pooled"
"""The tap that every chain ends with: the vector that its classifier reads."""

PREACTIVATION = "_pre"
"""Suffix of the tap before a stage's last activation."""

RAW = "_raw"
"""Suffix of the tap of a stage's sum of residuals, where the next block begins with batch norm and ReLU."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a forward pass gives."""

    logits: Tensor | None
    """[B, K], before softmax; None when nobody asked for them."""
    taps: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """By name: maps [B, C, H, W], tokens [B, N, D], vectors [B, D]."""

    def require_logits(self) -> Tensor:
        """Return the logits of a method that said it reads them."""
        if self.logits is None:
            raise ValueError("these logits were not computed: reads_*_logits is False")
        return self.logits


@dataclass(frozen=True, kw_only=True)
class Link:
    """One named piece of the chain."""

    name: str
    module: nn.Module
    shape: Shape
    """Of its output, for one sample."""


class Backbone(nn.Module):
    """A classifier whose inner features can be seen.

    Attributes:
        tap_shapes: shape of each tap, in the order of the chain.
        stage_taps: the taps that feature methods pair, one per stage, shallow to deep.
        final_tap: the last map before pooling (before the last 1x1 convolution, where there is one).
        num_classes: width of the logits.
        input_size: height and width of the images it was built for.
    """

    def __init__(
        self,
        links: Sequence[Link],
        *,
        classifier: nn.Linear,
        stage_taps: Sequence[str],
        input_size: int,
    ) -> None:
        """Chain `links`; the last one gives the vector that `classifier` reads."""
        super().__init__()
        self.links = nn.ModuleDict({link.name: link.module for link in links})
        self.classifier = classifier
        self.tap_shapes: dict[str, Shape] = {link.name: typed_shape(link.shape) for link in links}
        self.stage_taps = tuple(stage_taps)
        self.final_tap = self.stage_taps[-1]
        self.num_classes = classifier.out_features
        self.input_size = input_size

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of normalised images [B, 3, H, W]."""
        features = images
        for module in self.links.values():
            features = module(features)
        return self.classifier(features)

    def observe(self, images: Tensor, taps: Sequence[str], *, with_logits: bool = True) -> Outputs:
        """Run only as far as needed and return the named taps, and the logits if asked.

        Names may be those of `tap_at`: such a map comes averaged, and in fp32 at least.

        Raises:
            ValueError: this model has no such tap.
        """
        sizes = {name: tap_and_size(name) for name in taps}
        wanted = {tap for tap, _ in sizes.values()}
        if not wanted <= self.tap_shapes.keys():
            unknown = ", ".join(sorted(wanted - self.tap_shapes.keys()))
            raise ValueError(f"no such taps: {unknown}; there are {', '.join(self.tap_shapes)}")
        seen: dict[str, Tensor] = {}
        features = images
        for name in self.links:
            if not with_logits and len(seen) == len(wanted):
                break
            features, inner = self._run_link(name, features, wanted)
            seen |= inner
            if name in wanted:
                seen[name] = features
        return Outputs(
            logits=self.classifier(features) if with_logits else None,
            taps={
                name: seen[tap] if size is None else _averaged(seen[tap], size)
                for name, (tap, size) in sizes.items()
            },
        )

    def _run_link(self, name: str, features: Tensor, wanted: Set[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what a link gives, and of the taps that lie within it those that are wanted."""
        return self.links[name](features), {}

    def map_shape(self, tap: str) -> MapShape:
        """Return the shape of a tap that has to be a map.

        Raises:
            KdctlError: it gives tokens or vectors.
        """
        shape = self.tap_shapes[tap]
        if not isinstance(shape, MapShape):
            raise KdctlError(
                f"the method compares maps, and '{tap}' of a model gives {describe_shape(shape)}.",
                "choose a method that compares predictions or pooled vectors (kdctl list methods), or a "
                "model with maps.",
            )
        return shape

    def tap_at(self, tap: str, size: Size) -> str:
        """Return the name under which `observe` gives the map of `tap` averaged down to `size`.

        A map that is not larger keeps the name of its tap.
        """
        shape = self.map_shape(tap)
        smaller = shared_size(shape, size)
        return tap if smaller == shape[1:] else name_at(tap, smaller)

    def undecayed_parameters(self) -> tuple[nn.Parameter, ...]:
        """Return what weight decay spares along with norms and biases, though these are no vectors.

        In transformers: what is added to tokens, such as positions.
        """
        return ()

    def adapt_input(self, scale: Sequence[float], shift: Sequence[float]) -> None:
        """Multiply and shift the channels of all images from now on, before the first link.

        For a model whose images were normalised in another way. Taps, and what is saved, stay as they are.
        """
        self.links = nn.ModuleDict({INPUT: ScaledChannels(scale, shift), **self.links})

    def encoder(self, tap: str) -> nn.Sequential:
        """Return the chain from the images to `tap`, sharing this model's modules."""
        names = list(self.links)
        return nn.Sequential(*(self.links[name] for name in names[: names.index(tap) + 1]))

    def tail(self, tap: str) -> nn.Sequential:
        """Return the chain from after `tap` to the logits, sharing this model's modules."""
        names = list(self.links)
        rest = [self.links[name] for name in names[names.index(tap) + 1 :]]
        return nn.Sequential(*rest, self.classifier)

    def pieces_after(self, tap: str) -> dict[str, nn.Module]:
        """Return the named pieces that follow `tap`, the classifier last."""
        names = list(self.links)
        rest = names[names.index(tap) + 1 :]
        return {**{name: self.links[name] for name in rest}, "classifier": self.classifier}


def _averaged(features: Tensor, size: Size) -> Tensor:
    """Return a map [B, C, H, W] at a smaller size; averages are not rounded to lower precisions."""
    return pool_to(features if features.element_size() >= 4 else features.float(), size)


class ScaledChannels(nn.Module):
    """Each channel times a number, plus another: [B, C, H, W] -> [B, C, H, W]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Sequence[float], shift: Sequence[float]) -> None:
        """`scale` and `shift` have one number for each channel; neither is trained or saved."""
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, 1, 1), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return scale * features + shift."""
        return features * self.scale + self.shift


class GlobalAveragePool(nn.Module):
    """Mean over all positions: [B, C, H, W] -> [B, C]."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean of each channel."""
        return features.mean(dim=(2, 3))


@runtime_checkable
class HasPublicNames(Protocol):
    """A builder that knows how public repositories name the pieces of its model."""

    def __call__(self, num_classes: int, input_size: int, /) -> Backbone:
        """Build it with freshly drawn weights."""
        ...

    def public_names(self, backbone: Backbone) -> Iterable[tuple[str, nn.Module]]:
        """Yield each piece that has weights, with the name that its tensors begin with elsewhere.

        Where repositories differ, all their names for it, parted by '|'.
        """
        ...


@runtime_checkable
class Tapped(Protocol):
    """A model that is more than a backbone, and whose inner features can be seen nevertheless."""

    def backbone(self) -> Backbone:
        """Return the same modules as a chain of taps."""
        ...


class Untapped(Backbone):
    """A classifier that shows its logits alone: a teacher for methods that read no features."""

    def __init__(self, model: nn.Module, num_classes: int, input_size: int) -> None:
        """Wrap a model: images [B, 3, H, W] -> logits [B, K]."""
        nn.Module.__init__(self)
        self.links = nn.ModuleDict()
        self.classifier = model  # type: ignore[assignment]
        self.tap_shapes = _NoTaps()
        self.num_classes = num_classes
        self.input_size = input_size

    def __getattr__(self, name: str) -> Any:
        """Tell a method that asks for stages that there are none."""
        if name in ("stage_taps", "final_tap"):
            raise _no_features()
        return super().__getattr__(name)


class _NoTaps(dict[str, Shape]):
    """Shapes of no taps; whoever asks for one is told what to do."""

    def __missing__(self, name: str) -> Shape:
        raise _no_features()


def _no_features() -> KdctlError:
    return KdctlError(
        "a teacher shows nothing but its logits, and the method compares features.",
        "choose a method that compares logits (kd, dkd, dist), or another teacher.",
    )


def as_teacher(model: nn.Module, num_classes: int, input_size: int) -> Backbone:
    """Return a model that would be shipped as one that can teach, with the taps it has."""
    if isinstance(model, Backbone):
        return model
    return model.backbone() if isinstance(model, Tapped) else Untapped(model, num_classes, input_size)


BackboneBuilder = Callable[[int, int], Backbone]
"""(num_classes, input_size) -> backbone with freshly drawn weights."""

models: Registry[BackboneBuilder] = Registry("model", "kdctl.models")
