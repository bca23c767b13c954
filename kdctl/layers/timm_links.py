"""The links of a chain that are made of a model of timm: its body, its pooling, its heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.errors import KdctlError


class TimmBody(nn.Module):
    """What timm runs before pooling: images [B, 3, H, W] -> maps [B, C, H, W] or tokens [B, N, D]."""

    def __init__(
        self, model: nn.Module, taps: Mapping[str, int], *, tokens: bool, inner_format: Mapping[str, Any],
        channels_last: bool,
    ) -> None:  # fmt: skip
        """Keep `model` without its head.

        Args:
            model: of timm.
            taps: names of inner features, with their place in what `forward_intermediates` can give.
            tokens: whether features are tokens; else they are maps.
            inner_format: what `forward_intermediates` is told.
            channels_last: whether timm gives maps as [B, H, W, C].
        """
        super().__init__()
        self.model = model
        self._places = dict(taps)
        self._tokens, self._channels_last = tokens, channels_last
        self._inner_format = dict(inner_format)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features."""
        return self._as_map(self.model.forward_features(images))  # type: ignore[operator]

    def observe(self, images: Tensor, taps: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the features, and those of inner taps."""
        places = sorted(self._places[tap] for tap in taps)
        if not places:
            return self(images), {}
        features, inner = self.model.forward_intermediates(images, indices=places, **self._inner_format)  # type: ignore[operator]
        names = {place: name for name, place in self._places.items()}
        seen = zip(places, inner, strict=True)
        return self._as_map(features), {
            names[place]: _as_tokens(value) if self._tokens else value for place, value in seen
        }

    def _as_map(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2) if self._channels_last else features


class TimmPool(nn.Module):
    """What timm runs between features and classifier: -> vectors [B, D]."""

    def __init__(self, model: nn.Module, *, channels_last: bool) -> None:
        """Keep what belongs to the head of `model`, which gives through what its classifier is given."""
        super().__init__()
        self.model = model
        self._channels_last = channels_last

    def forward(self, features: Tensor) -> Tensor:
        """Return what the classifier reads."""
        given = features.permute(0, 2, 3, 1) if self._channels_last else features
        # Not `pre_logits=True`: of some models that leaves out a norm before the classifier.
        return self.model.forward_head(given)  # type: ignore[operator]


class TwoTokens(nn.Module):
    """Class and distillation token, one after the other: [B, N, D] -> [B, 2D]."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the first two tokens."""
        return features[:, :2].flatten(1)


class TwoHeads(nn.Module):
    """The two classifiers of DeiT (arXiv:2012.12877, section 4), each on its token: [B, 2D] -> [B, 2K]."""

    def __init__(self, class_head: nn.Linear, distillation_head: nn.Linear) -> None:
        """Take both linear layers."""
        super().__init__()
        self.class_head = class_head
        self.distillation_head = distillation_head

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the class token, then those of the distillation token."""
        own, taught = tokens.chunk(2, dim=1)
        return torch.cat([self.class_head(own), self.distillation_head(taught)], dim=1)


class MeanOfHeads(nn.Module):
    """What a model with two heads predicts: the mean of their logits, [B, 2K] -> [B, K]."""

    def __init__(self, num_classes: int) -> None:
        """Tell classes apart as each of the heads does."""
        super().__init__()
        self.out_features = num_classes

    def forward(self, logits: Tensor) -> Tensor:
        """Return the mean."""
        own, taught = logits.chunk(2, dim=1)
        return (own + taught) / 2

    def __getattr__(self, name: str) -> Any:
        """Tell a method that wants a linear classifier that there are two."""
        if name in ("weight", "bias", "in_features"):
            raise KdctlError(
                "a model with a class head and a distillation head has no single linear classifier, "
                "which the method reads.",
                "choose a method that compares logits (kd, dkd, dist, deit), or a model with one head.",
            )
        return super().__getattr__(name)


def _as_tokens(value: Any) -> Tensor:
    """Return tokens of what timm shows as such or as a map, behind the prefix that it gives apart."""
    patches, prefix = (value, None) if isinstance(value, Tensor) else value
    if patches.dim() == 4:
        patches = patches.flatten(2).transpose(1, 2)
    return patches if prefix is None else torch.cat([prefix, patches], dim=1)
