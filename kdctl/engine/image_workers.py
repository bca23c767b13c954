"""Worker processes that decode and augment images into memory they share with the training process.

Each split has a ring of buffers, each of which holds one batch. The training process says which images go
into which buffer, the workers fill it, some images at a time, and the training process reads it where it is.
Nothing is copied between processes. What becomes of an image depends on itself and its random stream only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import IO, Any

import torch
from torch import Tensor

from kdctl.engine.image_buffers import Prepare, Ring, Task, shared_memory
from kdctl.errors import ANY_FAILURE
from kdctl.machine_errors import (
    GOES_ON,
    MachineError,
    MachineFault,
    as_machine_errors,
    fault_behind,
    how_it_ended,
)
from kdctl.readers.pixels import UnreadableImageError

TASK_IMAGES = 8
"""Images that a worker takes at a time: few, so that all workers finish a batch at about the same time."""

MOST_WORKERS = 16
"""More are not started unless somebody asks for them."""

PARENT_CHECK_SECONDS = 5.0
"""How often an idle worker looks whether its training process is still there."""


class ImageWorkers:
    """A pool of processes that fill the rings of one training process."""

    def __init__(self, num_workers: int | None = None, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start nothing yet: processes are forked when the first batch is asked for.

        Args:
            num_workers: 0 decodes in this process, whenever a batch is needed; None: as many as torch has
                threads, at most `MOST_WORKERS`.
            meanwhile: called again and again while images are made ready before that, which may take hours;
                what it raises ends it.
        """
        self.meanwhile = meanwhile
        chosen = min(torch.get_num_threads(), MOST_WORKERS) if num_workers is None else num_workers
        # Elsewhere a fork is not safe, and memory without a name cannot be shared with new processes.
        self.num_workers = chosen if sys.platform == "linux" else 0
        self._rings: list[Ring] = []
        self._processes: list[BaseProcess] = []
        self._tasks: Connection | None = None
        self._results: Connection | None = None
        self._finalizer: Any = None

    def open_ring(self, prepare: Prepare, *, num_slots: int, batch_size: int, size: int) -> Ring:
        """Return buffers for batches of `batch_size` images of `size` x `size` pixels.

        Raises:
            KdctlError: there is not so much memory.
            ValueError: the processes run already, and would not see the buffers.
        """
        if self._processes:
            raise ValueError("rings are opened before the first batch is asked for")
        ring = Ring(
            number=len(self._rings),
            prepare=prepare,
            pixels=shared_memory((num_slots, batch_size, size, size, 3), torch.uint8),
            wanted=shared_memory((num_slots, batch_size, 2), torch.int64),
            missing=[0] * num_slots,
        )
        self._rings.append(ring)
        return ring

    def submit(
        self, ring: Ring, slot: int, places: Tensor, repeats: Tensor, stream: int, needed: Sequence[slice]
    ) -> None:
        """Let a buffer be filled; what it holds now is lost.

        Args:
            ring: the split's.
            slot: which buffer.
            places: [B] int64: places in the split.
            repeats: [B] int64: how often each image has come before in the epoch.
            stream: seed of the epoch's random numbers.
            needed: which of the B images are read, in slices that do not overlap; the others are not made.

        Raises:
            MachineError: as `wait` does.
        """
        self.wait(ring, slot)  # nobody may still write into it
        ring.wanted[slot, : len(places)] = torch.stack((places, repeats), dim=1)
        tasks = [
            Task(ring.number, slot, first, min(first + TASK_IMAGES, rows.stop), stream)
            for rows in needed
            for first in range(rows.start, rows.stop, TASK_IMAGES)
        ]
        if self.num_workers == 0:
            ring.due[slot] = tasks
            return
        if not self._processes:
            self._start()
        assert self._tasks is not None
        assert self._results is not None
        ring.missing[slot] = sum(task.last - task.first for task in tasks)
        try:
            for task in tasks:
                while self._results.poll():  # a full pipe of answers would keep workers from their next task
                    self._receive()
                self._tasks.send(tuple(task))
        except BrokenPipeError as error:  # the last worker has died, and nobody waited for it since
            raise self._death() from error

    def wait(self, ring: Ring, slot: int) -> Tensor:
        """Return the buffer [B, S, S, 3] once it is filled.

        Raises:
            MachineError: an image cannot be read any more, or a worker has died.
        """
        for task in ring.due.pop(slot, ()):
            with torch.random.fork_rng(devices=[]), as_machine_errors(), image_errors():
                ring.fill(task)
        while ring.missing[slot]:
            self._receive()
        return ring.pixels[slot]

    def close(self) -> None:
        """End the processes, and let go of the buffers."""
        if self._finalizer is not None:
            self._finalizer()
        self._processes = []
        for ring in self._rings:
            ring.missing = [0] * ring.num_slots
            ring.unpin()

    def _receive(self) -> None:
        assert self._results is not None
        ready = wait([self._results, *(process.sentinel for process in self._processes)])
        if self._results not in ready:
            raise self._death()
        try:
            number, slot, count, fault, bug = self._results.recv()
        except (EOFError, OSError) as error:  # the last worker has died
            raise self._death() from error
        self._rings[number].missing[slot] -= count
        if fault:
            raise MachineError(fault)
        if bug:
            raise RuntimeError(f"a process that decodes images met an error: {bug}")

    def _death(self) -> MachineError:
        """Say how a worker ended, and end the others."""
        ended = wait([process.sentinel for process in self._processes], timeout=0)
        for process in self._processes:
            if process.sentinel in ended:  # its pipe closes a moment before the system tells its exit code
                process.join(timeout=5)
        codes = [process.exitcode for process in self._processes if process.exitcode is not None]
        self.close()
        problem = f"a process that decodes images {how_it_ended(codes[0] if codes else 0)}."
        hint = "take fewer with --workers, or lower data.batch_size, where memory is short"
        if -signal.SIGKILL in codes:
            problem += " The system does that when memory is short."
        if -signal.SIGBUS in codes:
            problem += " The system does that when a file that is read was cut short, or its disk fails."
            hint = "see that the disk is sound"
        return MachineError(MachineFault(problem=problem, hint=f"{hint}; {GOES_ON}"))

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        task_reader, self._tasks = context.Pipe(duplex=False)
        self._results, result_writer = context.Pipe(duplex=False)
        ours = self._tasks, self._results
        try:
            with _lock_file() as take, _lock_file() as answer, warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads: it has none
                arguments = (self._rings, task_reader, result_writer, (take, answer), ours, os.getpid())
                for _ in range(self.num_workers):
                    process = context.Process(target=_work, args=arguments, daemon=True, name="kdctl-images")
                    process.start()
                    self._processes.append(process)
        except OSError as error:
            _end(self._processes, ours)
            self._processes = []
            problem = f"the system starts no process to decode images ({error.strerror})."
            hint = f"take fewer with --workers, or raise the limit of processes or memory; {GOES_ON}"
            raise MachineError(MachineFault(problem=problem, hint=hint)) from error
        task_reader.close()
        result_writer.close()
        # Before multiprocessing ends its daemons with SIGTERM, which workers ignore.
        self._finalizer = multiprocessing.util.Finalize(
            self, _end, args=(list(self._processes), ours), exitpriority=100
        )


