"""A model of timm as a backbone: its inner features by timm's names, its head apart from its body.

    images -> features -> pooled -> classifier -> logits            one head
    images -> features -> pooled -> heads -> classifier -> logits   class and distillation token

`features` is what timm's `forward_features` gives. What it passes on the way (`blocks.5`, `layer3`) can be
seen through `forward_intermediates`, but is no link: no encoder ends there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from torch import Tensor, nn

from kdctl.errors import KdctlError
from kdctl.layers.public_names import Names
from kdctl.layers.timm_links import MeanOfHeads, TimmBody, TimmPool, TwoHeads, TwoTokens
from kdctl.layers.timm_probe import (
    CLASS_TOKEN,
    DISTILLATION_TOKEN,
    FEATURES,
    PATCH_MEAN,
    probe,
    restricted,
)
from kdctl.protocols.backbone import HEADS, POOLED, Backbone
from kdctl.protocols.shapes import Shape, TokenShape, VectorShape

_NUM_STAGES = 4
"""Taps that methods pair: a transformer of twelve equal blocks shows a quarter of them at a time."""


class TimmBackbone(Backbone):
    """A backbone made of a model of timm."""

    def __init__(
        self, links: Mapping[str, nn.Module], classifier: nn.Module, shapes: Mapping[str, Shape],
        *, num_classes: int, input_size: int, undecayed: Sequence[str], classifier_name: str,
    ) -> None:  # fmt: skip
        """Chain body, pooling and heads.

        Args:
            links: the chain.
            classifier: linear, or the mean of two heads.
            shapes: of all taps, shallow to deep.
            num_classes: width of the logits.
            input_size: height and width of the images.
            undecayed: names of parameters of the body that weight decay spares.
            classifier_name: what timm calls the classifier.
        """
        nn.Module.__init__(self)
        self.links = nn.ModuleDict(links)
        self.classifier = classifier  # type: ignore[assignment]
        self.tap_shapes = dict(shapes)
        inner = [tap for tap in shapes if tap not in _AFTER_BODY and tap != FEATURES]
        self._inner = frozenset(inner)
        self.stage_taps = (*_quarters(inner), FEATURES)
        self.final_tap = FEATURES
        self.num_classes = num_classes
        self.input_size = input_size
        self._undecayed = tuple(undecayed)
        self._classifier_name = classifier_name

    def undecayed_parameters(self) -> tuple[nn.Parameter, ...]:
        """Return positions, class tokens and the like."""
        body = self.links[FEATURES].get_submodule("model")
        return tuple(body.get_parameter(name) for name in self._undecayed)

    def encoder(self, tap: str) -> nn.Sequential:
        """Return the chain from the images to `tap`, sharing this model's modules."""
        self._require_link(tap)
        return super().encoder(tap)

    def tail(self, tap: str) -> nn.Sequential:
        """Return the chain from after `tap` to the logits, sharing this model's modules."""
        self._require_link(tap)
        return super().tail(tap)

    def pieces_after(self, tap: str) -> dict[str, nn.Module]:
        """Return the named pieces that follow `tap`, the classifier last."""
        self._require_link(tap)
        return super().pieces_after(tap)

    def public_names(self) -> Names:
        """Yield timm's names of all pieces that have weights."""
        yield "", self.links[FEATURES].get_submodule("model")
        if HEADS in self.links:
            yield "head", self.links[HEADS].get_submodule("class_head")
            yield "head_dist", self.links[HEADS].get_submodule("distillation_head")
        else:
            if list(self.links[POOLED].state_dict()):
                yield "", self.links[POOLED].get_submodule("model")
            yield self._classifier_name, self.classifier

    def _require_link(self, tap: str) -> None:
        if tap not in self.links:
            raise KdctlError(
                f"a model of timm cannot be cut at '{tap}': only after {', '.join(self.links)}.",
                "choose other stages, or a method that only looks at inner features.",
            )

    def _run_link(self, name: str, features: Tensor, wanted: Set[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what a link gives; of timm's body its blocks and single tokens, too, as far as wanted."""
        if name != FEATURES:
            return super()._run_link(name, features, wanted)
        features, inner = self.links[name].observe(features, wanted & self._inner)  # type: ignore[operator]
        return features, inner | self._tokens(features, wanted)

    def _tokens(self, features: Tensor, wanted: Iterable[str]) -> dict[str, Tensor]:
        """Return single tokens and the mean over patches, as far as they are asked for."""
        shape = self.tap_shapes[FEATURES]
        if not isinstance(shape, TokenShape):
            return {}
        made = {CLASS_TOKEN: 0, DISTILLATION_TOKEN: 1}
        tokens = {tap: features[:, place] for tap, place in made.items() if tap in wanted}
        if PATCH_MEAN in wanted:
            tokens[PATCH_MEAN] = features[:, shape.num_prefix :].mean(dim=1)
        return tokens


_AFTER_BODY = (CLASS_TOKEN, DISTILLATION_TOKEN, PATCH_MEAN, POOLED, HEADS)


def wrap(model: Any, num_classes: int, input_size: int) -> TimmBackbone:
    """Return a model of timm as a backbone; its modules are shared.

    Raises:
        KdctlError: it cannot take such images, or is not made as kdctl needs it.
    """
    found = probe(model, input_size)
    classifiers = model.get_classifier()
    two_heads = isinstance(classifiers, tuple)
    body = restricted(model, found.body_names, with_own=True)
    head = restricted(model, found.head_names, with_own=False)
    features = found.shapes[FEATURES]
    links: dict[str, nn.Module] = {
        FEATURES: TimmBody(
            body,
            found.places,
            tokens=isinstance(features, TokenShape),
            inner_format=found.inner_format,
            channels_last=found.channels_last,
        )
    }
    shapes = dict(found.shapes)
    classifier: nn.Module
    name = ""
    if two_heads and isinstance(features, TokenShape) and features.num_prefix == 2:
        width = features.features
        links |= {POOLED: TwoTokens(), HEADS: TwoHeads(*classifiers)}
        shapes |= {POOLED: VectorShape(2 * width), HEADS: VectorShape(2 * num_classes)}
        classifier = MeanOfHeads(num_classes)
    elif isinstance(classifiers, nn.Linear) and found.classifies_last:
        classifier = classifiers
        name = next(path for path, module in model.named_modules() if module is classifiers)
        head.set_submodule(name, nn.Identity())
        links[POOLED] = TimmPool(head, channels_last=found.channels_last)
        shapes[POOLED] = VectorShape(classifiers.in_features)
    else:
        raise KdctlError(
            f"timm's {type(model).__name__} does not end in one linear classifier.", "choose another model."
        )
    spared = set(getattr(model, "no_weight_decay", set)())
    undecayed = [path for path, _ in body.named_parameters() if path in spared]
    return TimmBackbone(
        links, classifier, shapes, num_classes=num_classes, input_size=input_size,
        undecayed=undecayed, classifier_name=name,
    )  # fmt: skip


def _quarters(inner: Sequence[str]) -> list[str]:
    """Return the inner taps that are paired before the last one: the ends of all but the last quarter."""
    is_pyramid = len(inner) <= _NUM_STAGES + 1
    stages = inner[-_NUM_STAGES:] if is_pyramid else inner  # a fifth map is that of the stem
    count = min(_NUM_STAGES, len(stages))
    return [stages[round(len(stages) * quarter / count) - 1] for quarter in range(1, count)]
