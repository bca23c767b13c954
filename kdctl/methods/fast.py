"""FastDFKD: a generator that learns to need few steps for each batch of invented images; no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.nn import functional

from kdctl.losses.image_pool import BestImages, LearnsFromPool, PoolOptions
from kdctl.losses.inversion_terms import MovingStatistics, agreed_divergence, shifted_views
from kdctl.losses.learned_generator import multiply_adds
from kdctl.losses.meta_generator import BETAS, MetaGenerator
from kdctl.losses.soft_targets import soft_target_kl
from kdctl.protocols.distiller import Losses, Setup, Step, methods
from kdctl.recipe.component import tunable
from kdctl.recipe.data_free import EpochWork


@dataclass(frozen=True, kw_only=True)
class FastInversionConfig(PoolOptions):
    """How the generator learns; defaults are the authors' for five steps and wide ResNets on CIFAR-100."""

    pool_size: Annotated[int, Gt(1), Le(10_000_000)] = 56_320
    """Images that are kept, the latest; a multiple of `images_per_round`. Two bytes a number: 330 MiB of
    32x32 pixels, on the device and in saved states."""
    inversion_steps: Annotated[int, Gt(0), Le(1_000_000)] = 5
    """Updates of a copy of the generator in each round; the batch with the smallest loss is kept. 2, 5 and 10
    in the paper."""
    inversion_rate: Annotated[float, Gt(0)] = tunable(3e-3, 1e-4, 1e-1, log=True)
    """Learning rate of these updates, by Adam with beta1 = 0.5. The authors' code: 5e-3, 3e-3 and 2e-3 for 2,
    5 and 10 steps. What the copies start from learns at `inversion_steps` times this rate."""
    noise_rate: Annotated[float, Gt(0)] = tunable(1e-2, 1e-3, 1e-1, log=True)
    """Learning rate of the noise. The authors' code: 0.015 for 2 steps, else 0.01."""
    meta_gradient: Literal["fomaml", "reptile"] = "fomaml"
    """What the start learns by. 'fomaml': the sum of the gradients at all steps of the copy. 'reptile': the
    start less where the copy ended."""
    warmup_rounds: Annotated[int, Ge(0), Le(1_000_000)] = 20
    """Rounds before the first epoch, without the student's divergence; their images are kept, too."""
    bn_weight: Annotated[float, Gt(0)] = tunable(10.0, 0.01, 100.0, log=True)
    """Of the distance from the statistics of the teacher's batch norms."""
    one_hot_weight: Annotated[float, Ge(0)] = tunable(0.4, 0.01, 10.0, log=True)
    """Of the cross-entropy of the teacher's predictions with classes drawn for each image. 0.4 or 0.5."""
    adversarial_weight: Annotated[float, Ge(0)] = tunable(1.1, 0.01, 10.0, log=True)
    """Of the student's divergence from the teacher where they decide alike, which is to be large. 1.0 to 1.33
    in the authors' code, by pair of models."""
    statistics_momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Share of earlier rounds in the statistics that are held against the teacher's. 0: the batch alone."""
    temperature: Annotated[float, Gt(0)] = tunable(20.0, 1.0, 20.0, log=True)
    """T of the student's divergence, which is multiplied by T^2. 20 in the authors' code."""

    def epoch_work(self, image_size: int) -> EpochWork:
        """Return that of a round of inventing, and of the student's steps; the warm-up is left out."""
        steps, tried = super().epoch_work(image_size), self.images_per_round * self.inversion_steps
        return EpochWork(
            student=steps.student + 2 * tried * (self.adversarial_weight > 0),
            teacher=steps.teacher + 2 * tried,
            multiply_adds=3 * tried * multiply_adds(self.noise_size, image_size),
        )


