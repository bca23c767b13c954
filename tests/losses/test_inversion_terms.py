from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.losses.inversion_terms import (
    BatchStatistics,
    MovingStatistics,
    agreed_divergence,
    instance_contrast,
    magnified_views,
    shifted_views,
)
from kdctl.losses.vectors import unit_vectors
from kdctl.protocols.backbone import Backbone, models


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_counts_only_where_both_decide_alike() -> None:
    student, teacher = (3 * drawn(12, 5, seed=seed) for seed in (0, 1))
    teacher[:4] = 2 * student[:4] + 0.1 * teacher[:4]
    ours, twin = student.clone().requires_grad_(), student.double().requires_grad_()
    found = agreed_divergence(ours, teacher)
    found.backward()

    expected, agreeing = torch.zeros((), dtype=torch.float64), 0
    for own, other in zip(twin, teacher.double(), strict=True):
        p, q = torch.softmax(other, dim=0), torch.softmax(own, dim=0)
        if p.argmax() == q.argmax():
            agreeing += 1
            expected = expected + (p * (p / q).log()).sum() / 12
    expected.backward()
    assert 4 <= agreeing < 12
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, twin.grad, rtol=1e-4, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("num_negatives", [0, 7])
def test_the_contrast_and_its_gradient_are_those_of_the_formula(num_negatives: int) -> None:
    vectors = [drawn(count, 4, seed=seed) for seed, count in enumerate((6, 6, num_negatives))]
    ours = [tensor.clone().requires_grad_() for tensor in vectors]
    found = instance_contrast(*(unit_vectors(tensor) for tensor in ours), 0.3)
    found.backward()

    twins = [tensor.double().requires_grad_() for tensor in vectors]
    anchors, positives, negatives = (tensor / tensor.norm(dim=1, keepdim=True) for tensor in twins)
    total = torch.zeros((), dtype=torch.float64)
    for place, anchor in enumerate(anchors):
        scores = torch.cat([positives @ anchor, negatives @ anchor]) / 0.3
        total = total - (scores[place].exp() / scores.exp().sum()).log()
    (total / 6).backward()
    assert found.item() == pytest.approx(total.item() / 6, rel=1e-5)
    for own, twin in zip(ours, twins, strict=True):
        torch.testing.assert_close(own.grad, twin.grad, rtol=1e-4, atol=1e-6, check_dtype=False)


IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher() -> Backbone:
    """Return a teacher that has seen some images in training mode."""
    torch.manual_seed(0)
    backbone = models.get("resnet8").item(4, 16)
    with torch.no_grad():
        for _ in range(3):
            backbone(torch.randn(8, 3, 16, 16))
    return backbone.eval().requires_grad_(requires_grad=False)


def distance(statistics: BatchStatistics, teacher: Backbone, images: Tensor) -> Tensor:
    with statistics.watching() as distances:
        teacher(images)
    return torch.stack(distances).sum()


def test_value_and_gradient_are_those_of_the_formula(teacher: Backbone) -> None:
    images = IMAGES.clone().requires_grad_()
    found = distance(BatchStatistics(teacher), teacher, images)
    found.backward()

    teacher.double()
    twin = IMAGES.double().requires_grad_()
    features = twin
    expected = torch.zeros((), dtype=torch.float64)
    seen: list[tuple[nn.BatchNorm2d, Tensor]] = []
    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda layer, inputs: seen.append((layer, inputs[0])))  # type: ignore[arg-type]
    teacher(features)
    for layer, entering in seen:
        values = entering.transpose(0, 1).flatten(1)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean = values.sum(dim=1) / values.shape[1]
        variance = (values - mean[:, None]).square().sum(dim=1) / values.shape[1]
        expected = expected + (mean - layer.running_mean).square().sum().sqrt()
        expected = expected + (variance - layer.running_var).square().sum().sqrt()
    expected.backward()
    assert len(seen) == sum(isinstance(layer, nn.BatchNorm2d) for layer in teacher.modules())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(images.grad, twin.grad, rtol=1e-3, atol=1e-5, check_dtype=False)


def test_they_are_those_of_when_they_were_taken(teacher: Backbone) -> None:
    statistics = BatchStatistics(teacher)
    before = distance(statistics, teacher, IMAGES)
    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.fill_(1.0)  # eval mode: the maps change, but only by this
    weights = distance(statistics, teacher, IMAGES)
    teacher.train()(torch.randn(8, 3, 16, 16))
    teacher.eval()
    names = {name for name, _ in statistics.named_buffers()}
    assert {"mean_0", "variance_0"} <= names
    mean = next(layer.running_mean for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d))
    assert not torch.equal(statistics.get_buffer("mean_0"), mean)  # type: ignore[arg-type]
    assert before.isfinite()
    assert weights.isfinite()


