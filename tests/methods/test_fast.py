from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.methods.fast import FastDataFree, FastInversionConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import DivergedError, Setup, Step

SMALL: dict[str, Any] = {
    **{"batch_size": 6, "noise_size": 4, "images_per_round": 8, "pool_size": 32, "inversion_steps": 3},
    **{"warmup_rounds": 1, "augmentation": "none"},
}

MakeMethod = Callable[..., FastDataFree]


@pytest.fixture
def method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(**options: Any) -> FastDataFree:
        config = FastInversionConfig(**{**SMALL, **options})
        built = FastDataFree(config, make_setup("resnet8", "resnet14"))
        built.begin(built.phases()[0])
        return built.train()

    return build


@pytest.fixture
def by_default_double(in_double: None) -> Iterator[None]:
    """Let new tensors be fp64, and leave them so where a method computes in fp32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def prepare(method: FastDataFree, seed: int) -> None:
    method.setup.rng.manual_seed(seed)
    method.prepare_epoch(first_of_phase=False)


def statistics_term(method: FastDataFree, images: Tensor, momentum: float) -> Tensor:
    """Restate the distance from running statistics, with the past that the method remembers."""
    inputs: list[Tensor] = []
    layers = [layer for layer in method.setup.teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in layers]
    method.setup.teacher(images)
    for handle in handles:
        handle.remove()
    total = torch.zeros(())
    for place, (layer, features) in enumerate(zip(layers, inputs, strict=True)):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        rows = features.transpose(0, 1).flatten(1)
        past = method.statistics.get_buffer(f"past_mean_{place}")
        mean = momentum * past + (1 - momentum) * rows.mean(dim=1)
        past = method.statistics.get_buffer(f"past_variance_{place}")
        variance = momentum * past + (1 - momentum) * rows.var(dim=1, unbiased=False)
        total = total + (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
    return total


@pytest.mark.usefixtures("by_default_double")
@pytest.mark.parametrize("remembers", [False, True])
def test_the_generator_s_loss_and_gradient_are_those_of_the_paper(
    method: MakeMethod, *, remembers: bool
) -> None:
    made = method(bn_weight=2.0, one_hot_weight=0.3, adversarial_weight=1.5, statistics_momentum=0.75)
    made.eval()
    if remembers:
        made.statistics.num_rounds.fill_(1)
        for name, buffer in made.statistics.named_buffers():
            if name.startswith("past"):
                buffer.uniform_(0.5, 1.5)
    torch.manual_seed(2)
    images = torch.randn(7, 3, 16, 16).requires_grad_()
    classes = torch.randint(5, (7,))
    loss = made.inversion_loss(images, classes, with_student=True)
    (gradient,) = torch.autograd.grad(loss, images)

    own, teacher = made.student(images), made.setup.teacher(images)
    p, q = torch.softmax(teacher, dim=1), torch.softmax(own, dim=1)
    agree = (own.argmax(dim=1) == teacher.argmax(dim=1)).double()
    expected = (
        2.0 * statistics_term(made, images, 0.75 if remembers else 0.0)
        + 0.3 * functional.nll_loss(p.log(), classes)
        - 1.5 * ((p * (p / q).log()).sum(dim=1) * agree).mean()
    )
    assert agree.sum() > 0
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, images)[0], rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("by_default_double")
@pytest.mark.parametrize("meta_gradient", ["fomaml", "reptile"])
@pytest.mark.slow
def test_the_start_learns_by_what_its_copies_met(method: MakeMethod, meta_gradient: str) -> None:
    options = {"meta_gradient": meta_gradient, "inversion_rate": 0.01, "noise_rate": 0.1, "warmup_rounds": 0}
    made, reference = (method(**options).eval() for _ in range(2))
    start = reference.start.generator.requires_grad_()
    meta = torch.optim.Adam(start.parameters(), 3 * 0.01, betas=(0.5, 0.999))
    for seed in range(2):
        for one in (made, reference):
            one.setup.rng.manual_seed(seed)
        made.invented()
        made.num_invented.add_(8)
        copied = copy.deepcopy(start).train()
        noise, classes = reference.draw_noise().requires_grad_(), reference.draw_classes()
        inner = torch.optim.Adam(copied.parameters(), 0.01, betas=(0.5, 0.999))
        inner.add_param_group({"params": [noise], "lr": 0.1})
        meta.zero_grad(set_to_none=False)
        for _ in range(3):
            inner.zero_grad()
            reference.inversion_loss(copied(noise), classes, with_student=True).backward()
            for own, other in zip(start.parameters(), copied.parameters(), strict=True):
                assert other.grad is not None
                own.grad = other.grad.clone() if own.grad is None else own.grad + other.grad
            inner.step()
        reference.statistics.remember()
        if meta_gradient == "reptile":
            for own, other in zip(start.parameters(), copied.parameters(), strict=True):
                own.grad = (own - other).detach()
        meta.step()
    # The gradient of a bias before a batch norm is a rounding error, of which Adam makes whole steps.
    for (name, own), other in zip(made.start.generator.named_parameters(), start.parameters(), strict=True):
        if not name.endswith("bias"):
            torch.testing.assert_close(own, other.detach(), rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_student_s_loss_honours_the_temperature(
    method: MakeMethod, make_step: Callable[..., Step], logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    step = make_step(torch.zeros(6, dtype=torch.int64), Outputs(logits=logits[0]), Outputs(logits=logits[1]))
    losses = method(temperature=temperature).losses(step)
    p, q = (torch.softmax(z.double() / temperature, dim=1) for z in (logits[1], logits[0]))
    expected = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
    assert list(losses.terms()) == ["kd"]
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.extended
def test_the_first_epoch_begins_with_rounds_that_do_not_ask_the_student(method: MakeMethod) -> None:
    without, much = method(adversarial_weight=0.0), method(adversarial_weight=50.0)
    for made in (without, much):
        prepare(made, 0)
        assert int(made.num_invented) == 16
        assert int(made.start.num_updates) == int(made.statistics.num_rounds) == 2
    assert torch.equal(without.pool[:8], much.pool[:8])
    assert not torch.equal(without.pool[8:16], much.pool[8:16])
    prepare(much, 1)
    assert int(much.num_invented) == 24


@pytest.mark.slow
def test_rounds_begin_nearer_to_the_teacher_s_statistics_than_the_first(method: MakeMethod) -> None:
    made = method(inversion_steps=2, adversarial_weight=0.0, inversion_rate=5e-3, warmup_rounds=0)

    def distance() -> float:
        noise = torch.randn(32, 4, generator=torch.Generator().manual_seed(9))
        copied = made.start.new_copy()
        with made.statistics.watching(), torch.no_grad():
            made.setup.teacher(copied(noise))
            return float(statistics_term(made, copied(noise), 0.0))

    before = distance()
    for seed in range(25):
        prepare(made, seed)
    assert distance() < 0.8 * before


def test_a_round_moves_neither_student_nor_teacher(method: MakeMethod) -> None:
    made = method()
    models = (made.student, made.setup.teacher)
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    state = torch.get_rng_state()
    prepare(made, 0)
    assert torch.equal(state, torch.get_rng_state())
    assert made.training
    assert made.student.training
    for model, values in zip(models, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


def test_a_generator_whose_loss_is_no_number_is_named(method: MakeMethod) -> None:
    made = method(inversion_rate=1e30)
    with pytest.raises(DivergedError, match="generator"):
        prepare(made, 0)
