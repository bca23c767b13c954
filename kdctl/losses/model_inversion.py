"""Data-free distillation from a pool of images, to which each epoch adds some by inverting the teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.image_pool import BestImages, LearnsFromPool, PoolOptions
from kdctl.losses.inversion_terms import (
    BatchStatistics,
    agreed_divergence,
    instance_contrast,
    magnified_views,
    shifted_views,
)
from kdctl.losses.learned_generator import ImageGenerator, multiply_adds
from kdctl.losses.vectors import unit_vectors
from kdctl.protocols.backbone import POOLED
from kdctl.protocols.distiller import Setup
from kdctl.recipe.component import tunable
from kdctl.recipe.data_free import EpochWork


@dataclass(frozen=True, kw_only=True)
class InversionOptions(PoolOptions):
    """How images are invented and read; a method's `Config` adds what the student does with them.

    Defaults are those of CMI for CIFAR (arXiv:2105.08584 and its code).
    """

    inversion_steps: Annotated[int, Gt(0), Le(1_000_000)] = 200
    """Updates of a generator in each round; the batch with the smallest loss is kept."""
    inversion_rate: Annotated[float, Gt(0)] = tunable(1e-3, 1e-4, 1e-1, log=True)
    """Learning rate of these updates, by Adam with beta1 = 0.5."""
    contrast_weight: Annotated[float, Ge(0)] = tunable(0.8, 0.01, 10.0, log=True)
    """Of the contrast that sets images apart from each other and from those of the pool."""
    contrast_temperature: Annotated[float, Gt(0)] = 0.1
    """Of that contrast."""
    num_negatives: Annotated[int, Ge(0), Le(10_000_000)] = 4096
    """Images of the pool in it, drawn with replacement in each update."""
    embedding_width: Annotated[int, Gt(0), Le(65_536)] = 128
    """Of the vectors that are contrasted."""
    smallest_share: Annotated[float, Gt(0), Le(1)] = 0.25
    """Least share of an image's area that the contrast's second view shows."""

    def epoch_work(self, image_size: int) -> EpochWork:
        """Return that of a round of inventing, and of the student's steps."""
        steps, tried = super().epoch_work(image_size), self.images_per_round * self.inversion_steps
        return EpochWork(
            student=steps.student + 2 * tried * (self.adversarial_weight > 0),
            teacher=steps.teacher + 2 * tried * (1 + (self.contrast_weight > 0)),
            multiply_adds=3 * tried * multiply_adds(self.noise_size, image_size),
        )