def test_nothing_is_watched_afterwards_and_nothing_is_saved(teacher: Backbone) -> None:
    statistics = BatchStatistics(teacher)
    distance(statistics, teacher, IMAGES)
    assert not any(layer._forward_pre_hooks for layer in teacher.modules())
    assert not statistics.state_dict()
    assert not list(statistics.parameters())


def test_with_a_memory_earlier_rounds_count(teacher: Backbone) -> None:
    alone, moving = BatchStatistics(teacher), MovingStatistics(teacher, 0.75)
    first, second = IMAGES, 2 * IMAGES + 1
    assert torch.equal(distance(moving, teacher, first), distance(alone, teacher, first))
    moving.remember()
    assert torch.equal(distance(moving, teacher, first), distance(alone, teacher, first))
    stem = next(layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d))
    entering: list[Tensor] = []
    stem.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    for images in (first, second):
        teacher(images)
    means = [features.mean(dim=(0, 2, 3)) for features in entering]
    distance(moving, teacher, second)
    moving.remember()
    expected = 0.75 * means[0] + 0.25 * means[1]
    torch.testing.assert_close(moving.get_buffer("past_mean_0"), expected, rtol=1e-4, atol=1e-5)
    assert int(moving.num_rounds) == 2


def test_a_memory_is_saved(teacher: Backbone) -> None:
    moving, again = MovingStatistics(teacher, 0.75), MovingStatistics(teacher, 0.75)
    distance(moving, teacher, IMAGES)
    moving.remember()
    again.load_state_dict(moving.state_dict())
    others = 2 * IMAGES
    assert torch.equal(distance(moving, teacher, others), distance(again, teacher, others))


def test_a_teacher_without_batch_norm_is_refused() -> None:
    plain = models.get("resnet8").item(4, 16)
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    with pytest.raises(KdctlError, match="the teacher has none") as caught:
        BatchStatistics(plain)
    assert "choose a teacher with batch norm" in str(caught.value.hint)
    assert "(dafl)" in str(caught.value.hint)  # zskt compares maps, which a transformer has not


SMALL_IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("augmentation", ["crop", "crop-flip"])
def test_a_shifted_view_is_a_crop_of_the_padded_image(augmentation: str) -> None:
    views = shifted_views(SMALL_IMAGES, augmentation, 2, rng())  # type: ignore[arg-type]
    padded = functional.pad(SMALL_IMAGES, (2, 2, 2, 2))
    mirrored = 0
    for image, view in zip(padded, views, strict=True):
        crops = [image[:, top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
        found = [
            flip
            for flip in (False, True)
            if any(torch.allclose(view, crop.flip(2) if flip else crop, atol=1e-6) for crop in crops)
        ]
        assert len(found) == 1
        mirrored += found[0]
    assert 10 <= mirrored <= 30 if augmentation == "crop-flip" else mirrored == 0


def test_a_whole_square_is_the_image_itself() -> None:
    torch.testing.assert_close(magnified_views(SMALL_IMAGES, "crop", 1.0, rng()), SMALL_IMAGES)


def test_a_magnified_view_of_a_ramp_is_a_less_steep_ramp_within_it() -> None:
    ramp = torch.arange(8.0).expand(200, 3, 8, 8)
    views = magnified_views(ramp, "crop", 0.25, rng())
    slopes = views[:, 0, 0, 5] - views[:, 0, 0, 4]
    assert views.min() >= 0
    assert views.max() <= 7
    assert 0.49 < slopes.min() < 0.6
    assert 0.9 < slopes.max() <= 1.0
    torch.testing.assert_close(views[:, :, :1].expand_as(views), views)


def test_gradients_pass_through_views() -> None:
    images = SMALL_IMAGES.clone().requires_grad_()
    views = magnified_views(shifted_views(images, "crop-flip", 2, rng()), "crop-flip", 0.5, rng())
    views.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_none_leaves_images_as_they_are() -> None:
    assert shifted_views(SMALL_IMAGES, "none", 4, rng()) is SMALL_IMAGES
    assert magnified_views(SMALL_IMAGES, "none", 0.25, rng()) is SMALL_IMAGES
