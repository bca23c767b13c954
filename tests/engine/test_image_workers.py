"""Processes that decode images: how much they are given at once, and how they end."""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import multiprocessing.synchronize
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from streamed_pictures import Pictures, Slow, all_batches, streamed

from kdctl.engine.batches import Normalisation
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.streamed_batches import StreamedTrainingSet
from kdctl.machine_errors import GOES_ON, MachineError
from kdctl.protocols.dataset import DatasetOptions

CPU = torch.device("cpu")

Open = Callable[..., StreamedTrainingSet]


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
@pytest.mark.extended
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


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_went_bad_is_a_fault_of_the_machine(open_set: Open, num_workers: int) -> None:
    train = open_set(num_workers, Pictures(bad=5))
    with pytest.raises(MachineError, match=r"apple/7\.jpg \(cut short\)"):
        all_batches(train, train.order(0, 0))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_worker_that_dies_stops_the_run_with_a_hint(
    pool: Callable[[int], ImageWorkers], num_workers: int
) -> None:
    workers = pool(num_workers)
    normalise = Normalisation((0.5,) * 3, (0.2,) * 3, CPU)
    options = DatasetOptions(augmentation="random-resized-crop", batch_size=16)  # type: ignore[arg-type]
    train = StreamedTrainingSet(streamed(Slow(0.2)), normalise, options, CPU, workers)
    train._ahead._fill((0, 0, 0))
    os.kill(workers._processes[0].pid, signal.SIGKILL)
    with pytest.raises(MachineError, match="killed by SIGKILL") as caught:
        all_batches(train, train.order(0, 0))
    assert "--workers" in caught.value.hint
    assert not workers._processes


def test_a_worker_whose_file_was_cut_short_is_not_told_as_a_lack_of_memory() -> None:
    def read_past_the_end() -> None:
        faulthandler.disable()  # pytest's, which prints where a process was
        os.kill(os.getpid(), signal.SIGBUS)

    workers, process = ImageWorkers(1), multiprocessing.get_context("fork").Process(target=read_past_the_end)
    process.start()
    process.join()
    workers._processes = [process]
    fault = workers._death().fault
    assert "killed by SIGBUS. The system does that when a file that is read was cut short" in fault.problem
    assert fault.hint == f"see that the disk is sound; {GOES_ON}"


@pytest.mark.extended
def test_workers_need_no_room_in_dev_shm(open_set: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is small, full or read-only in some containers, and locks of multiprocessing lie there."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    train = open_set(2)
    images, _ = all_batches(train, train.order(0, 0))
    assert len(images) == len(train)


def test_a_process_that_the_system_does_not_start_is_told_of(
    open_set: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    train = open_set(2)
    with pytest.raises(MachineError, match=r"no process to decode images \(Resource temporarily") as caught:
        train.batch(train.order(0, 0), 0)
    assert "--workers" in caught.value.hint
    assert not train._workers._processes


def test_a_last_worker_that_died_between_batches_is_told_of_as_well(open_set: Open) -> None:
    train = open_set(1)
    order = train.order(0, 0)
    train.batch(order, 0)
    workers = train._workers
    (ring,), (process,) = workers._rings, workers._processes
    for slot in range(ring.num_slots):
        workers.wait(ring, slot)
    process.kill()
    process.join()
    with pytest.raises(MachineError, match="killed by SIGKILL"):
        all_batches(train, order)


def test_workers_ignore_signals_that_are_for_the_training(open_set: Open) -> None:
    train = open_set(1)
    order = train.order(0, 0)
    train.batch(order, 0)
    process = train._workers._processes[0]
    for name in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, name)
    all_batches(train, order)
    assert process.is_alive()


def test_workers_end_with_the_training_process() -> None:
    child = os.fork()
    if child == 0:
        workers = ImageWorkers(1)
        normalise = Normalisation((0.5,) * 3, (0.2,) * 3, CPU)
        options = DatasetOptions(augmentation="random-resized-crop")  # type: ignore[arg-type]
        train = StreamedTrainingSet(streamed(), normalise, options, CPU, workers)
        train.batch(train.order(0, 0), 0)
        Path(f"/tmp/kdctl-worker-{os.getpid()}").write_text(str(workers._processes[0].pid))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    note = Path(f"/tmp/kdctl-worker-{child}")
    worker = int(note.read_text())
    note.unlink()
    for _ in range(100):
        status = Path(f"/proc/{worker}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the worker still runs")


class FakeRuntime:
    """Of CUDA, as far as memory is registered with it."""

    def __init__(self, refusal: int = 0) -> None:
        self.refusal = refusal
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, pointer: int, size: int, flags: int) -> int:
        assert flags == 0
        if not self.refusal:
            self.registered[pointer] = size
        return self.refusal

    def cudaHostUnregister(self, pointer: int) -> int:
        del self.registered[pointer]
        return 0


@pytest.mark.parametrize("refusal", [0, 712])
def test_a_gpu_lets_go_of_buffers_before_their_memory_is_given_back(
    refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes to lie there next would be read from pages that are gone."""
    runtime = FakeRuntime(refusal)
    waited: list[bool] = []
    met: list[int] = []

    def meet(*_: object, **__: object) -> None:
        met.append(refusal)
        raise RuntimeError("CUDA error: part or all of the requested memory range is already mapped")

    monkeypatch.setattr(torch, "ones", meet)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(not runtime.registered))
    workers = ImageWorkers(0)
    rings = [workers.open_ring(lambda *_: torch.zeros(3, 4, 4), num_slots=2, batch_size=3, size=4)
             for _ in range(2)]  # fmt: skip
    for ring in rings:
        ring.pin(torch.device("cuda"))
        ring.pin(torch.device("cuda"))
    assert met == [refusal] * (4 if refusal else 0)  # else the first step of the training would meet it
    assert runtime.registered == ({} if refusal else {ring.pixels.data_ptr(): 288 for ring in rings})
    workers.close()
    workers.close()
    assert not runtime.registered
    assert waited == ([] if refusal else [False, False])  # for copies that are on their way
    ring = workers.open_ring(lambda *_: torch.zeros(3, 4, 4), num_slots=2, batch_size=3, size=4)
    ring.pin(CPU)
    assert not ring.is_pinned
