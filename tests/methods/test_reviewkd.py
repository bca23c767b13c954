from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.methods.reviewkd import ReviewKd, ReviewKdConfig, hierarchical_context_loss
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Batch, Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeReviewKd = Callable[..., ReviewKd]
Look = Callable[..., Step]


@pytest.fixture
def make_reviewkd(make_setup: Callable[..., Setup]) -> MakeReviewKd:
    def build(student: str = "resnet8", teacher: str = "resnet14", **options: Any) -> ReviewKd:
        return ReviewKd(ReviewKdConfig(**options), make_setup(student, teacher))

    return build


def look(method: ReviewKd, *, dtype: torch.dtype = torch.float32, progress: float = 1.0) -> Step:
    """Run both models as the engine would; the taps are leaves of the given precision."""
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        student = method.student.eval().observe(images, method.student_taps)
        teacher = method.setup.teacher.observe(images, method.teacher_taps[0])
    taps = {name: features.to(dtype).requires_grad_() for name, features in student.taps.items()}
    return Step(
        batch=Batch(images=images, labels=LABELS, index=LABELS),
        student=Outputs(logits=student.logits, taps=taps),
        teachers=(teacher,),
        progress=torch.tensor(progress),
        learning_rate=torch.tensor(0.1),
    )


def normed(features: Tensor, norm: nn.Module) -> Tensor:
    """Return features [B, C, H, W] normalised by their own statistics, then scaled and shifted."""
    mean = features.mean((0, 2, 3), keepdim=True)
    variance = ((features - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scale, shift = (norm.get_parameter(name)[None, :, None, None] for name in ("weight", "bias"))
    return (features - mean) / (variance + 1e-5).sqrt() * scale + shift


def enlarged(features: Tensor, size: int) -> Tensor:
    """Repeat each pixel as often as it takes."""
    factor = size // features.shape[-1]
    return features.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def plain_review(method: ReviewKd, step: Step) -> Tensor:
    """Restate the paper for ResNets of three stages and equal sizes, level by level."""
    levels = [
        ("pooled", "pooled", 1),
        ("stage3", "stage3_pre", 4),
        ("stage2", "stage2_pre", 8),
        ("stage1", "stage1_pre", 16),
    ]
    total = torch.zeros((), dtype=torch.float64)
    residual = None
    for (own, other, size), module in zip(levels, method.fusions, strict=True):
        features = step.student.taps[own].reshape(3, -1, size, size)
        target = step.teachers[0].taps[other].double().reshape(3, -1, size, size)
        reduced = normed(
            torch.einsum("bchw,oc->bohw", features, module.get_parameter("reduce.0.weight")[:, :, 0, 0]),
            module.get_submodule("reduce.1"),
        )
        if residual is not None:
            above = enlarged(residual, size)
            both = torch.cat((reduced, above), 1)
            weight, bias = (module.get_parameter(f"attention.0.{name}") for name in ("weight", "bias"))
            scores = torch.einsum("bchw,oc->bohw", both, weight[:, :, 0, 0]) + bias[None, :, None, None]
            attention = 1 / (1 + (-scores).exp())
            reduced = attention[:, 0:1] * reduced + attention[:, 1:2] * above
        residual = reduced
        compared = normed(
            functional.conv2d(reduced, module.get_parameter("expand.0.weight"), padding=1),
            module.get_submodule("expand.1"),
        )
        distance, weights, weight = ((compared - target) ** 2).mean(), 1.0, 1.0
        for cells in (4, 2, 1):
            if cells < size:
                weight, block = weight / 2, size // cells
                means = (
                    features.unflatten(3, (cells, block)).unflatten(2, (cells, block)).mean((3, 5))
                    for features in (compared, target)
                )
                coarse, aim = means
                distance = distance + weight * ((coarse - aim) ** 2).mean()
                weights += weight
        total = total + distance / weights
    return total


def test_it_is_the_papers_review_from_the_deepest_level_up(make_reviewkd: MakeReviewKd) -> None:
    method = make_reviewkd(review_weight=5.0)
    method.fusions.double()
    step = look(method, dtype=torch.float64)
    loss = method.losses(step).transfer["reviewkd"]
    loss.backward()
    twin = look(method, dtype=torch.float64)
    expected = 5.0 * plain_review(method, twin)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for tap, leaf in step.student.taps.items():
        other = twin.student.taps[tap]
        assert leaf.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(
            leaf.grad, other.grad, rtol=1e-3, atol=1e-5 * other.grad.abs().max().item()
        )


def test_cross_entropy_stands_beside_it_and_divergence_on_request(make_reviewkd: MakeReviewKd) -> None:
    method = make_reviewkd()
    assert not method.reads_teacher_logits
    step = look(method)
    losses = method.losses(step)
    assert list(losses.terms()) == ["task", "reviewkd"]
    torch.testing.assert_close(losses.task, functional.cross_entropy(step.student.require_logits(), LABELS))
    with_kd = make_reviewkd(kd_weight=1.0)
    assert list(with_kd.losses(look(with_kd)).terms()) == ["task", "kd", "reviewkd"]


def test_its_weight_rises_from_nothing_over_the_first_twelfth_of_the_training(
    make_reviewkd: MakeReviewKd,
) -> None:
    method = make_reviewkd()
    start, half, full, end = (
        method.losses(look(method, progress=progress)).transfer["reviewkd"].item()
        for progress in (0.0, 1 / 24, 1 / 12, 1.0)
    )
    assert start == 0.0
    assert half == pytest.approx(full / 2, rel=1e-4)
    assert full == pytest.approx(end, rel=1e-4)


def test_deeper_levels_reach_the_distance_of_shallower_ones_and_not_the_other_way(
    make_reviewkd: MakeReviewKd,
) -> None:
    method = make_reviewkd()
    step = look(method)
    *_, shallowest = method.distances(step)
    taps = [step.student.taps[name] for name in ("stage1", "stage2", "stage3", "pooled")]
    reached = torch.autograd.grad(shallowest, taps)
    assert all(gradient.any() for gradient in reached)
    step = look(method)
    deepest = next(iter(method.distances(step)))
    taps = [step.student.taps[name] for name in ("stage1", "stage2", "stage3", "pooled")]
    *above, pooled = torch.autograd.grad(deepest, taps, allow_unused=True)
    assert above == [None, None, None]
    assert pooled is not None


@pytest.mark.parametrize(
    ("student", "teacher", "levels"),
    [
        ("mobilenetv2", "resnet8", 5),  # smaller maps than the teacher's, and a stage more
        ("wrn_16_2", "vgg8", 5),  # larger maps, and a stage less
        ("resnet3", "wrn_16_2", 4),
    ],
)
def test_what_is_compared_has_the_teachers_shape(
    make_reviewkd: MakeReviewKd, student: str, teacher: str, levels: int
) -> None:
    method = make_reviewkd(student, teacher)
    step = look(method)
    assert len(method.fusions) == levels
    assert len(list(method.distances(step))) == levels
    assert method.losses(step).total().isfinite()


def test_the_teacher_is_seen_before_its_activations(make_reviewkd: MakeReviewKd) -> None:
    assert make_reviewkd("resnet8", "wrn_16_2").teacher_taps == (
        ("pooled", "stage3_pre", "stage2_pre", "stage1_pre"),
    )


def plain(student: Tensor, teacher: Tensor, weights: dict[int, float]) -> float:
    """Average both maps over cells, one after the other, as the paper describes it."""
    total = functional.mse_loss(student, teacher)
    for size, weight in weights.items():
        own, other = (functional.adaptive_avg_pool2d(features, size) for features in (student, teacher))
        total = total + weight * functional.mse_loss(own, other)
    return (total / (1 + sum(weights.values()))).item()


@pytest.mark.parametrize(
    ("size", "weights"),
    [
        (8, {4: 1 / 2, 2: 1 / 4, 1: 1 / 8}),
        (7, {4: 1 / 2, 2: 1 / 4, 1: 1 / 8}),
        (4, {2: 1 / 2, 1: 1 / 4}),
        (2, {1: 1 / 2}),
        (1, {}),
    ],
)
def test_coarser_summaries_count_half_as_much_each(size: int, weights: dict[int, float]) -> None:
    random = torch.Generator().manual_seed(size)
    student, teacher = (
        torch.randn(3, 5, size, size, dtype=torch.float64, generator=random) for _ in range(2)
    )
    loss = hierarchical_context_loss(student, teacher).item()
    assert loss == pytest.approx(plain(student, teacher, weights), rel=1e-5)


def test_equal_maps_have_no_distance() -> None:
    features = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert hierarchical_context_loss(features, features.clone()).item() == 0.0
