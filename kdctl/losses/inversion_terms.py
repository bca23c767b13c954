"""What model inversion asks of invented images: statistics of batch norms, divergence, contrast of views."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from kdctl.errors import KdctlError
from kdctl.losses.vectors import dot_products, full_precision, lengths
from kdctl.protocols.backbone import Backbone


def agreed_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return mean_b( [argmax z_s = argmax z_t] * KL(teacher || student) ), 0-dim, T = 1.

    Fang et al., arXiv:2105.08584, section 3.2 (decision adversarial distillation): images are to show what
    the student does not know yet, but not to fool either.

    Args:
        student_logits: [B, K], before softmax.
        teacher_logits: [B, K], before softmax.
    """
    student = functional.log_softmax(student_logits.float(), dim=1)
    teacher = functional.log_softmax(teacher_logits.float(), dim=1)
    divergences = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    agree = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    return (divergences * agree).mean()


def instance_contrast(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of finding each anchor's positive among all positives and negatives, 0-dim.

    Fang et al., arXiv:2105.08584, eq. 4:
    -mean_i log( exp(a_i . p_i / tau) / ( sum_j exp(a_i . p_j / tau) + sum_k exp(a_i . n_k / tau) ) ).

    Args:
        anchors: [B, D], of length 1: a view of each image.
        positives: [B, D], of length 1: another view of the same images.
        negatives: [N, D], of length 1: of other images; N may be 0.
        temperature: tau > 0.
    """
    scores = dot_products(anchors, torch.cat([positives, negatives])) / temperature
    return functional.cross_entropy(scores, torch.arange(len(anchors), device=anchors.device))


class BatchStatistics(nn.Module):
    """Means and variances of all batch norms of a teacher, copied when this is built.

    So they are those of the teacher's training, whatever runs later in training mode.
    """

    def __init__(self, teacher: Backbone) -> None:
        """Copy the statistics; the teacher stays no part of this module.

        Raises:
            KdctlError: the teacher has no batch norm, or none with running statistics.
        """
        super().__init__()
        layers = tuple(
            layer
            for layer in teacher.modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        )
        if not layers:
            raise KdctlError(
                "the method compares images by the statistics of the teacher's batch norms, and the teacher "
                "has none.",
                "choose a teacher with batch norm, or a method that asks for none (dafl).",
            )
        # In a tuple: no submodules, so never trained, saved or put into training mode.
        self._layers = (layers,)
        for place, layer in enumerate(layers):
            mean, variance = cast(Tensor, layer.running_mean), cast(Tensor, layer.running_var)
            self.register_buffer(f"mean_{place}", mean.detach().clone(), persistent=False)
            self.register_buffer(f"variance_{place}", variance.detach().clone(), persistent=False)

    @contextlib.contextmanager
    def watching(self) -> Generator[list[Tensor]]:
        """Collect a distance for each call of a batch norm of the teacher inside."""
        seen: list[Tensor] = []

        def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.append(self._distance(self._layers[0].index(cast(_BatchNorm, layer)), inputs[0]))

        handles = [layer.register_forward_pre_hook(look) for layer in self._layers[0]]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _distance(self, place: int, features: Tensor) -> Tensor:
        """Return how far the statistics of features [B, C, ...] are from those of a layer, 0-dim.

        Yin et al., "Dreaming to Distill", CVPR 2020, arXiv:1912.08795, eq. 4:
        ||mean(f) - mean_l||_2 + ||var(f) - var_l||_2, biased variance, over batch and positions.
        """
        axes = [axis for axis in range(features.dim()) if axis != 1]
        variance, mean = torch.var_mean(features.float(), dim=axes, correction=0)
        mean, variance = self._compared(place, mean, variance)
        own_mean, own_variance = self.get_buffer(f"mean_{place}"), self.get_buffer(f"variance_{place}")
        return lengths(mean - own_mean) + lengths(variance - own_variance)

    def _compared(self, place: int, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is held against a layer's statistics: the mean and variance [C] of its input."""
        return mean, variance


class MovingStatistics(BatchStatistics):
    """Measures images together with those of earlier rounds, by a moving average of their statistics.

    Fang et al., "Up to 100x Faster Data-free Knowledge Distillation", AAAI 2022, arXiv:2112.06253, and its
    code: s = momentum * s_before + (1 - momentum) * s_batch stands for the mean and for the variance; in the
    first round, before which there is nothing, s = s_batch. So few images need not show all of the classes.
    """

    num_rounds: Tensor
    """0-dim, int64: rounds that were remembered."""

    def __init__(self, teacher: Backbone, momentum: float) -> None:
        """Copy the teacher's statistics, and begin without a memory.

        Args:
            teacher: stays no part of this module.
            momentum: share of earlier rounds, from 0 to 1.

        Raises:
            KdctlError: the teacher has no batch norm, or none with running statistics.
        """
        super().__init__(teacher)
        self._momentum = momentum
        self._latest: dict[int, tuple[Tensor, Tensor]] = {}
        for place in range(len(self._layers[0])):
            own_mean, own_variance = self.get_buffer(f"mean_{place}"), self.get_buffer(f"variance_{place}")
            self.register_buffer(f"past_mean_{place}", torch.zeros_like(own_mean))
            self.register_buffer(f"past_variance_{place}", torch.zeros_like(own_variance))
        self.register_buffer("num_rounds", torch.zeros((), dtype=torch.int64))

    def remember(self) -> None:
        """End a round: the statistics of the images that were measured last join the average."""
        for place, statistics in self._latest.items():
            for own, latest in zip(self._past(place), self._mixed(place, statistics), strict=True):
                own.copy_(latest)
        self._latest.clear()
        self.num_rounds.add_(1)

    def _compared(self, place: int, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        self._latest[place] = (mean.detach(), variance.detach())
        return self._mixed(place, (mean, variance))

    def _mixed(self, place: int, statistics: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        share = self._momentum * (self.num_rounds > 0)
        mean, variance = (
            share * past + (1 - share) * own for past, own in zip(self._past(place), statistics, strict=True)
        )
        return mean, variance

    def _past(self, place: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"past_mean_{place}"), self.get_buffer(f"past_variance_{place}")


Augmentation = Literal["crop-flip", "crop", "none"]
"""Random crop after zero padding, and horizontal flip: as of training images."""


def shifted_views(images: Tensor, augmentation: Augmentation, padding: int, rng: torch.Generator) -> Tensor:
    """Return random crops of zero-padded images [B, 3, H, W], half of them mirrored with 'crop-flip'."""
    if augmentation == "none":
        return images
    count, size, device = len(images), images.shape[-1], images.device
    offsets = torch.randint(-padding, padding + 1, (2, count, 1), generator=rng, device=device)
    places = torch.arange(size, device=device) + offsets.float()
    columns = _flipped(places[1], rng) if augmentation == "crop-flip" else places[1]
    return _resampled(images, places[0], columns)


def magnified_views(
    images: Tensor, augmentation: Augmentation, smallest_share: float, rng: torch.Generator
) -> Tensor:
    """Return random squares of images [B, 3, H, W], scaled up to their size, bilinear.

    Each square has between `smallest_share` and all of the area; half of them are mirrored with 'crop-flip'.
    """
    if augmentation == "none":
        return images
    count, size, device = len(images), images.shape[-1], images.device
    shares, *starts = torch.rand(3, count, 1, generator=rng, device=device)
    sides = (smallest_share + (1 - smallest_share) * shares).sqrt()
    centres = torch.arange(size, device=device) + 0.5
    rows, columns = (
        ((1 - sides) * size * start + centres * sides - 0.5).clamp(0, size - 1) for start in starts
    )
    if augmentation == "crop-flip":
        columns = _flipped(columns, rng)
    return _resampled(images, rows, columns)


def _flipped(columns: Tensor, rng: torch.Generator) -> Tensor:
    """Return positions [B, W], those of a random half in reverse."""
    mirrored = torch.rand(len(columns), 1, generator=rng, device=columns.device) < 0.5
    return torch.where(mirrored, columns.flip(1), columns)


def _resampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images [B, 3, H, W] read at rows [B, H] and columns [B, W]: bilinear, zero outside.

    As two matrix products: `grid_sample` has no deterministic gradient on a GPU.
    """
    with full_precision(images):
        down, across = (_weights(places) for places in (rows, columns))
        return (down[:, None] @ images.float()) @ across[:, None].mT


def _weights(places: Tensor) -> Tensor:
    """Return what each pixel counts at places [B, N]: [B, N, N], linear in the distance, 0 beyond 1."""
    pixels = torch.arange(places.shape[1], device=places.device)
    return (1 - (places[:, :, None] - pixels).abs()).clamp(min=0)
