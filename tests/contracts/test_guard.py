"""The guard against host reads sees what it should, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x.long().unique(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: torch.where(x > 0),
        lambda x: functional.one_hot(x.long().relu(), 3),  # only on a CPU; compare with an arange instead
        lambda x: torch.zeros(2, 2).index_put((x > 0,), torch.ones(())),
        lambda x: x * torch.tensor(2.0),
        lambda x: x.scatter_add(1, x.long().relu().clamp(max=1), x),
        lambda x: x.requires_grad_().gather(1, x.long().relu().clamp(max=1)).sum().backward(),
    ],
)
def test_a_host_read_is_seen(
    no_host_reads: Callable[[], AbstractContextManager[Any]], read: Callable[[Tensor], Any]
) -> None:
    x = torch.tensor([[1.0, -1.0], [2.0, 0.5]])
    with pytest.raises(Exception, match=r"aten::|Tensor\.") as caught, no_host_reads():
        read(x)
    assert caught.type.__name__ == "HostReadError"


@pytest.mark.parametrize(
    "harmless",
    [
        lambda x: x[:, 0] + x[torch.arange(2).flip(0), 0],
        lambda x: torch.where(x > 0, x, 0.0).sum(),
        lambda x: functional.cross_entropy(x, torch.arange(2)),
        lambda x: x.topk(1, dim=1).indices,
        lambda x: (torch.arange(2)[:, None] == torch.arange(2)) * x,
        lambda x: functional.adaptive_avg_pool2d(x[None], 1),
        lambda x: x.requires_grad_().flatten().index_select(0, torch.arange(3)).sum().backward(),
    ],
)
def test_arithmetic_is_let_through(
    no_host_reads: Callable[[], AbstractContextManager[Any]], harmless: Callable[[Tensor], Any]
) -> None:
    x = torch.tensor([[1.0, -1.0], [2.0, 0.5]])
    with no_host_reads():
        harmless(x)
