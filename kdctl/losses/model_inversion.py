"""Data-free distillation from a pool of images, to which each epoch adds some by inverting the teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.inversion_terms import (
    Augmentation,
    BatchStatistics,
    agreed_divergence,
    instance_contrast,
    magnified_views,
    shifted_views,
)
from kdctl.losses.learned_generator import ImageGenerator, multiply_adds
from kdctl.losses.vectors import POOLED, unit_vectors
from kdctl.protocols.distiller import Batch, Distiller, DivergedError, Setup, Update
from kdctl.recipe.component import tunable
from kdctl.recipe.data_free import EpochWork, GeneratedImages

_NUM_SHOWN = 64
"""Images in a picture."""


@dataclass(frozen=True, kw_only=True)
class InversionOptions(GeneratedImages):
    """How images are invented and read; a method's `Config` adds what the student does with them.

    Defaults are those of CMI for CIFAR (arXiv:2105.08584 and its code).
    """

    batch_size: Annotated[int, Gt(1), Le(1_000_000)] = 256
    """Images in each of the student's steps."""
    steps_per_epoch: Annotated[int, Gt(0), Le(1_000_000)] = 400
    """The student's steps after each round of inventing."""
    images_per_round: Annotated[int, Gt(1), Le(1_000_000)] = 256
    """Images invented before each epoch."""
    pool_size: Annotated[int, Gt(1), Le(10_000_000)] = 51_200
    """Images that are kept, the latest; a multiple of `images_per_round`. Two bytes a number: 300 MiB of
    32x32 pixels, on the device and in saved states."""
    inversion_steps: Annotated[int, Gt(0), Le(1_000_000)] = 200
    """Updates of a generator in each round; the batch with the smallest loss is kept."""
    inversion_rate: Annotated[float, Gt(0)] = tunable(1e-3, 1e-4, 1e-1, log=True)
    """Learning rate of these updates, by Adam with beta1 = 0.5."""
    noise_size: Annotated[int, Gt(0), Le(100_000)] = 256
    """Numbers of noise that an image is made of; they are trained, too."""
    bn_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.01, 10.0, log=True)
    """Of the distance from the statistics of the teacher's batch norms."""
    one_hot_weight: Annotated[float, Ge(0)] = tunable(0.5, 0.01, 10.0, log=True)
    """Of the cross-entropy of the teacher's predictions with classes drawn for each image."""
    adversarial_weight: Annotated[float, Ge(0)] = tunable(0.5, 0.01, 10.0, log=True)
    """Of the student's divergence from the teacher where they decide alike, which is to be large."""
    contrast_weight: Annotated[float, Ge(0)] = tunable(0.8, 0.01, 10.0, log=True)
    """Of the contrast that sets images apart from each other and from those of the pool."""
    contrast_temperature: Annotated[float, Gt(0)] = 0.1
    """Of that contrast."""
    num_negatives: Annotated[int, Ge(0), Le(10_000_000)] = 4096
    """Images of the pool in it, drawn with replacement in each update."""
    embedding_width: Annotated[int, Gt(0), Le(65_536)] = 128
    """Of the vectors that are contrasted."""
    augmentation: Augmentation = "crop-flip"
    """Of views of invented images, in the contrast and in the student's steps; 'crop' for digits."""
    padding: Annotated[int, Ge(0), Le(1024)] = 4
    """Zero pixels on each side before a random crop."""
    smallest_share: Annotated[float, Gt(0), Le(1)] = 0.25
    """Least share of an image's area that the contrast's second view shows."""

    def __post_init__(self) -> None:
        """Refuse a pool that rounds do not fill."""
        if self.pool_size % self.images_per_round:
            raise ValueError(
                f"pool_size = {self.pool_size} is no multiple of images_per_round = {self.images_per_round}"
            )

    def epoch_work(self, image_size: int) -> EpochWork:
        """Return that of a round of inventing, and of the student's steps."""
        steps, tried = super().epoch_work(image_size), self.images_per_round * self.inversion_steps
        return EpochWork(
            student=steps.student + 2 * tried * (self.adversarial_weight > 0),
            teacher=steps.teacher + 2 * tried * (1 + (self.contrast_weight > 0)),
            multiply_adds=3 * tried * multiply_adds(self.noise_size, image_size),
        )


class _Candidate(NamedTuple):
    """Images as they are at one update of a generator."""

    images: Tensor
    """[B, 3, H, W]."""
    loss: Tensor
    """0-dim: what the generator is trained by."""


