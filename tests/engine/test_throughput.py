from __future__ import annotations

import torch

from kdctl.engine.throughput import count_launches, peak_flops

CPU = torch.device("cpu")


def test_operators_of_forward_and_backward_pass_count_and_views_do_not() -> None:
    weight = torch.ones(3, 4, requires_grad=True)
    image = torch.ones(2, 3)

    def forward() -> torch.Tensor:
        return (image @ weight).relu().view(-1)

    assert count_launches(forward, CPU) == 2
    alone = count_launches(lambda: forward().sum(), CPU)
    assert alone == 3
    assert count_launches(lambda: torch.autograd.backward(forward().sum()), CPU) > alone


def test_the_peak_is_a_rate_that_any_machine_reaches_and_none_exceeds() -> None:
    assert 1e8 < peak_flops(CPU, "fp32") < 1e15
