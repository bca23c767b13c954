from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import torch

from kdctl.engine.image_workers import ImageWorkers


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where what is inside waits for ever."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"it takes more than {seconds} s"))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes have the size that the system gives")
def test_a_batch_of_more_tasks_than_pipes_hold_is_made_all_the_same() -> None:
    count = 4000
    places, repeats = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    with closing(ImageWorkers(2)) as workers:
        ring = workers.open_ring(
            lambda place, _repeat, _stream: torch.full((3, 1, 1), place % 256, dtype=torch.uint8),
            num_slots=2, batch_size=count, size=1,
        )  # fmt: skip
        workers.submit(ring, 0, places[:8], repeats[:8], 0, [slice(0, 8)])
        for pipe in (workers._tasks, workers._results):
            assert pipe is not None
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 4096)  # instead of 64 KiB
        with within(60):
            workers.submit(ring, 1, places, repeats, 0, [slice(0, count)])
            pixels = workers.wait(ring, 1)
    assert torch.equal(pixels[:, 0, 0, 0], (places % 256).to(torch.uint8))
