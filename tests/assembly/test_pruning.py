"""The pruning ratios of arXiv:2203.14001, Table S.10, from our models and our SimKD."""

from __future__ import annotations

import pytest
import torch

from kdctl.assembly.assemble import count_parameters, make_projector, model_facts
from kdctl.engine.device import shapes_only
from kdctl.protocols.backbone import models
from kdctl.protocols.distiller import Distiller, Setup, methods
from kdctl.protocols.projector import projectors
from kdctl.recipe.component import Spec
from kdctl.records import pruning_percent

TABLE = [
    ("resnet38", "resnet38x2", 72.25, 74.73),
    ("resnet8x4", "resnet32x4", 80.53, 83.41),
    ("resnet110", "resnet110x2", 74.06, 74.87),
    ("resnet116", "resnet110x2", 72.66, 73.47),
    ("vgg8", "resnet32x4", 43.69, 46.66),
    ("resnet8x4", "resnet38x2", 43.13, 45.31),
    ("ShuffleV2", "resnet32x4", 79.56, 81.77),
    ("ShuffleV1", "resnet32x4", 84.09, 87.23),
    ("resnet14x2", "resnet32x4", 87.70, 90.53),
    ("ShuffleV2", "resnet110x2", 80.59, 80.39),
    ("mobilenetv2", "resnet38x2", 66.60, 63.96),
    ("mobilenetv2x2", "resnet32x4", 66.74, 68.35),
    ("resnet38x2", "resnet32x4", 66.83, 69.66),
    ("ShuffleV2_1_5", "resnet32x4", 62.67, 65.29),
]
"""Student, teacher, percent pruned with SimKD (factor 2), percent pruned with the plain student.

The plain student counts whole; SimKD counts it whole but for its classifier.
"""


def simkd(student: str, teacher: str) -> Distiller:
    with shapes_only():
        taught, teaching = (models.get(name).item(100, 32) for name in (student, teacher))
        setup = Setup(
            student=taught,
            teachers=(teaching,),
            make_projector=make_projector,
            num_classes=100,
            num_samples=1,
            rng=torch.Generator(),
        )
        projector = projectors.get("bottleneck").item.Config()
        spec = Spec(kind="projector", name="bottleneck", options=projector)
        method = methods.get("simkd").item
        return method(method.Config(projector=spec), setup)


@pytest.mark.parametrize(("student", "teacher", "with_simkd", "plain"), TABLE)
def test_the_pruning_ratios_of_the_paper(student: str, teacher: str, with_simkd: float, plain: float) -> None:
    distiller = simkd(student, teacher)
    facts = model_facts(distiller, distiller.setup.teachers)
    assert facts.teacher_parameters is not None
    assert pruning_percent(facts.student_parameters, facts.teacher_parameters) == pytest.approx(
        plain, abs=0.005
    )
    # The paper counts the student's last 1x1 convolution as well, which its method does not use.
    unused = distiller.frozen_modules()
    unused_convolution = sum(
        count_parameters(piece) for name, piece in unused.items() if name != "classifier"
    )
    counted = pruning_percent(facts.shipped_parameters + unused_convolution, facts.teacher_parameters)
    assert counted == pytest.approx(with_simkd, abs=0.005)
    # What is shipped does without it.
    assert facts.pruning_percent is not None
    assert (facts.pruning_percent > with_simkd + 0.01) == ("head" in unused)


def test_without_a_teacher_nothing_is_pruned() -> None:
    assert pruning_percent(100, None) is None