def _lock_file() -> IO[bytes]:
    """Return what `_alone` locks; a lock of multiprocessing would lie in /dev/shm, which may be full."""
    if hasattr(os, "memfd_create"):  # Linux
        return os.fdopen(os.memfd_create("kdctl-images"), "wb")
    return tempfile.TemporaryFile()


@contextlib.contextmanager
def _alone(lock: IO[bytes]) -> Generator[None]:
    """Let one worker at a time in; one that is killed meanwhile is out."""
    os.lockf(lock.fileno(), os.F_LOCK, 0)
    try:
        yield
    finally:
        os.lockf(lock.fileno(), os.F_ULOCK, 0)


def _end(processes: Sequence[BaseProcess], connections: Sequence[Connection]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for connection in connections:
        connection.close()


def _work(
    rings: Sequence[Ring],
    tasks: Connection,
    results: Connection,
    locks: tuple[IO[bytes], IO[bytes]],
    not_ours: Sequence[Connection],
    parent: int,
) -> None:
    """Fill buffers until the training process is gone."""
    # Ctrl-C and SIGTERM are for the training process, which needs its batches until it has saved its state.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)  # the threads of the pool were not forked with it
    for connection in not_ours:
        connection.close()
    take, answer = locks
    while os.getppid() == parent:
        with _alone(take):
            if not tasks.poll(PARENT_CHECK_SECONDS):
                continue
            try:
                task = Task(*tasks.recv())
            except EOFError:
                return
        fault, bug = None, ""
        try:
            with as_machine_errors(), image_errors():
                rings[task.ring].fill(task)
        except MachineError as error:
            fault = error.fault
        except ANY_FAILURE:  # a plug-in may raise anything; the training process tells it
            bug = traceback.format_exc()
        with _alone(answer):
            results.send((task.ring, task.slot, task.last - task.first, fault, bug))


@contextlib.contextmanager
def image_errors() -> Generator[None]:
    """Turn an image that cannot be read into a fault of the machine: it could be read when it was listed."""
    try:
        yield
    except UnreadableImageError as error:
        raise MachineError(_unreadable(str(error))) from error
    except OSError as error:
        if fault_behind(error):  # of the disk, not of this file
            raise
        raise MachineError(_unreadable(f"{error.filename}: {error.strerror}")) from error


def _unreadable(problem: str) -> MachineFault:
    return MachineFault(
        problem=f"an image cannot be used that was good when the data were listed: {problem.rstrip('.')}.",
        hint=f"bring the file back as it was; {GOES_ON}",
    )
