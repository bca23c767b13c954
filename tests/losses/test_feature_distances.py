from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.losses.feature_distances import (
    attention_map,
    channel_kl,
    cosine_distance,
    l2_distance,
    log_sum_distance,
    similarity_rows,
    smooth_l1_distance,
)

Vector = list[float]


def plain_l2(own: Vector, other: Vector) -> float:
    return sum((s - t) ** 2 for s, t in zip(own, other, strict=True)) / len(own)


def plain_smooth_l1(own: Vector, other: Vector) -> float:
    gaps = [abs(s - t) for s, t in zip(own, other, strict=True)]
    return sum(gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps) / len(gaps)


def plain_cosine(own: Vector, other: Vector) -> float:
    product = sum(s * t for s, t in zip(own, other, strict=True))
    return 1 - product / math.sqrt(sum(s * s for s in own) * sum(t * t for t in other))


def plain_kl(own: Vector, other: Vector) -> float:
    """At temperature 2."""
    ours, theirs = ([math.exp(value / 2) for value in vector] for vector in (own, other))
    p = [value / sum(theirs) for value in theirs]
    q = [value / sum(ours) for value in ours]
    return 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def kl_at_2(student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> Tensor:
    return channel_kl(student, teacher, kept, temperature=2.0)


PER_POSITION = {
    "l2": (l2_distance, plain_l2),
    "smooth_l1": (smooth_l1_distance, plain_smooth_l1),
    "cosine": (cosine_distance, plain_cosine),
    "kl": (kl_at_2, plain_kl),
}
DISTANCES = {**{name: pair[0] for name, pair in PER_POSITION.items()}, "logsum": log_sum_distance}

Distance = Callable[..., Tensor]


def draw_maps(batch: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(batch, 5, 2, 3, generator=random) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize(("distance", "plain"), PER_POSITION.values(), ids=PER_POSITION)
def test_a_distance_is_the_mean_over_samples_and_positions_of_that_between_channel_vectors(
    distance: Distance, plain: Callable[[Vector, Vector], float]
) -> None:
    student, teacher = draw_maps()
    vectors = [
        plain(student[b, :, h, w].tolist(), teacher[b, :, h, w].tolist())
        for b in range(4)
        for h in range(2)
        for w in range(3)
    ]
    assert distance(student, teacher).item() == pytest.approx(sum(vectors) / len(vectors), rel=1e-5)


@pytest.mark.parametrize(("distance", "plain"), PER_POSITION.values(), ids=PER_POSITION)
def test_vectors_are_compared_as_maps_of_one_pixel_are(
    distance: Distance, plain: Callable[[Vector, Vector], float]
) -> None:
    student, teacher = (features[:, :, 0, 0] for features in draw_maps())
    expected = sum(map(plain, student.tolist(), teacher.tolist())) / len(student)
    assert distance(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_log_sum_is_the_logarithm_of_the_mean_sum_of_fourth_powers() -> None:
    student, teacher = draw_maps()
    sums = [sum(abs(gap) ** 4 for gap in row) for row in (student - teacher).flatten(1).tolist()]
    expected = math.log(sum(sums) / len(sums) + 1e-5)
    assert log_sum_distance(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_log_sum_does_not_know_the_scale_of_the_loss() -> None:
    """That makes its weight robust: sums over the batch and means of it train alike."""
    student, teacher = draw_maps()
    (gradient,) = torch.autograd.grad(log_sum_distance(student, teacher), student)
    doubled, twice = torch.cat((student, student)), torch.cat((teacher, teacher))
    (same,) = torch.autograd.grad(log_sum_distance(doubled, twice), student)
    torch.testing.assert_close(gradient, same)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_equal_features_are_at_a_minimum(distance: Distance) -> None:
    _, teacher = draw_maps()
    student = teacher.clone().requires_grad_()
    loss = distance(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max() < 1e-6
    least = math.log(1e-5) if distance is log_sum_distance else 0.0
    assert loss.item() == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_samples_that_are_not_kept_might_as_well_not_be_there(distance: Distance) -> None:
    student, teacher = draw_maps()
    kept = torch.tensor([True, False, True, False])
    loss, expected = distance(student, teacher, kept), distance(student[::2], teacher[::2])
    torch.testing.assert_close(loss, expected)
    (gradient,), (others,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradient, others)
    assert not gradient[1::2].any()


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_without_kept_samples_the_distance_and_its_gradient_are_zero(distance: Distance) -> None:
    student, teacher = draw_maps()
    loss = distance(student, teacher, torch.zeros(4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0.0
    assert not gradient.any()


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_dead_features_have_a_finite_gradient(distance: Distance) -> None:
    """What a projector's ReLU cut off everywhere is a vector of zeros."""
    _, teacher = draw_maps()
    student = torch.zeros_like(teacher, requires_grad=True)
    (gradient,) = torch.autograd.grad(distance(student, teacher), student)
    assert gradient.isfinite().all()


def test_cosine_is_blind_to_length_and_kl_to_offset() -> None:
    student, teacher = draw_maps()
    torch.testing.assert_close(cosine_distance(3 * student, teacher), cosine_distance(student, teacher))
    torch.testing.assert_close(channel_kl(student + 3, teacher), channel_kl(student, teacher))


def test_attention_goes_with_the_square_of_the_activations() -> None:
    features = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # two channels of a 1x2 map
    length = (9**2 + 4**2) ** 0.5
    assert attention_map(features)[0].tolist() == pytest.approx([9 / length, 4 / length])


def test_attention_is_blind_to_signs_and_scale() -> None:
    features = torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    assert attention_map(features).shape == (3, 10)
    torch.testing.assert_close(attention_map(-9 * features), attention_map(features))


def test_where_nothing_is_active_there_is_no_attention() -> None:
    features = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention = attention_map(features)
    attention.sum().backward()
    assert not attention.any()
    assert features.grad is not None
    assert not features.grad.any()


def test_attention_is_computed_in_fp32() -> None:
    features = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    assert attention_map(features).dtype == torch.float32


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def test_similarities_are_inner_products_in_rows_of_length_1() -> None:
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    rows = similarity_rows(vectors)
    assert rows[0].tolist() == pytest.approx([1 / 10**0.5, 3 / 10**0.5])
    assert rows[1].tolist() == pytest.approx([3 / 634**0.5, 25 / 634**0.5])


def test_anchors_are_the_first_samples(maps: Tensor) -> None:
    products = maps.flatten(1) @ maps[:2].flatten(1).T
    expected = products / products.norm(dim=1, keepdim=True)
    torch.testing.assert_close(similarity_rows(maps, num_anchors=2), expected)
    assert similarity_rows(maps, num_anchors=9).shape == (5, 5)


def test_a_sample_without_activation_is_like_no_other(maps: Tensor) -> None:
    maps[3] = 0
    maps.requires_grad_()
    rows = similarity_rows(maps)
    rows.sum().backward()
    assert not rows[3].any()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