class LearnsFromInversion(LearnsFromPool):
    """Before each epoch a new generator is trained on the teacher alone, and its best images are kept.

    Fang et al., "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI 2021,
    arXiv:2105.08584, eq. 2 to 7: over the generator's weights, its noise z and an embedding h, for x = G(z),

        L = bn_weight * sum_l ( ||mean_l(x) - mean_l|| + ||var_l(x) - var_l|| )
          + one_hot_weight * CE( z_t(x), y ) - adversarial_weight * mean( [agree] KL(p_t || p_s) )
          + contrast_weight * L_cr,

    L_cr the cross-entropy of finding an image's first view (shifted) by its second (magnified) among those of
    the batch and of the pool, by cosine / contrast_temperature of h. h is a perceptron on the teacher's
    pooled features, as in the paper; the code has it on the channel means of all batch norms. The code
    contrasts two views of the pool's images, too; here their features are remembered, and only set apart.
    Statistics of the batch norms are copied before anything is trained.
    """

    inversion: InversionOptions
    pool_features: Tensor
    """[pool_size, D]: the teacher's pooled features of the images of the pool."""

    def __init__(self, config: Any, setup: Setup) -> None:
        """Make room for the pool, and copy the teacher's statistics.

        Raises:
            KdctlError: the teacher has no batch norm, or no features.
        """
        super().__init__(config, setup)
        self.inversion = config
        width = setup.teacher.tap_shapes[POOLED][0]
        self.statistics = BatchStatistics(setup.teacher)
        self.embedding = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.embedding_width)
        )
        self.register_buffer("pool_features", torch.zeros(config.pool_size, width))

    def averaged_modules(self) -> dict[str, nn.Module]:
        """Return the embedding, which is trained while images are invented."""
        return {"embedding": self.embedding}

    def predictions(self, images: Tensor) -> Tensor:
        """Return the student's logits [B, K], as it would be shipped, with gradients for the images."""
        return self.student(images)

    def keep(self, images: Tensor, place: int) -> None:
        """Put images [N, 3, H, W] into the pool at a place, and remember the teacher's features of them."""
        super().keep(images, place)
        with torch.no_grad():
            features = self.setup.teacher.observe(images, (POOLED,), with_logits=False).taps[POOLED]
            self.pool_features[place : place + len(images)] = features

    def invented(self) -> Tensor:
        """Return the best images [images_per_round, 3, H, W] of a new generator."""
        config = self.inversion
        generator = self._new_generator()
        embedding = copy.deepcopy(self.embedding).requires_grad_()
        noise, classes = self.draw_noise(), self.draw_classes()
        trained = [*generator.parameters(), *embedding.parameters(), noise.requires_grad_()]
        optimizer = torch.optim.Adam(trained, config.inversion_rate, betas=(0.5, 0.999))
        best = BestImages(self.pool[: len(noise)].shape, self.pool.device)
        for _ in range(config.inversion_steps):
            images = generator(noise)
            loss = self._loss(images, classes, embedding)
            best.offer(images, loss)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss, inputs=trained)
            optimizer.step()
        images = best.taken()
        self.embedding.load_state_dict(embedding.state_dict())
        return images

    def _loss(self, images: Tensor, classes: Tensor, embedding: nn.Module) -> Tensor:
        """Return what the generator of images [B, 3, H, W] of classes [B] is trained by, 0-dim."""
        config, random = self.inversion, self.setup.rng
        first = shifted_views(images, config.augmentation, config.padding, random)
        with self.statistics.watching() as distances:
            outputs = self.setup.teacher.observe(first, (POOLED,))
        logits = outputs.require_logits()
        loss = config.bn_weight * torch.stack(distances).sum()
        loss = loss + config.one_hot_weight * functional.cross_entropy(logits, classes)
        if config.adversarial_weight > 0:
            loss = loss - config.adversarial_weight * agreed_divergence(self.predictions(first), logits)
        if config.contrast_weight > 0:
            second = magnified_views(images, config.augmentation, config.smallest_share, random)
            others = self.setup.teacher.observe(second, (POOLED,), with_logits=False).taps[POOLED]
            contrast = instance_contrast(
                unit_vectors(embedding(others)),
                unit_vectors(embedding(outputs.taps[POOLED])),
                unit_vectors(embedding(self._negatives())),
                config.contrast_temperature,
            )
            loss = loss + config.contrast_weight * contrast
        return loss

    def _negatives(self) -> Tensor:
        """Return features [N, D] of images of the pool; none before the first round."""
        filled = min(int(self.num_invented), self.inversion.pool_size)
        count = self.inversion.num_negatives if filled else 0
        places = torch.randint(
            max(filled, 1), (count,), generator=self.setup.rng, device=self.pool_features.device
        )
        return self.pool_features.index_select(0, places)

    def _new_generator(self) -> ImageGenerator:
        """Return a generator drawn as the authors do: weights from N(0, 0.02^2), scales from N(1, 0.02^2)."""
        with torch.random.fork_rng(devices=[]):  # what torch draws at first is replaced below
            generator = ImageGenerator(self.inversion.noise_size, self.pool.shape[-1], scales=False)
        generator = generator.to(self.pool.device).train()
        random = self.setup.rng
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.02, generator=random)
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.normal_(1.0, 0.02, generator=random)
        return generator
