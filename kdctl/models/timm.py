"""Any model of timm, by name: `timm:deit_tiny_patch16_224`. Needs `pip install 'kdctl[timm]'`.

Wightman, "PyTorch Image Models", doi:10.5281/zenodo.4414861. A model is built for the data's classes and
image size, with weights that the seed draws; a tag after a dot (`resnet50.a1_in1k`) names weights, and
makes no difference to the model. Dropout and stochastic depth, which some models have by default, are off:
they would draw from a random stream that a resumed run does not have.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdctl.errors import KdctlError, UsageError, suggestion
from kdctl.layers.timm_backbone import TimmBackbone, wrap
from kdctl.layers.timm_probe import unfit
from kdctl.protocols.backbone import Backbone, models

FAMILY = "timm"


@dataclass(frozen=True, kw_only=True)
class TimmModel:
    """A model of timm."""

    architecture: str
    """As timm calls it."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        model = _create(self.architecture, num_classes, input_size)
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
        sides = (patch, patch) if isinstance(patch, int) else patch
        if any(input_size % side for side in sides):
            raise unfit(self.architecture, input_size, f"they are no multiple of its patch, {sides[0]}")
        _switch_off_randomness(model)
        return wrap(model, num_classes, input_size)

    def public_names(self, backbone: Backbone) -> Iterable[tuple[str, nn.Module]]:
        """Yield timm's names."""
        if not isinstance(backbone, TimmBackbone):
            raise TypeError("not a model of timm")
        return backbone.public_names()


@models.register_family(FAMILY)
@functools.cache
def timm_model(name: str) -> tuple[str, TimmModel]:
    """Return the canonical name within timm, and the builder, of the model called `name`.

    Raises:
        KdctlError: timm is not installed.
        UsageError: it has no such model, or no such weights of it; the hint names the nearest.
    """
    if importlib.util.find_spec(FAMILY) is None:
        raise KdctlError(
            f"the model 'timm:{name}' is one of timm's, which is not installed.", "pip install 'kdctl[timm]'"
        )
    from timm.models import is_model, list_models, list_pretrained  # noqa: PLC0415 - an extra, slow to import

    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        raise UsageError(f"timm has no model '{name}'.", suggestion(name, list_models(), "Models of timm"))
    if tag and name not in (known := list_pretrained(f"{architecture}.*")):
        raise UsageError(f"timm has no weights '{name}'.", suggestion(name, known, "Weights of timm"))
    return architecture, TimmModel(architecture=architecture)


def _create(architecture: str, num_classes: int, input_size: int) -> Any:
    """Build a model for images of a size; those that do not care for it are not told."""
    from timm.models import create_model  # noqa: PLC0415 - an extra, and slow to import

    try:
        return create_model(architecture, num_classes=num_classes, img_size=input_size)
    except TypeError:
        return create_model(architecture, num_classes=num_classes)
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise unfit(architecture, input_size, reason) from error


def _switch_off_randomness(model: nn.Module) -> None:
    """Set the rates of dropout and stochastic depth to 0."""
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
        elif type(module).__name__ == "DropPath":
            module.drop_prob = 0.0  # type: ignore[assignment]
        for rate in ("attn_drop_p", "drop_rate"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)


__all__ = ["FAMILY", "TimmModel", "timm_model"]
