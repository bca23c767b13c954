"""What holds for every phase of the methods that train in several."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.engine.resume import load_state, state_of, write_state
from kdctl.protocols.distiller import methods

PHASED = [
    {"name": "fitnet", "hint_share": 0.5},
    {"name": "sequential", "feature": "student"},
    {"name": "sequential", "feature": "projected"},
    {"name": "ab"},
    {"name": "fsp"},
    {"name": "ft"},
    {"name": "ft", "form": "attention"},
]
EPOCHS = 240

TryMethod = Callable[..., Any]


def title(table: dict[str, Any]) -> str:
    return " ".join(str(value) for value in table.values())


@pytest.fixture(params=[0, 1], ids=["first", "second"])
def trial(request: pytest.FixtureRequest, try_method: TryMethod, table: dict[str, Any]) -> Any:
    """A method in one of its phases."""
    return in_phase(try_method(table), request.param)


def in_phase(trial: Any, place: int) -> Any:
    """Go to the beginning of a phase, as the end of the epoch before does."""
    trial.member.stand_at(trial.member.spans[place].first, 0)
    trial.distiller.train()
    return trial


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize("method", methods.names())
def test_only_phases_among_others_have_names(try_method: TryMethod, method: str) -> None:
    trial = try_method(method)
    phases = trial.distiller.phases()
    assert sum(phase.share for phase in phases) == pytest.approx(1.0)
    assert all(phase.name for phase in phases) is (len(phases) > 1)
    assert trial.distiller.phase == phases[0]


@pytest.mark.parametrize("table", PHASED, ids=title)
class TestPhase:
    def test_phases_have_names_and_share_the_epochs(
        self, try_method: TryMethod, table: dict[str, Any]
    ) -> None:
        spans = try_method(table).member.spans
        assert len({span.phase.name for span in spans} | {""}) == len(spans) + 1 > 2
        assert sum(span.epochs for span in spans) == EPOCHS

    def test_exactly_what_gets_a_gradient_is_in_the_optimizer_and_nothing_else_moves(
        self, trial: Any
    ) -> None:
        before = copied(trial.distiller.state_dict())
        for _ in range(2):
            trial.train_step()
        optimized = {id(p) for part in trial.member.optimizers for p in part.parameters()}
        frozen = {
            id(tensor)
            for piece in trial.distiller.frozen_modules().values()
            for tensor in piece.state_dict(keep_vars=True).values()
        }
        assert optimized
        for name, parameter in trial.distiller.named_parameters():
            trained = id(parameter) in optimized
            assert trained is (parameter.grad is not None), name
            assert trained is parameter.requires_grad, name
            assert trained is (id(parameter) not in frozen), name
        for name, tensor in trial.distiller.state_dict(keep_vars=True).items():
            assert id(tensor) not in frozen or torch.equal(before[name], tensor), name

    def test_the_last_phase_leaves_no_trace_of_gradients_of_the_first(
        self, try_method: TryMethod, table: dict[str, Any]
    ) -> None:
        trial = try_method(table)
        trial.train_step()
        in_phase(trial, 1)
        assert all(parameter.grad is None for parameter in trial.distiller.parameters())
        state = trial.member.optimizers[0].optimizer.state_dict()["state"]
        assert not any(tensor.any() for kept in state.values() for tensor in kept.values())

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("place", [0, 1])
    def test_its_losses_are_finite_and_read_nothing_back_from_the_device(
        self,
        try_method: TryMethod,
        no_host_reads: Callable[[], AbstractContextManager[Any]],
        table: dict[str, Any],
        place: int,
        precision: str,
    ) -> None:
        trial = in_phase(
            try_method(
                table, "mobilenetv2", "vgg8", student_precision=precision, teacher_precision=precision
            ),
            place,
        )
        step = trial.look()
        with no_host_reads():
            losses = trial.losses(step)
            losses.total()
        assert losses.terms()
        assert all(term.isfinite() and term.dtype == torch.float32 for term in losses.terms().values())
        assert losses.logits.shape == (6, 4)

    def test_it_goes_on_bit_for_bit_from_a_saved_state(
        self, trial: Any, try_method: TryMethod, table: dict[str, Any]
    ) -> None:
        trial.train_step()
        write_state(trial.member.folder, state_of(trial.member))
        twin = try_method(table)
        assert load_state(twin.member)
        assert twin.distiller.phase == trial.distiller.phase
        for one in (trial, twin):
            one.distiller.train()
            one.train_step()
        other = twin.distiller.state_dict()
        assert all(torch.equal(value, other[name]) for name, value in trial.distiller.state_dict().items())

    def test_teachers_stay_as_they_are(self, trial: Any) -> None:
        before = [copied(teacher.state_dict()) for teacher in trial.teachers]
        trial.train_step()
        trial.distiller.inference_model().train().requires_grad_()
        for teacher, weights in zip(trial.teachers, before, strict=True):
            assert all(torch.equal(weights[name], value) for name, value in teacher.state_dict().items())
            assert not any(module.training for module in teacher.modules())
            assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())

    def test_what_it_ships_predicts_in_every_phase(self, trial: Any) -> None:
        trial.train_step()
        with torch.no_grad():
            assert trial.distiller.inference_model().eval()(trial.batch.images).shape == (6, 4)
