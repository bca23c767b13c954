"""Data-free distillation by a generator that is trained in the same steps as the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from kdctl.protocols.distiller import Batch, Distiller, NamedModel, ParameterGroup, Setup, Update
from kdctl.recipe.component import Spec, component, tunable
from kdctl.recipe.data_free import EpochWork, GeneratedImages

WIDTH = 128
"""Channels of the first maps, as in the generators of all data-free methods of the field."""

_SLOPE = 0.2
"""Of the leaky ReLUs below zero."""


def multiply_adds(noise_size: int, image_size: int) -> int:
    """Return those of one image's forward pass through an `ImageGenerator`."""
    quarter, half = _quarter_and_half(image_size)
    convolutions = half**2 * WIDTH * WIDTH + image_size**2 * (WIDTH * (WIDTH // 2) + (WIDTH // 2) * 3)
    return noise_size * WIDTH * quarter**2 + 9 * convolutions


class ImageGenerator(nn.Module):
    """Noise to images that are normalised like a network's input: their channels end in a batch norm.

    Linear -> BN -> maps of a quarter of the size -> (doubled, conv 3x3, BN, leaky ReLU) twice -> conv 3x3
    -> BN. This is the generator of arXiv:1904.01186 and arXiv:1905.09768; theirs only makes sizes that can
    be divided by 4, here any size is reached.
    """

    def __init__(self, noise_size: int, image_size: int, *, scales: bool = True) -> None:
        """Make images [3, image_size, image_size].

        Args:
            noise_size: numbers of noise for each image.
            image_size: height and width in pixels.
            scales: whether mean and deviation of each channel are learned; False: 0 and 1.
        """
        super().__init__()
        quarter, half = _quarter_and_half(image_size)
        self.layers = nn.Sequential(
            nn.Linear(noise_size, WIDTH * quarter**2),
            nn.Unflatten(1, (WIDTH, quarter, quarter)),
            nn.BatchNorm2d(WIDTH),
            *_enlarging(half, WIDTH, WIDTH),
            *_enlarging(image_size, WIDTH, WIDTH // 2),
            nn.Conv2d(WIDTH // 2, 3, 3, padding=1),
            nn.BatchNorm2d(3, affine=scales),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of noise [B, noise_size]."""
        return self.layers(noise)


def _quarter_and_half(image_size: int) -> tuple[int, int]:
    """Return the sides of the maps from which images are enlarged, rounded up."""
    return -(-image_size // 4), -(-image_size // 2)


def _enlarging(size: int, channels: int, width: int) -> tuple[nn.Module, ...]:
    return (
        nn.Upsample(size=(size, size)),
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(_SLOPE, inplace=True),
    )


GENERATOR, STUDENT = "generator", "student"
"""The two updates of a step, and the parameter groups that they train."""

_NUM_SHOWN = 64
"""Images in a picture."""


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions(GeneratedImages):
    """What all methods with such a generator choose; a method's `Config` adds its own to these."""

    noise_size: Annotated[int, Gt(0), Le(100_000)] = 100
    """Numbers of noise that an image is made of."""
    student_updates: Annotated[int, Ge(1), Le(1000)] = 1
    """How often the student learns from the images of a step, after the generator has learned once."""
    temperature: Annotated[float, Gt(0)] = tunable(1.0, 1.0, 20.0, log=True)
    """T of the student's divergence from the teacher, which is multiplied by T^2. Public code for data-free
    distillation takes a temperature and computes with 1."""
    generator_optimizer: Spec = component("optimizer", "adamw")
    """Its learning rate follows the recipe's schedule; without weight decay, whatever it says (Adam)."""

    def epoch_work(self, image_size: int) -> EpochWork:
        """Return that of an update of the generator, through the teacher, and those of the student."""
        images, updates = self.images_per_epoch, self.student_updates
        made = (3 + updates) * images
        return EpochWork(
            student=3 * updates * images,
            teacher=(2 + updates) * images,
            multiply_adds=made * multiply_adds(self.noise_size, image_size),
        )


class LearnsFromGenerator(Distiller):
    """Each step makes images of new noise and trains the generator on them, then the student on new ones.

    The student's are what the generator makes of the same noise after its update. A subclass writes `losses`
    for both updates. The engine runs student and teachers for the student's; for the generator's a subclass
    runs them itself, for gradients pass through them.
    """

    scales_channels = True
    """Whether the generator learns mean and deviation of the channels."""
    making: GeneratorOptions
    noise: Tensor
    """[B, noise_size]: of the running step."""

    def __init__(self, config: Any, setup: Setup) -> None:
        """Build the generator for the student's images."""
        super().__init__(config, setup)
        self.making = config
        size = setup.student.input_size
        self.generator = ImageGenerator(config.noise_size, size, scales=self.scales_channels)
        self.register_buffer("noise", torch.zeros(config.batch_size, config.noise_size))

    def updates(self) -> tuple[Update, ...]:
        """Return the generator's update, then the student's."""
        return (
            Update(name=GENERATOR, groups=(GENERATOR,), reads=False),
            Update(name=STUDENT, groups=(STUDENT,), repeats=self.making.student_updates),
        )

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Return the generator apart, with its own optimizer."""
        own = {id(parameter) for parameter in self.generator.parameters()}
        others = tuple(parameter for parameter in self.parameters() if id(parameter) not in own)
        return (
            ParameterGroup(name=STUDENT, parameters=others),
            ParameterGroup(
                name=GENERATOR,
                parameters=tuple(self.generator.parameters()),
                optimizer=self.making.generator_optimizer,
                weight_decay=0.0,
            ),
        )

    def models(self) -> tuple[NamedModel, ...]:
        """Return the generator, which is saved beside the student."""
        return (NamedModel(name=GENERATOR, module=self.generator, is_classifier=False),)

    def make_batch(self, update: Update) -> Batch:
        """Return images of new noise, with gradients; or of the same noise for the student, without."""
        if update.name == GENERATOR:
            self.noise.normal_(generator=self.setup.rng)
            images = self.generator(self.noise)
        else:
            with torch.no_grad():
                images = self.generator(self.noise)
        index = torch.arange(len(images), device=images.device)
        return Batch(images=images, labels=None, index=index)

    @torch.no_grad()
    def invented_images(self) -> Tensor:
        """Return images of noise that is the same whenever they are asked for."""
        device = self.noise.device
        random = torch.Generator(device).manual_seed(0)
        noise = torch.randn(_NUM_SHOWN, self.making.noise_size, generator=random, device=device)
        return _in_eval_mode(self.generator, noise)


def _in_eval_mode(module: nn.Module, inputs: Tensor) -> Tensor:
    was_training = module.training
    try:
        return module.eval()(inputs)
    finally:
        module.train(was_training)
