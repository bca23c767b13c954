from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from kdctl.engine.batches import EvaluationSet, Normalisation
from kdctl.engine.device import Compute
from kdctl.engine.features import pooled_features
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.dataset import Split
from kdctl.recipe.plan import EngineOptions

CPU = torch.device("cpu")
EXACT = Compute(device=CPU, options=EngineOptions())


@pytest.fixture
def images(split: Callable[[int, int], Split], normalise: Normalisation) -> EvaluationSet:
    return EvaluationSet(split(501, 0), normalise, CPU)  # more than one step of an evaluation


def test_features_of_a_backbone_are_its_pooled_tap(teacher: Backbone, images: EvaluationSet) -> None:
    features = pooled_features(teacher, images, EXACT)
    with torch.no_grad():
        expected = torch.cat([teacher.observe(batch, ["pooled"]).taps["pooled"] for batch in images.images()])
    torch.testing.assert_close(features, expected)
    assert pooled_features(teacher, images, EXACT).shape == features.shape  # nothing was left behind


def test_features_of_a_reused_classifier_are_the_projected_ones(
    teacher: Backbone, images: EvaluationSet
) -> None:
    tap = teacher.final_tap
    channels = teacher.tap_shapes[tap][0]
    projector = nn.Conv2d(channels, channels, 1).eval()
    shipped = nn.Sequential(teacher.encoder(tap), projector, teacher.tail(tap))
    with torch.no_grad():
        maps = [projector(teacher.observe(batch, [tap]).taps[tap]) for batch in images.images()]
    expected = torch.cat([features.mean(dim=(2, 3)) for features in maps])
    torch.testing.assert_close(pooled_features(shipped, images, EXACT), expected)


def test_a_model_without_a_linear_layer_has_none(images: EvaluationSet) -> None:
    with pytest.raises(KdctlError, match="no linear layer"):
        pooled_features(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), images, EXACT)
