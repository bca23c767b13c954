from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.methods.zskt import ZeroShotConfig, ZeroShotTransfer
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Distiller, Setup, Step, Update
from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import AdamW

SMALL: dict[str, Any] = {"batch_size": 6, "noise_size": 4}
ADAM = Spec(kind="optimizer", name="adamw", options=AdamW())

MakeMethod = Callable[..., ZeroShotTransfer]


@pytest.fixture
def method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(**options: Any) -> ZeroShotTransfer:
        config = ZeroShotConfig(generator_optimizer=ADAM, **{**SMALL, **options})
        built = ZeroShotTransfer(config, make_setup("resnet8", "resnet14"))
        built.setup.rng.manual_seed(0)
        built.begin(built.phases()[0])
        return built

    return build


def step_of(method: Distiller, update: Update, make_step: Callable[..., Step]) -> Step:
    batch = method.make_batch(update)
    step = make_step(torch.zeros(len(batch.images), dtype=torch.int64), Outputs(logits=None))
    return Step(
        **{**vars(step), "batch": batch, "update": update},  # type: ignore[arg-type]
    )


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Restate T^2 KL(teacher || student) in double precision, sample by sample."""
    total = torch.zeros((), dtype=torch.float64)
    for other, own in zip(teacher.double(), student.double(), strict=True):
        p, q = torch.softmax(other / temperature, dim=0), torch.softmax(own / temperature, dim=0)
        total = total + (p * (p / q).log()).sum()
    return temperature**2 * total / len(teacher)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("form", ["sum", "mean"])
def test_the_student_s_loss_and_gradient_are_those_of_the_formula(
    method: MakeMethod,
    make_step: Callable[..., Step],
    draw_outputs: Callable[..., tuple[Outputs, ...]],
    form: str,
    temperature: float,
) -> None:
    made = method(divergence=form, temperature=temperature, attention_weight=30.0)
    student, teacher = draw_outputs(made, 6)
    step = make_step(torch.zeros(6, dtype=torch.int64), student, teacher)
    losses = made.losses(Step(**{**vars(step), "update": made.updates()[1]}))  # type: ignore[arg-type]
    losses.total().backward()

    logits = student.require_logits().detach().double().requires_grad_()
    maps = {name: value.detach().double().requires_grad_() for name, value in student.taps.items()}
    expected = divergence(teacher.require_logits(), logits, temperature) / (5 if form == "mean" else 1)
    for own, other in made.pairs:
        pair = []
        for features in (maps[own], teacher.taps[other].double()):
            squares = features.square().mean(dim=1).flatten(1)
            pair.append(squares / squares.norm(dim=1, keepdim=True))
        expected = expected + 30.0 * (pair[0] - pair[1]).square().mean()
    expected.backward()
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in [(student.logits, logits), *((student.taps[name], maps[name]) for name in maps)]:
        assert ours is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6, check_dtype=False)


def test_the_generator_s_loss_is_the_negative_divergence_through_both_networks(
    method: MakeMethod, make_step: Callable[..., Step]
) -> None:
    made = method(temperature=2.0)
    step = step_of(made, made.updates()[0], make_step)
    images = step.batch.images
    images.retain_grad()
    loss = made.losses(step).total()
    loss.backward()

    twin = images.detach().double().requires_grad_()
    student, teacher = made.setup.student.double(), made.setup.teacher.double()
    expected = -divergence(teacher(twin), student(twin), 2.0)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(images.grad, twin.grad, rtol=1e-2, atol=1e-5, check_dtype=False)


def test_the_student_sees_what_the_generator_makes_of_the_same_noise_without_gradient(
    method: MakeMethod,
) -> None:
    made = method(student_updates=3)
    generator, student = made.updates()
    assert (generator.repeats, student.repeats) == (1, 3)
    first = made.make_batch(generator).images
    second = made.make_batch(student).images
    assert first.requires_grad
    assert not second.requires_grad
    assert torch.equal(first, second)
    assert not torch.equal(first, made.make_batch(generator).images)


def test_attention_can_be_left_out(method: MakeMethod, make_step: Callable[..., Step]) -> None:
    made = method(attention_weight=0.0)
    assert (made.student_taps, made.teacher_taps) == ((), ((),))
    logits = torch.zeros(6, 5, requires_grad=True)
    step = make_step(
        torch.zeros(6, dtype=torch.int64), Outputs(logits=logits), Outputs(logits=logits.detach())
    )
    losses = made.losses(Step(**{**vars(step), "update": made.updates()[1]}))  # type: ignore[arg-type]
    assert list(losses.terms()) == ["kd"]


def test_weight_decay_does_not_pull_at_the_generator(method: MakeMethod) -> None:
    student, generator = method().optimized()
    assert (student.name, student.weight_decay) == ("student", None)
    assert (generator.name, generator.weight_decay) == ("generator", 0.0)


def test_a_picture_shows_the_same_noise_and_changes_nothing(method: MakeMethod) -> None:
    made = method().train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    state = made.setup.rng.get_state()
    first, second = made.invented_images(), made.invented_images()
    assert first.shape == (64, 3, 16, 16)
    assert torch.equal(first, second)
    assert made.generator.training
    assert torch.equal(state, made.setup.rng.get_state())
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
