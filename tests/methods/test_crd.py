from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.methods.crd import (
    ContrastiveConfig,
    ContrastiveRepresentationDistillation,
    draw_others,
    log_mean_exponential,
    noise_contrast,
    weights_of_counted,
)
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2, 2, 1])
INDEX = torch.tensor([3, 39, 0, 17, 20])
NUM_SAMPLES = 40

MakeCrd = Callable[..., ContrastiveRepresentationDistillation]
MakePair = Callable[..., tuple[ContrastiveRepresentationDistillation, Step]]


@pytest.fixture
def make_crd(make_setup: Callable[..., Setup]) -> MakeCrd:
    """Build the method around ResNet-8 (64 features) and, unless said otherwise, ResNet-8x4 (256)."""

    def build(teacher: str = "resnet8x4", **options: Any) -> ContrastiveRepresentationDistillation:
        config = ContrastiveConfig(**{"kd_weight": 0.0, "num_negatives": 30} | options)
        return ContrastiveRepresentationDistillation(config, make_setup("resnet8", teacher))

    return build


@pytest.fixture
def draw_step(make_step: Callable[..., Step]) -> Callable[[int], Step]:
    def draw(seed: int) -> Step:
        random = torch.Generator().manual_seed(seed)
        student = torch.randn(5, 64, generator=random, requires_grad=True)
        teacher = 3 * torch.randn(5, 256, generator=random)
        step = make_step(
            LABELS,
            Outputs(logits=torch.zeros(5, 5), taps={"pooled": student}),
            Outputs(logits=torch.zeros(5, 5), taps={"pooled": teacher}),
        )
        return dataclasses.replace(step, batch=dataclasses.replace(step.batch, index=INDEX))

    return draw


def take(method: ContrastiveRepresentationDistillation, step: Step, seed: int = 7) -> Tensor:
    """Take a step, but for the optimizer's part."""
    method.setup.rng.manual_seed(seed)
    total = method.losses(step).transfer["crd"]
    total.backward()
    method.after_update(step)
    return total


@pytest.fixture
def make_pair(make_crd: MakeCrd, draw_step: Callable[[int], Step]) -> MakePair:
    """Let each network see five vectors in an order of its own, with the same embedding; fill the banks."""

    def build(
        own: list[int], other: list[int], **options: Any
    ) -> tuple[ContrastiveRepresentationDistillation, Step]:
        method, step = make_crd(teacher="resnet14", **options), draw_step(0)  # as wide as the student
        method.student_embedding.load_state_dict(method.teacher_embedding.state_dict())
        vectors = step.student.taps["pooled"].detach()
        student, teacher = (
            Outputs(logits=torch.zeros(5, 5), taps={"pooled": vectors[order]}) for order in (own, other)
        )
        step = dataclasses.replace(step, student=student, teachers=(teacher,))
        for _ in range(6):
            take(method, step)
        return method, step

    return build


def plain_embedding(features: Tensor, layer: torch.nn.Linear) -> Tensor:
    embedded = features.double() @ layer.weight.detach().double().T + layer.bias.detach().double()
    return embedded / embedded.square().sum(dim=1, keepdim=True).sqrt()


def drawn_negatives(count: int, seed: int = 7) -> Tensor:
    """Repeat the draws of `take`: of the others, so that oneself is skipped."""
    drawn = torch.randint(NUM_SAMPLES - 1, (5, count), generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn >= INDEX[:, None], drawn + 1, drawn)


