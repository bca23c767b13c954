"""What holds for every learning-rate schedule and optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.engine.optim import build_optimizer, set_learning_rate
from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import optimizers, schedules


@pytest.mark.parametrize("name", schedules.names())
def test_a_schedule_stays_between_zero_and_the_full_rate(name: str) -> None:
    schedule = schedules.get(name).config(epochs=20, warmup_epochs=3)
    factors = [schedule.factor(step / 10) for step in range(201)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert sorted(factors[30:], reverse=True) == factors[30:]  # after the warm-up it never rises again
    assert sorted(factors[:30]) == factors[:30]


@pytest.mark.parametrize("name", schedules.names())
def test_a_schedule_without_warm_up_starts_at_the_full_rate(name: str) -> None:
    assert schedules.get(name).config(epochs=20).factor(0.0) == 1.0


@pytest.mark.parametrize("name", schedules.names())
def test_runs_can_be_compared_once_the_rate_does_not_rise_any_more(name: str) -> None:
    config = schedules.get(name).config
    schedule = config(epochs=40, warmup_epochs=25)
    assert schedule.comparable_from == 26
    assert schedule.factor(schedule.comparable_from - 1) == max(
        schedule.factor(position) for position in range(25, 40)
    )
    assert 1 <= config(epochs=1).comparable_from <= 2


@pytest.mark.parametrize("name", optimizers.names())
def test_an_optimizer_is_built_with_its_rate_and_takes_another(name: str) -> None:
    layer = nn.Linear(3, 2)
    spec = Spec(kind="optimizer", name=name, options=optimizers.get(name).config(learning_rate=0.25))
    optimizer = build_optimizer(spec, layer.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.25]
    before = layer.weight.detach().clone()
    set_learning_rate(optimizer, 0.5)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]
    assert not torch.equal(layer.weight, before)
