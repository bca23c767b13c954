from __future__ import annotations

import pytest
import torch

from kdctl.losses.warmup import linear_warmup


@pytest.mark.parametrize(
    ("progress", "share", "factor"),
    [(0.0, 0.1, 0.0), (0.05, 0.1, 0.5), (0.1, 0.1, 1.0), (0.9, 0.1, 1.0), (0.5, 1.0, 0.5), (0.0, 0.0, 1.0)],
)
def test_it_rises_to_1_and_stays(progress: float, share: float, factor: float) -> None:
    assert float(linear_warmup(torch.tensor(progress), share)) == pytest.approx(factor)


def test_it_is_the_papers_stair_at_the_end_of_each_epoch() -> None:
    ours = [float(linear_warmup(torch.tensor(epoch / 240), 20 / 240)) for epoch in range(1, 241)]
    assert ours == pytest.approx([min(epoch / 20, 1.0) for epoch in range(1, 241)], abs=1e-6)
