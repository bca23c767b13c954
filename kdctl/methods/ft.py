"""FT: learn the factors into which the teacher's last map was paraphrased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.feature_distances import attention_map
from kdctl.losses.stages import Reading, at_one_size, map_of
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import unit_vectors
from kdctl.protocols.distiller import Distiller, Losses, Phase, Setup, Step, methods
from kdctl.recipe.component import option, tunable

_PARAPHRASE, _TRANSFER = "paraphrase", "transfer"
"""The two stages of the paper."""

_SLOPE = 0.1
"""Of the activations below zero."""


@dataclass(frozen=True, kw_only=True)
class FactorTransferConfig(Supervision):
    """Which factors, how large, and how much they count."""

    kd_weight: Annotated[float, Ge(0)] = 0.0
    """Of T^2 * KL(teacher || student); the paper does without."""
    ft_weight: Annotated[float, Gt(0)] = tunable(500.0, 5.0, 5000.0, log=True)
    """beta: of the distance between factors. 500 in the paper; 200 with the form 'attention'."""
    form: Literal["factors", "attention"] = "factors"
    """'factors': the paper's, each sample's factor divided by its length. 'attention': where factors are
    large, as the code of protocol `crd` has it; the translator then has batch norms."""
    reconstruction: Literal["l2", "l1"] = "l2"
    """Distance of the paraphrase from the map: 'l2' in the paper's eq. 1 and in the code of protocol `crd`,
    'l1' in the authors' code."""
    rate: Annotated[float, Gt(0), Le(100)] = 0.5
    """k: channels of the factors, per channel of the teacher's map. 0.5 in both codes."""
    paraphrase_share: Annotated[float, Gt(0), Lt(1)] = 1 / 9
    """Share of the epochs in which the paraphraser alone is trained. The code of protocol `crd` puts 30
    epochs before its 240; here they are part of the schedule."""
    maps: Reading = option("activated", since="0.2.0")
    """Of wide ResNets: 'activated', or 'raw', the sums of residuals before batch norm and ReLU. 'raw' is the
    reading of the code of protocol `crd`, which sets it."""


@methods.register("ft", label="FT")
class FactorTransfer(Distiller):
    """Paraphrases the teacher's map without supervision first; the student learns the factors after.

    Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer",
    NeurIPS 2018, arXiv:1802.04977. First phase, eq. 1: an autoencoder of the teacher's last map learns
    mean( (D(E(f_t)) - f_t)^2 ).  Second phase, eq. 3 and 4, E frozen:
    L = ce_weight * CE + kd_weight * KL + ft_weight * mean_{B,C,H,W} | n(E(f_t)) - n(E_s(f_s)) |,
    with E_s the translator, of E's layers, and n the division by a sample's length over C, H and W.

    The code of protocol `crd` compares n_HW( mean_c E^2 ), the attention maps of the factors: that is the
    form `attention`. The larger of two factors is averaged to the smaller. In the first phase the student
    does not run; the predictions that are counted are those of the teacher's classifier on the
    paraphrase. Both codes give this phase a learning rate of its own (0.01 and 0.1); ours has the run's.
    """

    Config: ClassVar[type] = FactorTransferConfig
    config: FactorTransferConfig

    def __init__(self, config: FactorTransferConfig, setup: Setup) -> None:
        """Build paraphraser and translator for the last maps."""
        super().__init__(config, setup)
        student, teacher = setup.student, setup.teacher
        own, other = (map_of(model, model.final_tap, config.maps) for model in (student, teacher))
        self._taps = (own, other)
        width = teacher.map_shape(other).channels
        factors = max(1, round(config.rate * width))
        self.paraphraser = nn.ModuleDict(
            {"encoder": _encoder(width, factors, normalised=False), "decoder": _decoder(factors, width)}
        )
        own_width = student.map_shape(own).channels
        self.translator = _encoder(own_width, factors, normalised=config.form == "attention")
        self._rest = (teacher.tail(other),)  # in a tuple: no submodule, never trained
        self.arrange()

    def phases(self) -> tuple[Phase, ...]:
        """Return one phase for the paraphraser and one for the student."""
        share = self.config.paraphrase_share
        return (Phase(name=_PARAPHRASE, share=share), Phase(name=_TRANSFER, share=1 - share))

    def arrange(self) -> None:
        """Read the teacher's map in both phases, the student in the second."""
        own, other = self._taps
        self.student_taps = () if self._paraphrasing else (own,)
        self.teacher_taps = ((other,),)
        self.reads_student_logits = not self._paraphrasing
        self.reads_teacher_logits = not self._paraphrasing and self.config.kd_weight > 0

    def losses(self, step: Step) -> Losses:
        """Return the error of the paraphrase in the first phase; all terms of the student in the second."""
        own, other = self._taps
        target = step.teachers[0].taps[other]
        if self._paraphrasing:
            return self._paraphrase(target)
        with torch.no_grad():
            factors = self.paraphraser["encoder"](target)
        distance = self._distance(*at_one_size(self.translator(step.student.taps[own]), factors))
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "ft": self.config.ft_weight * distance},
            logits=step.student.require_logits(),
        )

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Return all but the paraphraser in the first phase, the paraphraser in the second."""
        if self._paraphrasing:
            return {"student": self.student, "translator": self.translator}
        return {"paraphraser": self.paraphraser}

    @property
    def _paraphrasing(self) -> bool:
        return self.phase.name == _PARAPHRASE

    def _paraphrase(self, target: Tensor) -> Losses:
        paraphrase = self.paraphraser["decoder"](self.paraphraser["encoder"](target))
        distance = functional.mse_loss if self.config.reconstruction == "l2" else functional.l1_loss
        with torch.no_grad():
            logits = self._rest[0](paraphrase)
        return Losses(
            task=None, transfer={"paraphrase": distance(paraphrase.float(), target.float())}, logits=logits
        )

    def _distance(self, own: Tensor, other: Tensor) -> Tensor:
        """Return the mean absolute difference of factors [B, C, H, W], of one size."""
        normalise = attention_map if self.config.form == "attention" else _direction
        return functional.l1_loss(normalise(own), normalise(other))


def _direction(factors: Tensor) -> Tensor:
    """Return factors [B, C, H, W] as vectors [B, C * H * W] of length 1."""
    return unit_vectors(factors.flatten(1))


def _encoder(width: int, factors: int, *, normalised: bool) -> nn.Sequential:
    """Return three 3x3 convolutions, [B, width, H, W] -> [B, factors, H, W]."""
    pieces: list[nn.Module] = []
    for source, target in ((width, width), (width, factors), (factors, factors)):
        pieces.append(nn.Conv2d(source, target, 3, padding=1))
        pieces += [nn.BatchNorm2d(target)] if normalised else []
        pieces.append(nn.LeakyReLU(_SLOPE, inplace=True))
    return nn.Sequential(*pieces)


def _decoder(factors: int, width: int) -> nn.Sequential:
    """Return three transposed 3x3 convolutions, [B, factors, H, W] -> [B, width, H, W]."""
    pieces: list[nn.Module] = []
    for source, target in ((factors, factors), (factors, width), (width, width)):
        pieces += [nn.ConvTranspose2d(source, target, 3, padding=1), nn.LeakyReLU(_SLOPE, inplace=True)]
    return nn.Sequential(*pieces)
