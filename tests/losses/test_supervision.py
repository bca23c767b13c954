from __future__ import annotations

from typing import Any

import pytest

from kdctl.assembly.catalog import full_catalog
from kdctl.errors import RecipeError
from kdctl.losses.supervision import Supervision
from kdctl.protocols.distiller import methods
from kdctl.recipe.stored import read_component

FEATURE_METHODS = [name for name in methods.names() if issubclass(methods.get(name).config, Supervision)]


def read(method: str, **options: Any) -> Any:
    return read_component("method", {"name": method, **options}, full_catalog()).options


def test_many_methods_stand_beside_the_predictions_terms() -> None:
    assert len(FEATURE_METHODS) > 10


@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_a_loss_on_features_alone_is_refused(method: str) -> None:
    with pytest.raises(RecipeError, match="does not train the student's classifier") as caught:
        read(method, ce_weight=0.0, kd_weight=0.0)
    assert "ce_weight" in caught.value.problem
    assert caught.value.hint == "change one of the values it names."


@pytest.mark.parametrize(
    "weights", [{"ce_weight": 0.0, "kd_weight": 1.0}, {"ce_weight": 1.0, "kd_weight": 0.0}]
)
@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_one_of_both_is_enough(method: str, weights: dict[str, float]) -> None:
    assert read(method, **weights).trains_classifier


def test_decoupled_predictions_are_enough_as_well() -> None:
    assert read("projector", ce_weight=0.0, kd_weight=0.0, dkd_weight=1.0).trains_classifier