@methods.register("fast", label="FastDFKD", aliases=("fast_dfkd", "fast_datafree"))
class FastDataFree(LearnsFromPool):
    """Rounds of inventing start from what earlier ones have in common, and so take few steps.

    Fang et al., "Up to 100x Faster Data-free Knowledge Distillation", AAAI 2022, arXiv:2112.06253, and its
    code. In a round a copy theta' of the generator's weights theta, and new noise z, take k steps of Adam on

        L = bn_weight * sum_l ( ||mean_l - m_l(x)|| + ||var_l - v_l(x)|| ) + one_hot_weight * CE( z_t(x), y )
          - adversarial_weight * mean( [agree] KL(p_t || p_s) ),  x = a shifted view of G(z; theta'),

    m and v moving averages over rounds. Then theta takes one step of Adam by sum_i dL/dtheta'_i (FOMAML) or
    by theta - theta'_k (Reptile), and the best images join a pool, from which the student learns
    L_S = T^2 KL( p_t(x) || p_s(x) ).

    Ours: images end in a batch norm, not in a logistic function, as those of `cmi`. The code means to draw
    the first layers of theta anew after 120 rounds (`reset_l0`); its condition holds for every module, and
    we leave it out.
    """

    Config: ClassVar[type] = FastInversionConfig
    config: FastInversionConfig
    statistics: MovingStatistics
    start: MetaGenerator

    def __init__(self, config: Any, setup: Setup) -> None:
        """Draw the start, and copy the teacher's statistics.

        Raises:
            KdctlError: the teacher has no batch norm.
        """
        super().__init__(config, setup)
        self.statistics = MovingStatistics(setup.teacher, self.config.statistics_momentum)
        self.start = MetaGenerator(self.config.noise_size, setup.student.input_size)

    def averaged_modules(self) -> dict[str, torch.nn.Module]:
        """Return the start, which is trained while images are invented."""
        return {"start": self.start}

    def prepare_epoch(self, *, first_of_phase: bool) -> None:
        """Invent images and add them to the pool; before the first epoch, those of the warm-up, too.

        Raises:
            DivergedError: a loss of the generator is no number.
        """
        if int(self.num_invented) == 0:
            for _ in range(self.config.warmup_rounds):
                super().prepare_epoch(first_of_phase=first_of_phase)
        super().prepare_epoch(first_of_phase=first_of_phase)

    def invented(self) -> Tensor:
        """Return the best images [images_per_round, 3, H, W] of a copy of the start, which learns of it."""
        config, copied = self.config, self.start.new_copy()
        noise, classes = self.draw_noise().requires_grad_(), self.draw_classes()
        weights = list(copied.parameters())
        sums = [torch.zeros_like(weight) for weight in weights]
        groups = [{"params": weights}, {"params": [noise], "lr": config.noise_rate}]
        optimizer = torch.optim.Adam(groups, config.inversion_rate, betas=BETAS)
        best = BestImages(self.pool[: len(noise)].shape, self.pool.device)
        is_warm = int(self.num_invented) >= config.warmup_rounds * config.images_per_round
        for _ in range(config.inversion_steps):
            images = copied(noise)
            loss = self.inversion_loss(images, classes, with_student=is_warm)
            best.offer(images, loss)
            *gradients, noise.grad = torch.autograd.grad(loss, [*weights, noise])
            for weight, gradient, total in zip(weights, gradients, sums, strict=True):
                weight.grad = gradient
                total.add_(gradient)
            optimizer.step()
        images = best.taken()
        self.statistics.remember()
        if config.meta_gradient == "reptile":
            own = self.start.generator.parameters()
            sums = [start - end.detach() for start, end in zip(own, weights, strict=True)]
        self.start.learn(sums, config.inversion_rate * config.inversion_steps)
        return images

    def inversion_loss(self, images: Tensor, classes: Tensor, *, with_student: bool) -> Tensor:
        """Return what copies are trained by, 0-dim, for images [B, 3, H, W] of classes [B]."""
        config = self.config
        views = shifted_views(images, config.augmentation, config.padding, self.setup.rng)
        with self.statistics.watching() as distances:
            logits = self.setup.teacher(views)
        loss = config.bn_weight * torch.stack(distances).sum()
        loss = loss + config.one_hot_weight * functional.cross_entropy(logits, classes)
        if config.adversarial_weight > 0 and with_student:
            loss = loss - config.adversarial_weight * agreed_divergence(self.student(views), logits)
        return loss

    def losses(self, step: Step) -> Losses:
        """Return the divergence of predictions."""
        logits, teacher = step.student.require_logits(), step.teachers[0].require_logits()
        divergence = soft_target_kl(logits, teacher, self.config.temperature)
        return Losses(task=None, transfer={"kd": divergence}, logits=logits)
