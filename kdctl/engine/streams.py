"""Streams of work on a device, and CUDA graphs of work that a stream can replay."""

from __future__ import annotations

import contextlib
import gc
import warnings
import weakref
from collections.abc import Callable, Generator
from typing import ClassVar, Protocol

import torch

Work = Callable[[], None]

MAX_STREAMS = 16
"""More streams bring nothing; torch itself hands out the same 32 in turn."""


class Stream(Protocol):
    """A queue of work on the device. Work on different streams may overlap."""

    def run(self, work: Work) -> None:
        """Queue work: a record, or plain code."""
        ...

    def record(self, work: Work, *, warm_up: Work, randomness: torch.Generator | None = None) -> Work:
        """Return a record of `work`, which reads and writes the same memory each time it is run.

        Args:
            work: what to record.
            warm_up: does the same for real a few times before it is recorded, and leaves no trace.
            randomness: the generator that `work` draws from; its caller seeds it before every run.

        Raises:
            RuntimeError: the work cannot be recorded; it reads something back, for example.
        """
        ...

    def wait_for(self, other: Stream) -> None:
        """Let what is queued here from now on wait for what is queued there by now."""
        ...


class Streams(Protocol):
    """The streams of a device."""

    def open(self) -> Stream:
        """Return a stream: one of its own, while there are some left."""
        ...

    def current(self) -> Stream:
        """Return the current stream, which code outside of this package uses."""
        ...


class CudaStream:
    """A CUDA stream; its records are CUDA graphs that share a pool of memory.

    In a shared pool a graph may overwrite what graphs that were captured after it have left there. That does
    no harm here: the graphs of a stream replay one after the other, and what one of them leaves in the pool
    is read before any graph that was captured earlier replays again.
    """

    failure: ClassVar[str] = ""
    """Why CUDA could not capture something in this process; torch 2.11 might crash at the next capture."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """Queue on `stream`."""
        self.stream = stream
        self._done = torch.cuda.Event()
        self._pool = torch.cuda.graph_pool_handle()
        self._records: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        """The graphs that somebody still holds."""

    def run(self, work: Work) -> None:
        """Queue work on the stream."""
        with torch.cuda.stream(self.stream):
            work()

    def record(self, work: Work, *, warm_up: Work, randomness: torch.Generator | None = None) -> Work:
        """Capture `work` as a CUDA graph.

        The warm-up is on the same stream: autograd remembers where it first met a parameter.

        Raises:
            RuntimeError: CUDA cannot capture it.
        """
        if CudaStream.failure:
            raise RuntimeError(f"an earlier recording failed: {CudaStream.failure}")
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        self.run(warm_up)  # may read something back: libraries set themselves up in the first runs
        with _no_host_reads():
            self.run(warm_up)
        self.stream.synchronize()
        if not self._records:  # torch frees a pool with its last graph, and a freed pool takes no other graph
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        if randomness is not None:
            graph.register_generator_state(randomness)
        try:
            self._capture(graph, work)
        except torch.AcceleratorError as error:
            raise explained(error) from error
        self._records.add(graph)
        return graph.replay

    def wait_for(self, other: Stream) -> None:
        """Let the stream wait for an event on the other."""
        if not isinstance(other, CudaStream):
            raise ValueError("streams of different kinds cannot wait for each other")
        if other.stream != self.stream:
            other._done.record(other.stream)
            self.stream.wait_event(other._done)

    def _capture(self, graph: torch.cuda.CUDAGraph, work: Work) -> None:
        # What other threads do, such as write a checkpoint, must not break the capture.
        mode = "thread_local"
        capture = torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode=mode)
        # The outer context gives the caller its stream back, which a capture that fails may forget to do.
        with _no_garbage_collection(), torch.cuda.stream(self.stream), capture:
            work()


class CudaStreams:
    """Streams of one GPU."""

    def __init__(self, device: torch.device) -> None:
        """Open streams on `device`."""
        self._device = device
        self._streams: list[CudaStream] = []
        self._num_opened = 0

    def open(self) -> CudaStream:
        """Return a stream; after `MAX_STREAMS` they are given out again."""
        if len(self._streams) < MAX_STREAMS:
            self._streams.append(CudaStream(torch.cuda.Stream(self._device)))
        stream = self._streams[self._num_opened % MAX_STREAMS]
        self._num_opened += 1
        return stream

    def current(self) -> CudaStream:
        """Return the current stream."""
        return CudaStream(torch.cuda.current_stream(self._device))


def explained(error: torch.AcceleratorError) -> RuntimeError:
    """Return what to say of a capture that failed: a lack of memory, or what CUDA refused for good.

    A capture that broke fails once more where it ends, and that error says less than the one before it.
    """
    cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
    reason = str(cause).partition("\n")[0]
    if "out of memory" in reason or "out of memory" in str(error):  # torch's allocator, or CUDA for the graph
        return torch.OutOfMemoryError(reason)
    CudaStream.failure = reason
    return RuntimeError(reason)


@contextlib.contextmanager
def _no_host_reads() -> Generator[None]:
    """Raise RuntimeError where the host waits for the device inside: a capture would fail less clearly."""
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode("error")
    try:
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        # Torch warns that this mode does not find every wait; the capture itself fails at the others.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


@contextlib.contextmanager
def _no_garbage_collection() -> Generator[None]:
    """Collect nothing inside: freeing the graphs of an earlier gang would break a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
