from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdctl.recipe.optimization import (
    ConstantSchedule,
    CosineSchedule,
    StepSchedule,
    optimizers,
    schedules,
    warmup,
)


def test_the_step_at_150_is_felt_in_epoch_151() -> None:
    schedule = StepSchedule()
    in_epoch = [schedule.factor(epoch - 1) for epoch in range(1, 241)]
    assert in_epoch[149] == 1.0  # epoch 150, counted from 1
    assert in_epoch[150] == 0.1
    assert in_epoch[179] == 0.1
    assert in_epoch[180] == pytest.approx(0.01)
    assert in_epoch[239] == pytest.approx(0.001)
    assert schedule.factor(149.999) == 1.0  # the last step of epoch 150


def test_milestones_beyond_the_end_are_never_felt() -> None:
    schedule = StepSchedule(epochs=4)
    assert {schedule.factor(epoch) for epoch in range(4)} == {1.0}


def test_the_cosine_starts_full_is_half_midway_and_ends_where_it_should() -> None:
    schedule = CosineSchedule(epochs=10, final_factor=0.2)
    assert schedule.factor(0) == 1.0
    assert schedule.factor(5) == pytest.approx(0.6)
    assert schedule.factor(10) == pytest.approx(0.2)
    assert schedule.factor(11) == pytest.approx(0.2)
    assert CosineSchedule(epochs=10).factor(10) == pytest.approx(0.0)


def test_the_warm_up_is_linear_and_never_quite_zero() -> None:
    assert [warmup(position, 4) for position in (0, 1, 2, 4, 9)] == [1e-3, 0.25, 0.5, 1.0, 1.0]
    assert warmup(0, 0) == 1.0
    assert ConstantSchedule(warmup_epochs=2).factor(1) == 0.5
    assert StepSchedule(epochs=9, milestones=(1,), warmup_epochs=2).factor(1) == pytest.approx(0.05)


@given(
    st.sampled_from([StepSchedule, CosineSchedule, ConstantSchedule]),
    st.integers(1, 300),
    st.integers(0, 20),
    st.floats(0, 1),
)
def test_a_factor_lies_between_0_and_1(schedule: type, epochs: int, warmup_epochs: int, share: float) -> None:
    factor = schedule(epochs=epochs, warmup_epochs=warmup_epochs).factor(share * epochs)
    assert 0 <= factor <= 1
    assert math.isfinite(factor)


def test_all_schedules_and_optimizers_are_on_the_shelf() -> None:
    assert schedules.names() == ["constant", "cosine", "step"]
    assert optimizers.names() == ["adamw", "dot", "lamb", "sgd"]
    assert all(entry.summary for registry in (schedules, optimizers) for entry in registry.entries())
