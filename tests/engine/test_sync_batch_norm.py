"""Batch norms over two processes: what one batch norm makes of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from kdctl.engine.parted_steps import bounds
from kdctl.engine.sync_batch_norm import SyncBatchNorm, require_eager
from kdctl.errors import KdctlError
from kdctl.recipe.engine_options import EngineOptions

NUM_IMAGES = 7
"""They do not fall into equal parts."""
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "maps": (lambda: nn.BatchNorm2d(3), (NUM_IMAGES, 3, 4, 5)),
    "vectors": (lambda: nn.BatchNorm1d(3), (NUM_IMAGES, 3)),
    "without weights": (lambda: nn.BatchNorm2d(3, affine=False), (NUM_IMAGES, 3, 4, 5)),
    "without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (NUM_IMAGES, 3, 4, 5)),
    "cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (NUM_IMAGES, 3, 4, 5)),
}


def results(name: str, part: slice) -> dict[str, Tensor]:
    """Return what a batch norm makes of a part of the batch, forward and backward."""
    build, shape = CASES[name]
    random = torch.Generator().manual_seed(0)
    batch = torch.randn(shape, generator=random, dtype=torch.float32) * 3 + 20
    weights = torch.randn(shape, generator=random)
    torch.manual_seed(1)
    module = build()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    images = batch[part].requires_grad_()
    made = module(images)
    (made * weights[part]).square().sum().backward()
    assert images.grad is not None
    gradients = {f"gradient of {key}": value.grad for key, value in module.named_parameters()}
    return {
        "made": made.detach(),
        "gradient": images.grad,
        **{key: value for key, value in gradients.items() if value is not None},
        **{key: value for key, value in module.named_buffers() if value.is_floating_point()},
    }


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    part = bounds(NUM_IMAGES, 2)[rank]
    with SyncBatchNorm():
        made = {name: results(name, part) for name in CASES}
        evaluated = nn.BatchNorm2d(3).eval()(torch.ones(1, 3, 2, 2))  # of one process: nobody is waited for
    torch.save({**made, "evaluated": evaluated.detach()}, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, args=(str(folder),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.extended
def test_two_processes_make_of_their_parts_what_one_makes_of_the_whole_batch(
    both: list[dict[str, dict[str, Tensor]]], name: str
) -> None:
    whole = results(name, slice(None))
    for key, expected in whole.items():
        first, second = (made[name][key] for made in both)
        if key in ("made", "gradient"):
            found = torch.cat([first, second])
        elif key.startswith("gradient"):
            found = first + second
        else:
            torch.testing.assert_close(first, second)
            found = first
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.extended
def test_an_evaluation_uses_the_running_statistics(both: list[dict[str, Tensor]]) -> None:
    for made in both:
        torch.testing.assert_close(made["evaluated"], torch.ones(1, 3, 2, 2))


def test_a_compiled_student_is_refused() -> None:
    with pytest.raises(KdctlError, match="does not reach the batch norms") as caught:
        require_eager(EngineOptions(sync_batch_norm=True, compile_student=True))
    assert "engine.compile_student" in caught.value.hint
    require_eager(EngineOptions(compile_student=True))
    require_eager(EngineOptions(sync_batch_norm=True))
