from __future__ import annotations

from kdctl.recipe.layers import Layer, When
from kdctl.recipe.sections import with_canonical_names


def test_names_of_all_sections_take_their_one_spelling(bench) -> None:
    layer = Layer(
        source="here",
        values={
            "name": "ShuffleV1",
            "student": "ShuffleV1",
            "teacher": ["WRN-40-2", {"name": "mobile_half", "seed": 1}],
            "method": {"name": "SimKD", "projector": "1x1-3x3-1x1"},
            "optimizer": {"name": "SGD", "learning_rate": 0.1},
            "schedule": "no such schedule",
        },
    )
    assert with_canonical_names(layer, bench.context.catalog).values == {
        "name": "ShuffleV1",
        "student": "shufflenetv1",
        "teacher": ["wrn_40_2", {"name": "mobilenetv2", "seed": 1}],
        "method": {"name": "simkd", "projector": "bottleneck"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "schedule": "no such schedule",
    }


def test_conditions_take_the_same_spelling(bench) -> None:
    when = When(
        conditions={"student.name": ("ShuffleV1", "vgg8"), "data.augmentation": ("folder",)},
        values={"data": "folder"},
    )
    (found,) = with_canonical_names(
        Layer(source="here", values={}, whens=(when,)), bench.context.catalog
    ).whens
    assert found.conditions == {"student.name": ("shufflenetv1", "vgg8"), "data.augmentation": ("folder",)}
    assert found.values == {"data": "imagefolder"}
