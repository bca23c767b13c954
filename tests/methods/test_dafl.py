from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.methods.dafl import DataFreeLearning, DataFreeLearningConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Batch, Setup, Step
from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import AdamW

ADAM = Spec(kind="optimizer", name="adamw", options=AdamW())

MakeMethod = Callable[..., DataFreeLearning]


@pytest.fixture
def method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(**options: Any) -> DataFreeLearning:
        sizes = {"batch_size": 6, "noise_size": 4}
        config = DataFreeLearningConfig(generator_optimizer=ADAM, **{**sizes, **options})
        built = DataFreeLearning(config, make_setup("resnet8", "resnet14"))
        built.setup.rng.manual_seed(0)
        return built

    return build


@pytest.fixture
def step_on(make_step: Callable[..., Step]) -> Callable[..., Step]:
    def build(method: DataFreeLearning, images: Tensor, **outputs: Any) -> Step:
        step = make_step(torch.zeros(6, dtype=torch.int64), Outputs(logits=None))
        batch = Batch(images=images, labels=None, index=torch.arange(6))
        return Step(**{**vars(step), "batch": batch, "update": method.updates()[0], **outputs})  # type: ignore[arg-type]

    return build


def test_the_generator_s_loss_and_gradient_are_those_of_the_formula(
    method: MakeMethod, step_on: Callable[..., Step]
) -> None:
    """Restated in double precision with probabilities, as the paper and its code write it."""
    made = method(one_hot_weight=0.3, activation_weight=0.2, entropy_weight=7.0)
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    losses = made.losses(step_on(made, images))
    losses.total().backward()

    twin = images.detach().double().requires_grad_()
    outputs = made.setup.teacher.double().observe(twin, ("pooled",))
    logits, features = outputs.require_logits(), outputs.taps["pooled"]
    probabilities = torch.softmax(logits, dim=1)
    one_hot = -probabilities.max(dim=1).values.log().mean()
    mean = probabilities.mean(dim=0)
    entropy = sum(p * p.log() / math.log(10) for p in mean)
    expected = 0.3 * one_hot - 0.2 * features.abs().mean() + 7.0 * entropy
    expected.backward()
    assert list(losses.terms()) == ["one_hot", "activation", "entropy"]
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(images.grad, twin.grad, rtol=1e-2, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_student_s_temperature_is_honoured(
    method: MakeMethod, step_on: Callable[..., Step], logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    made = method(temperature=temperature)
    own = logits[0].clone().requires_grad_()
    outputs = {"student": Outputs(logits=own), "teachers": (Outputs(logits=logits[1]),)}
    step = step_on(made, torch.zeros(6, 3, 16, 16), update=made.updates()[1], **outputs)
    loss = made.losses(step).total()
    loss.backward()
    p, q = (torch.softmax(z.double() / temperature, dim=1) for z in (logits[1], logits[0]))
    expected = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(own.grad, temperature * (q - p) / 6, rtol=1e-3, atol=1e-5, check_dtype=False)


def test_the_mean_prediction_of_all_classes_alike_has_the_least_entropy_term(
    method: MakeMethod, step_on: Callable[..., Step]
) -> None:
    made = method(one_hot_weight=0.0, activation_weight=0.0, entropy_weight=1.0)
    losses = made.losses(step_on(made, torch.zeros(6, 3, 16, 16, requires_grad=True)))
    assert list(losses.terms()) == ["entropy"]
    assert -math.log10(5) <= losses.total().item() <= 0


def test_its_images_have_mean_zero_and_deviation_one(method: MakeMethod) -> None:
    made = method(batch_size=64).train()
    images = made.make_batch(made.updates()[0]).images
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(images.std(dim=(0, 2, 3)), torch.ones(3), rtol=1e-2, atol=0)


def test_a_generator_that_nothing_trains_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing trains the generator"):
        DataFreeLearningConfig(one_hot_weight=0.0, entropy_weight=0.0, activation_weight=0.0)