class LearnsFromInversion(Distiller):
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
    pool: Tensor
    """[pool_size, 3, H, W], fp16: the invented images, normalised; the latest ones, in a ring."""
    pool_features: Tensor
    """[pool_size, D]: the teacher's pooled features of them."""
    num_invented: Tensor
    """0-dim, int64: images invented so far, those that were replaced included."""

    def __init__(self, config: Any, setup: Setup) -> None:
        """Make room for the pool, and copy the teacher's statistics.

        Raises:
            KdctlError: the teacher has no batch norm, or no features.
        """
        super().__init__(config, setup)
        self.inversion = config
        size, width = setup.student.input_size, setup.teacher.tap_shapes[POOLED][0]
        self.statistics = BatchStatistics(setup.teacher)
        self.embedding = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.embedding_width)
        )
        self.register_buffer("pool", torch.zeros(config.pool_size, 3, size, size, dtype=torch.float16))
        self.register_buffer("pool_features", torch.zeros(config.pool_size, width))
        self.register_buffer("num_invented", torch.zeros((), dtype=torch.int64))

    def averaged_modules(self) -> dict[str, nn.Module]:
        """Return the embedding, which is trained while images are invented."""
        return {"embedding": self.embedding}

    def predictions(self, images: Tensor) -> Tensor:
        """Return the student's logits [B, K], as it would be shipped, with gradients for the images."""
        return self.student(images)

    def prepare_epoch(self, *, first_of_phase: bool) -> None:
        """Invent images and add them to the pool.

        Raises:
            DivergedError: a loss of the generator is no number.
        """
        was_training = self.training
        self.eval()
        try:
            images = self._invented()
        finally:
            self.train(was_training)
        count, place = len(images), int(self.num_invented) % self.inversion.pool_size
        self.pool[place : place + count] = images.to(self.pool.dtype)
        with torch.no_grad():
            features = self.setup.teacher.observe(images, (POOLED,), with_logits=False).taps[POOLED]
            self.pool_features[place : place + count] = features
        self.num_invented.add_(count)

    def make_batch(self, update: Update) -> Batch:
        """Return random views of random images of the pool."""
        config, random = self.inversion, self.setup.rng
        filled = self.num_invented.clamp(min=1, max=config.pool_size)
        places = torch.rand(config.batch_size, generator=random, device=self.pool.device) * filled
        index = torch.minimum(places.long(), filled - 1)
        images = self.pool.index_select(0, index).float()
        views = shifted_views(images, config.augmentation, config.padding, random)
        return Batch(images=views.contiguous(memory_format=torch.channels_last), labels=None, index=index)

    def invented_images(self) -> Tensor | None:
        """Return the images that were invented last; none before the first epoch."""
        invented = int(self.num_invented)
        if invented == 0:
            return None
        end = (invented - 1) % self.inversion.pool_size + 1
        latest = self.pool[end - min(self.inversion.images_per_round, end) : end]
        return latest[:: -(-len(latest) // _NUM_SHOWN)].float()

    def _invented(self) -> Tensor:
        """Return the best images [images_per_round, 3, H, W] of a new generator."""
        config, device = self.inversion, self.pool.device
        generator = self._new_generator()
        embedding = copy.deepcopy(self.embedding).requires_grad_()
        noise = torch.randn(
            config.images_per_round, config.noise_size, generator=self.setup.rng, device=device
        )
        classes = torch.randint(
            self.setup.num_classes, (config.images_per_round,), generator=self.setup.rng, device=device
        )
        classes = classes.sort().values  # pictures are easier to look at
        trained = [*generator.parameters(), *embedding.parameters(), noise.requires_grad_()]
        optimizer = torch.optim.Adam(trained, config.inversion_rate, betas=(0.5, 0.999))
        best = _Candidate(
            torch.zeros_like(self.pool[: len(noise)]).float(), torch.tensor(torch.inf, device=device)
        )
        is_number = torch.ones((), dtype=torch.bool, device=device)
        for _ in range(config.inversion_steps):
            found = self._candidate(generator(noise), classes, embedding)
            is_better = found.loss < best.loss
            best = _Candidate(
                torch.where(is_better, found.images, best.images),
                torch.where(is_better, found.loss, best.loss),
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(found.loss, inputs=trained)
            is_number = is_number & found.loss.isfinite()
            optimizer.step()
        if not is_number:
            raise DivergedError("the loss of the generator of images is not finite")
        self.embedding.load_state_dict(embedding.state_dict())
        return best.images

    def _candidate(self, images: Tensor, classes: Tensor, embedding: nn.Module) -> _Candidate:
        """Return images with their loss."""
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
        return _Candidate(images.detach(), loss)

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
