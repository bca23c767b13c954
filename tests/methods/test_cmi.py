from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.methods.cmi import ContrastiveInversionConfig, ContrastiveModelInversion
from kdctl.methods.cmi_simkd import InversionSimKd, InversionSimKdConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import DivergedError, Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

SMALL: dict[str, Any] = {
    **{"batch_size": 6, "noise_size": 4, "images_per_round": 8, "pool_size": 16, "inversion_steps": 3},
    **{"num_negatives": 5, "embedding_width": 7, "padding": 2},
}

MakeMethod = Callable[..., ContrastiveModelInversion]


@pytest.fixture
def method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(**options: Any) -> ContrastiveModelInversion:
        config = ContrastiveInversionConfig(**{**SMALL, **options})
        built = ContrastiveModelInversion(config, make_setup("resnet8", "resnet14"))
        built.begin(built.phases()[0])
        return built.train()

    return build


def prepare(method: ContrastiveModelInversion, seed: int) -> None:
    method.setup.rng.manual_seed(seed)
    method.prepare_epoch(first_of_phase=False)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_student_s_loss_and_gradient_honour_the_temperature(
    method: MakeMethod, make_step: Callable[..., Step], logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    own = logits[0].clone().requires_grad_()
    made = method(temperature=temperature)
    step = make_step(torch.zeros(6, dtype=torch.int64), Outputs(logits=own), Outputs(logits=logits[1]))
    losses = made.losses(step)
    losses.total().backward()
    p, q = (torch.softmax(z.double() / temperature, dim=1) for z in (logits[1], logits[0]))
    expected = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
    assert list(losses.terms()) == ["kd"]
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(own.grad, temperature * (q - p) / 6, rtol=1e-3, atol=1e-5, check_dtype=False)


@pytest.mark.extended
def test_each_round_adds_images_and_the_oldest_make_room(method: MakeMethod) -> None:
    made = method()
    assert made.invented_images() is None
    rounds = []
    for seed in range(3):
        prepare(made, seed)
        images = made.invented_images()
        assert images is not None
        rounds.append(images)
    assert int(made.num_invented) == 24
    assert torch.equal(made.pool[:8].float(), rounds[2])
    assert torch.equal(made.pool[8:].float(), rounds[1])
    assert not torch.equal(rounds[0], rounds[2])
    features = made.setup.teacher.observe(rounds[1], ("pooled",)).taps["pooled"]
    torch.testing.assert_close(made.pool_features[8:], features, rtol=1e-2, atol=1e-3)  # the pool is in fp16


def test_only_images_that_were_invented_are_learned_from(method: MakeMethod) -> None:
    made = method(batch_size=64, augmentation="none")
    prepare(made, 0)
    batch = made.make_batch(made.updates()[0])
    assert set(batch.index.tolist()) == set(range(8))
    assert torch.equal(batch.images, made.pool[batch.index].float())
    assert batch.labels is None


def test_inverting_moves_nothing_but_pool_and_embedding(method: MakeMethod) -> None:
    made = method()
    student = {name: value.clone() for name, value in made.student.state_dict().items()}
    teacher = {name: value.clone() for name, value in made.setup.teacher.state_dict().items()}
    embedding = {name: value.clone() for name, value in made.embedding.state_dict().items()}
    state = torch.get_rng_state()
    prepare(made, 0)
    assert torch.equal(state, torch.get_rng_state())
    assert made.training
    assert made.student.training
    assert all(torch.equal(value, student[name]) for name, value in made.student.state_dict().items())
    assert all(torch.equal(value, teacher[name]) for name, value in made.setup.teacher.state_dict().items())
    assert not any(torch.equal(value, embedding[name]) for name, value in made.embedding.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


def test_a_round_is_the_same_whenever_it_is_seeded_alike(method: MakeMethod) -> None:
    first, second = method(), method()
    torch.manual_seed(5)
    prepare(first, 3)
    torch.manual_seed(6)
    prepare(second, 3)
    assert torch.equal(first.pool, second.pool)


@pytest.mark.slow
def test_inverting_comes_closer_to_the_teacher_s_statistics(method: MakeMethod) -> None:
    def distance(num_steps: int) -> float:
        made = method(inversion_steps=num_steps, adversarial_weight=0.0, inversion_rate=0.01)
        prepare(made, 0)
        with made.statistics.watching() as distances, torch.no_grad():
            made.setup.teacher(made.pool[:8].float())
        return float(torch.stack(distances).sum())

    assert distance(40) < 0.8 * distance(1)


def test_a_generator_whose_loss_is_no_number_is_named(method: MakeMethod) -> None:
    made = method(inversion_rate=1e30)
    with pytest.raises(DivergedError, match="generator"):
        prepare(made, 0)


def test_a_pool_that_rounds_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="pool_size = 20 is no multiple of images_per_round = 8"):
        ContrastiveInversionConfig(**{**SMALL, "pool_size": 20})


@pytest.fixture
def reusing(make_setup: Callable[..., Setup]) -> InversionSimKd:
    projector = Spec(kind="projector", name="pointwise", options=NoOptions())
    config = InversionSimKdConfig(projector=projector, simkd_weight=3.0, **SMALL)
    built = InversionSimKd(config, make_setup("resnet8x4", "resnet14"))
    built.begin(built.phases()[0])
    return built.train()


def test_with_simkd_it_is_the_mean_squared_distance_of_the_last_maps(
    reusing: InversionSimKd,
    make_step: Callable[..., Step],
    draw_outputs: Callable[..., tuple[Outputs, ...]],
) -> None:
    full = dataclasses.replace(draw_outputs(reusing, 6)[0])
    _, teacher = draw_outputs(reusing, 6)
    losses = reusing.losses(make_step(torch.zeros(6, dtype=torch.int64), full, teacher))
    losses.total().backward()
    (own,), ((other,),) = reusing.student_taps, reusing.teacher_taps

    source = full.taps[own].detach().double().requires_grad_()
    expected = 3.0 * (reusing.projector.double()(source) - teacher.taps[other].double()).square().mean()
    expected.backward()
    assert list(losses.terms()) == ["simkd"]
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(full.taps[own].grad, source.grad, rtol=1e-2, atol=1e-6, check_dtype=False)


def test_with_simkd_images_are_sought_where_the_shipped_model_errs(reusing: InversionSimKd) -> None:
    reusing.eval()
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(reusing.predictions(images), reusing.inference_model().eval()(images))