def plain_contrast(
    anchors: Tensor, bank: Tensor, negatives: Tensor, normalisation: Tensor | None, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Restate the authors' contrast anchor by anchor, in float64, leaving out negatives of the same class."""
    bank, count = bank.double(), negatives.shape[1]
    scores = [
        torch.stack([(anchor @ bank[m] / 0.07).exp() for m in (own, *others)])
        for anchor, own, others in zip(anchors, INDEX.tolist(), negatives.tolist(), strict=True)
    ]
    if normalisation is None:
        normalisation = torch.stack(scores).mean().detach() * NUM_SAMPLES
    noise, total = count / NUM_SAMPLES, torch.zeros((), dtype=torch.float64)
    for row, label, others in zip(scores, LABELS.tolist(), negatives.tolist(), strict=True):
        probabilities = row / normalisation
        kept = [k for k, m in enumerate(others) if classes[m] != label]
        total = total - (probabilities[0] / (probabilities[0] + noise)).log()
        for k in kept:
            total = total - count / len(kept) * (noise / (probabilities[1 + k] + noise)).log()
    return total / len(anchors), normalisation


def test_values_gradients_and_memory_are_those_of_the_formulas(
    make_crd: MakeCrd, draw_step: Callable[[int], Step]
) -> None:
    method, negatives = make_crd(), drawn_negatives(30)
    classes, normalisations = torch.full((NUM_SAMPLES,), -1), [None, None]
    for seed in range(3):
        step = draw_step(seed)
        ours, theirs = step.student.taps["pooled"], step.teachers[0].taps["pooled"]
        again = ours.detach().clone().requires_grad_()
        student = plain_embedding(again, method.student_embedding)
        teacher = plain_embedding(theirs, method.teacher_embedding)
        banks = [bank.vectors.clone() for bank in (method.student_bank, method.teacher_bank)]
        expected = torch.zeros((), dtype=torch.float64)
        for place, anchors in enumerate((teacher, student)):
            contrast, normalisations[place] = plain_contrast(
                anchors, banks[place], negatives, normalisations[place], classes
            )
            expected = expected + 0.8 * contrast
        total = take(method, step)
        expected.backward()
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(ours.grad, again.grad, rtol=1e-3, atol=1e-6)
        for bank, before, new in zip(
            (method.student_bank, method.teacher_bank), banks, (student, teacher), strict=True
        ):
            mixed = 0.5 * before[INDEX] + 0.5 * new.detach().float()
            before[INDEX] = mixed / mixed.square().sum(dim=1, keepdim=True).sqrt()
            torch.testing.assert_close(bank.vectors, before)
        classes[INDEX] = LABELS
        assert torch.equal(method.labels, classes)


def test_the_first_batch_alone_sets_the_normalisation(
    make_crd: MakeCrd, draw_step: Callable[[int], Step]
) -> None:
    method = make_crd()
    take(method, draw_step(0))
    first = method.student_bank.log_mean.clone(), method.teacher_bank.log_mean.clone()
    assert all(value.isfinite() for value in first)
    take(method, draw_step(1), seed=8)
    assert torch.equal(first[0], method.student_bank.log_mean)
    assert torch.equal(first[1], method.teacher_bank.log_mean)


def test_looking_at_the_losses_remembers_nothing(make_crd: MakeCrd, draw_step: Callable[[int], Step]) -> None:
    method, step = make_crd(), draw_step(0)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.setup.rng.manual_seed(1)
    first = method.losses(step).transfer["crd"]
    method.setup.rng.manual_seed(1)
    assert torch.equal(first, method.losses(step).transfer["crd"])
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_more_negatives_than_samples_are_welcome(make_crd: MakeCrd, draw_step: Callable[[int], Step]) -> None:
    method = make_crd(num_negatives=16384)
    take(method, draw_step(0))
    assert take(method, draw_step(1)).isfinite()


def test_samples_of_a_class_may_look_alike_unless_all_negatives_count(make_pair: MakePair) -> None:
    twins = [0, 1, 2, 2, 4]  # the third and the fourth sample are of class 2
    forgiven, punished = (
        take(*make_pair(twins, twins, negatives=negatives, num_negatives=400))
        for negatives in ("other-classes", "all")
    )
    assert punished > forgiven + 1


def test_a_student_that_copies_its_teacher_is_better_than_one_that_mixes_up_images(
    make_pair: MakePair,
) -> None:
    alike = [0, 1, 2, 3, 4]
    assert take(*make_pair(alike, alike)) < take(*make_pair(alike, [1, 2, 3, 4, 0])) - 5


def test_memory_goes_through_a_state_dict(make_crd: MakeCrd, draw_step: Callable[[int], Step]) -> None:
    method, other = make_crd(), make_crd()
    take(method, draw_step(0))
    other.load_state_dict(method.state_dict())
    assert torch.equal(take(method, draw_step(1)), take(other, draw_step(1)))
    assert math.isfinite(other.student_bank.log_mean.item())


def test_after_update_wants_losses_first(make_crd: MakeCrd, draw_step: Callable[[int], Step]) -> None:
    with pytest.raises(ValueError, match="follows losses"):
        make_crd().after_update(draw_step(0))


NOISE_SAMPLES = 12


@pytest.fixture
def scores() -> Tensor:
    """Of 4 anchors: the partner's and those of 7 noise samples."""
    return 3 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def plain_noise_contrast(scores: Tensor, normalisation: Tensor) -> Tensor:
    """Restate the contrast as the authors write it: Z = N * mean, noise probability K / N."""
    count = scores.shape[1] - 1
    noise = count / NOISE_SAMPLES
    total = torch.zeros((), dtype=torch.float64)
    for row in scores.double():
        probabilities = row.exp() / (normalisation.double() * NOISE_SAMPLES)
        total = total - (probabilities[0] / (probabilities[0] + noise)).log()
        for probability in probabilities[1:]:
            total = total - (noise / (probability + noise)).log()
    return total / len(scores)


def test_value_and_gradient_are_those_of_the_formula(scores: Tensor) -> None:
    ours, plain = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    log_mean = log_mean_exponential(scores)
    value, expected = (
        noise_contrast(ours, log_mean),
        plain_noise_contrast(plain, scores.double().exp().mean()),
    )
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_noise_that_counts_twice_is_noise_drawn_twice(scores: Tensor) -> None:
    twice = torch.cat([scores[:, :5], scores[:, 1:5]], dim=1)
    weights = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]).expand(4, 8)
    padded = torch.cat([scores[:, :5], torch.full((4, 4), 100.0)], dim=1)
    log_mean = torch.tensor(0.5)
    assert noise_contrast(padded, log_mean, weights=weights).item() == pytest.approx(
        noise_contrast(twice, log_mean).item(), rel=1e-6
    )


def test_noise_that_does_not_count_leaves_its_weight_to_the_rest() -> None:
    counted = torch.tensor([[True, True, False, True], [False, False, True, True], [True] * 4, [False] * 4])
    third = pytest.approx(4 / 3)
    assert weights_of_counted(counted).tolist() == [
        [third, third, 0.0, third],
        [0.0, 0.0, 2.0, 2.0],
        [1.0] * 4,
        [0.0] * 4,
    ]


def test_scores_of_any_size_are_no_trouble() -> None:
    scores = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    log_mean = log_mean_exponential(scores.detach())
    value = noise_contrast(scores, log_mean)
    value.backward()
    assert log_mean.item() == pytest.approx(1e4 - math.log(3))
    assert value.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("num_samples", [2, 3, 50])
def test_all_others_are_drawn_alike_and_oneself_never(num_samples: int) -> None:
    index = torch.tensor([0, 1, num_samples - 1])
    drawn = draw_others(index, 20000, num_samples, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 20000)
    for own, row in zip(index.tolist(), drawn, strict=True):
        shares = torch.bincount(row, minlength=num_samples) / 20000
        expected = torch.full((num_samples,), 1 / (num_samples - 1))
        expected[own] = 0
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.02)
        assert shares[own] == 0
        assert len(shares) == num_samples
