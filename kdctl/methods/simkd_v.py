"""SimKD_v: reuse the classifiers of several teachers, and let them vote."""

from __future__ import annotations

from typing import Any, ClassVar

from kdctl.losses.reused_classifiers import Mean, ReusesSeveral
from kdctl.protocols.distiller import Setup, methods


@methods.register("simkd_v", label="SimKD_v")
class VotingSimKd(ReusesSeveral):
    """Aligns the student with each of several teachers by itself; their classifiers vote.

    After Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022,
    arXiv:2203.14001. Tables name it; there is no code, and no definition that we know. Our reading:
    L = simkd_weight * 1/T' * sum_k mean( (f_k - P_k(f_s))^2 ) over T' teachers, with a projector for each;
    the prediction is the mean of the probabilities softmax( W_k GAP(P_k(f_s)) ), a vote.
    """

    mean: ClassVar[Mean] = "probabilities"

    def __init__(self, config: Any, setup: Setup) -> None:
        """Build a projector for each teacher, at the size of the smaller map."""
        super().__init__(config, setup)
        sizes = [self.size_with([teacher]) for teacher in setup.teachers]
        self.build(sizes, [(teacher.map_shape(teacher.final_tap).channels,) for teacher in setup.teachers])
