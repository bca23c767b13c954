"""What holds for every registered method, a plug-in's as well."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.assembly.assemble import model_facts
from kdctl.engine.resume import load_state, state_of, write_state
from kdctl.protocols.distiller import methods

TryMethod = Callable[..., Any]

PROOFS = ["proof_adapting", "proof_generating", "proof_peers", "proof_two_teachers"]
"""Of tests/plugins: methods in which more than a student learns."""

PRECISIONS = ["fp32", pytest.param("bf16", marks=pytest.mark.extended)]

pytestmark = [
    pytest.mark.usefixtures("proof_plugins"),
    pytest.mark.parametrize("method", [*methods.names(), *PROOFS]),
]


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def differing(left: dict[str, Tensor], right: dict[str, Tensor]) -> set[str]:
    """Return the names of the tensors that are not the same bit for bit."""
    assert left.keys() == right.keys()
    return {name for name in left if not torch.equal(left[name], right[name])}


def test_the_catalogue_can_describe_it(method: str) -> None:
    entry = methods.get(method)
    assert re.fullmatch(r"[^\n]{10,}\.", entry.summary)
    assert methods.get(entry.label) is entry
    assert dataclasses.is_dataclass(entry.config)
    assert entry.config.__dataclass_params__.frozen  # type: ignore[attr-defined]
    fewest, most = entry.item.num_teachers
    assert 0 <= fewest <= (fewest if most is None else most)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_its_losses_are_finite_fp32_scalars(try_method: TryMethod, method: str, precision: str) -> None:
    trial = try_method(method, student_precision=precision, teacher_precision=precision)
    for update in trial.distiller.updates():
        losses = trial.losses(trial.look(update))
        assert losses.terms()
        assert "task" not in losses.transfer
        for name, term in {**losses.terms(), "total": losses.total()}.items():
            assert term.shape == (), name
            assert term.dtype == torch.float32, name
            assert term.isfinite(), name
            assert term.requires_grad, name
        assert losses.logits is None or losses.logits.shape == (6, 4)
        assert all(metric.shape == () for metric in losses.metrics.values())
    trial.train_step()
    assert all(parameter.isfinite().all() for parameter in trial.distiller.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_leaves_teachers_alone(try_method: TryMethod, method: str, precision: str) -> None:
    trial = try_method(method, student_precision=precision, teacher_precision=precision)
    before = [copied(teacher.state_dict()) for teacher in trial.teachers]
    for _ in range(2):
        trial.train_step()
    trial.distiller.inference_model().train().requires_grad_()
    for teacher, weights in zip(trial.teachers, before, strict=True):
        assert not differing(weights, teacher.state_dict())
        assert not any(module.training for module in teacher.modules())
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_it_owns_no_teacher(try_method: TryMethod, method: str) -> None:
    trial = try_method(method)
    theirs = {id(module) for teacher in trial.teachers for module in teacher.modules()}
    assert not theirs & {id(module) for module in trial.distiller.modules()}


def test_it_reads_outputs_without_changing_them(try_method: TryMethod, method: str) -> None:
    trial = try_method(method)
    step = trial.look()
    seen = [
        tensor
        for outputs in (step.student, *step.teachers)
        for tensor in (*outputs.taps.values(), outputs.logits)
        if tensor is not None
    ]
    seen += [step.batch.images, step.batch.index, step.progress, step.learning_rate]
    seen += [] if step.batch.labels is None else [step.batch.labels]
    before = [tensor.detach().clone() for tensor in seen]
    trial.losses(step).total().backward()
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(seen, before, strict=True))


def test_it_trains_exactly_what_is_in_the_optimizer(try_method: TryMethod, method: str) -> None:
    trial = try_method(method)
    before = copied(trial.distiller.state_dict())
    trial.train_step()
    optimized = {id(p) for part in trial.member.optimizers for p in part.parameters()}
    frozen, averaged = (
        {id(parameter) for module in modules.values() for parameter in module.parameters()}
        for modules in (trial.distiller.frozen_modules(), trial.distiller.averaged_modules())
    )
    for name, parameter in trial.distiller.named_parameters():
        trained = id(parameter) in optimized
        assert trained is (parameter.grad is not None), name
        assert trained is not (id(parameter) in frozen | averaged), name
        assert trained is parameter.requires_grad, name
        moved = not torch.equal(before[name], parameter)
        assert not moved or trained or id(parameter) in averaged, f"{name} moved, and nobody declared it"


def test_its_state_goes_on_bit_for_bit(try_method: TryMethod, method: str) -> None:
    first, second = try_method(method), try_method(method)
    assert not differing(first.distiller.state_dict(), second.distiller.state_dict())
    first.train_step()
    assert differing(first.distiller.state_dict(), second.distiller.state_dict())
    write_state(first.member.folder, state_of(first.member))
    assert load_state(second.member)
    for trial in (first, second):
        trial.train_step()
    assert not differing(first.distiller.state_dict(), second.distiller.state_dict())
    assert first.member.sums.means() == second.member.sums.means()


def test_its_randomness_is_its_own(try_method: TryMethod, method: str) -> None:
    trial = try_method(method)
    step = trial.look()
    state = torch.get_rng_state()
    first = trial.losses(step).total()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(12345)
    assert torch.equal(first, trial.losses(step).total())


def test_its_inference_model_is_trained_along(try_method: TryMethod, method: str) -> None:
    trial = try_method(method)
    model = trial.distiller.inference_model()
    trained: set[int] = set()
    for phase in reversed(trial.distiller.phases()):
        trial.distiller.begin(phase)
        trained |= {id(parameter) for parameter in trial.distiller.parameters() if parameter.requires_grad}
    shared = {id(parameter) for parameter in model.parameters()} & trained
    encoder = trial.distiller.student.encoder(trial.distiller.student.final_tap)
    averaged = {
        id(parameter)
        for module in trial.distiller.averaged_modules().values()
        for parameter in module.parameters()
    }
    follows = {id(parameter) for parameter in model.parameters()} <= averaged
    assert follows or {id(parameter) for parameter in encoder.parameters()} <= shared
    trial.train_step()
    images = trial.batch.images
    with torch.no_grad():
        assert torch.equal(model.eval()(images), trial.distiller.inference_model().eval()(images))


def test_its_inference_model_needs_no_teacher_in_training_mode(try_method: TryMethod, method: str) -> None:
    """What is shipped of a teacher is a copy: using or changing it does not touch the teacher."""
    trial = try_method(method, "resnet8", "mobilenetv2")
    theirs = {
        id(tensor) for teacher in trial.teachers for tensor in teacher.state_dict(keep_vars=True).values()
    }
    model = trial.distiller.inference_model()
    assert not theirs & {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}


def test_it_says_whether_it_ships_the_student_as_it_is(try_method: TryMethod, method: str) -> None:
    trial = try_method(method)
    ships_student = trial.distiller.ships_student(trial.distiller.config)
    assert ships_student is (trial.distiller.inference_model() is trial.distiller.student)
    if ships_student:
        assert not model_facts(trial.distiller, trial.teachers).untrained
