"""SimKD with several teachers: one projector to all of their features."""

from __future__ import annotations

from typing import Any, ClassVar

from kdctl.losses.reused_classifiers import Mean, ReusesSeveral
from kdctl.protocols.distiller import Setup, methods


@methods.register("simkd_multi", label="SimKD (several teachers)")
class SeveralSimKd(ReusesSeveral):
    """Aligns the student with several teachers' features at once; their classifiers are averaged.

    After Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022,
    arXiv:2203.14001. Tables name it; there is no code, and no definition that we know. Our reading:
    L = simkd_weight * 1/T' * sum_k mean( (f_k - P(f_s)[k])^2 ) over T' teachers, with one projector to the
    channels of all of them, P(f_s)[k] those of teacher k, and all maps averaged to the smallest. The
    prediction is the mean of the logits W_k GAP(P(f_s)[k]): one classifier that reads all channels.
    """

    mean: ClassVar[Mean] = "logits"

    def __init__(self, config: Any, setup: Setup) -> None:
        """Build one projector as wide as all teachers together."""
        super().__init__(config, setup)
        widths = [teacher.map_shape(teacher.final_tap).channels for teacher in setup.teachers]
        self.build([self.size_with(setup.teachers)], [widths])
