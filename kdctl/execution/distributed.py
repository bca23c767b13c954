"""One run on several devices: rank 0 trains and writes, the other processes follow it.

    python -m kdctl.execution.distributed DEVICE PIPE

is such a follower; through that pipe it says that it is there. It has no database and writes nothing: rank 0
tells it which gangs to train, and each process takes its parts of every batch. torchrun starts all processes
itself; else rank 0 starts the others.
"""

# ruff: noqa: D102 - what the methods of `NoRecorder` do is said by their class

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch

from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.failure import Failure
from kdctl.assembly.progress import Silent
from kdctl.engine.ranks import LOCAL_RANK, RANK, WORLD_SIZE, Ranks, join, leave
from kdctl.errors import StoppedError, UsageError
from kdctl.execution.gang_run import GangTrainer
from kdctl.execution.messages import Order, WorkerSetup
from kdctl.machine_errors import GOES_ON, MachineError, MachineFault, how_it_ended
from kdctl.plugins import load_plugin_file
from kdctl.recipe.plan import RunPlan
from kdctl.records import Artifact, Environment, EpochResult, RunResult
from kdctl.store.json_files import from_json
from kdctl.text import plural

LOST = 1
"""Exit code of a follower that had to give up."""

LOCALHOST = "127.0.0.1"
_TOLD = ("MASTER_ADDR", "MASTER_PORT", WORLD_SIZE, RANK, LOCAL_RANK)
"""Variables of the environment that tell a process who it is, and where the others are."""

LEAVE_SECONDS = 30.0
"""How long a follower may take to end after the last gang."""

KILLED_SECONDS = 5.0
"""How long one that was killed may take to be gone."""


class NoRecorder:
    """Records nothing, for a process that follows another: its runs are always its own."""

    def opened(self, plan: RunPlan, environment: Environment, *, epoch: int) -> None: ...
    def epoch(self, key: str, result: EpochResult) -> None: ...
    def settled(self, key: str, result: RunResult, artifacts: Sequence[Artifact]) -> None: ...
    def interrupted(self, key: str, reason: str) -> None: ...
    def failed(self, key: str, failure: Failure) -> None: ...
    def renew(self, keys: Collection[str]) -> set[str]:
        """Return all keys."""
        return set(keys)


@contextmanager
def processes(num_devices: int, device: str) -> Generator[Ranks]:
    """Meet the followers of this process; start them, unless torchrun did. They end with the context.

    Raises:
        UsageError: there are not so many GPUs here.
        MachineError: they do not come, or one is gone.
    """
    started: list[_Follower] = []
    kind, before = device_type(device), {name: os.environ.get(name) for name in _TOLD}
    try:
        if WORLD_SIZE not in os.environ:
            _require_devices(num_devices, kind)
            started = _start_followers(num_devices, device)
            _await_followers(started)
        _use_own_device(kind)
        ranks = replace(join(kind), stop_others=lambda: _stop_followers(started))
        yield ranks
        ranks.share(None)
        leave()  # first: NCCL lets nobody go before all do
        for follower in started:
            with suppress(subprocess.TimeoutExpired):  # what was trained is safe
                follower.process.wait(LEAVE_SECONDS)
    finally:
        for follower in started:
            follower.process.kill()
            with suppress(subprocess.TimeoutExpired):  # it is stuck in the system, and ends some time
                follower.process.wait(KILLED_SECONDS)
        leave()
        for name, value in before.items():  # whoever asks next is not to take us for a process of torchrun
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def device_type(device: str) -> str:
    """Return 'cuda' or 'cpu' for the words of --device.

    Raises:
        UsageError: one GPU is named where several are meant.
    """
    if ":" in device:
        raise UsageError(
            f"--device {device} names one device, and several are asked for.", "use --device cuda."
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def follow(device: str, pipe: int | None = None) -> int:
    """Train what rank 0 says until it has no more; return the exit code.

    Args:
        device: the words of --device.
        pipe: where to say that this process is there; None: nobody waits for that.
    """
    stop = _Stop()
    kind = device_type(device)
    _use_own_device(kind)
    if pipe is not None:
        os.write(pipe, b"\n")
        os.close(pipe)
    try:
        ranks = join(kind)
        while (message := ranks.share()) is not None:
            setup, order = from_json(WorkerSetup, message[0]), from_json(Order, message[1])
            with suppress(StoppedError):  # rank 0 knows, and has no more
                _train(setup, order, ranks, stop, kind)
    except MachineError as error:
        sys.stderr.write(f"process {os.environ[RANK]}: {error.problem}\n")
        sys.stderr.flush()
        os._exit(LOST)  # without waiting for the others, who may be stuck
    leave()
    return 0


def _train(setup: WorkerSetup, order: Order, ranks: Ranks, stop: Callable[[], bool], kind: str) -> None:
    for path in setup.plugins:
        load_plugin_file(Path(path))
    context = replace(setup.context(), device=own_device(kind))
    catalog = full_catalog()
    trainer = GangTrainer(
        context=context, recorder=NoRecorder(), progress=Silent(), stop=stop, until=order.until, ranks=ranks
    )
    trainer.follow([run.read(catalog) for run in order.runs])


def own_device(kind: str) -> str:
    """Return the name of this process's device."""
    return f"cuda:{os.environ.get(LOCAL_RANK, '0')}" if kind == "cuda" else kind


def _use_own_device(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get(LOCAL_RANK, "0")))


def _require_devices(num_devices: int, kind: str) -> None:
    if kind == "cuda" and torch.cuda.device_count() < num_devices:
        raise UsageError(
            f"--devices {num_devices}: torch sees {plural(torch.cuda.device_count(), 'GPU')}.",
            "ask for fewer, or use torchrun on several nodes.",
        )


@dataclass(frozen=True, kw_only=True)
class _Follower:
    """A process that this one has started."""

    process: subprocess.Popen[bytes]
    pipe: int
    """Gives a byte once the process is there, or its end if it died before."""


def _start_followers(num_devices: int, device: str) -> list[_Follower]:
    """Start all processes but this one, and tell this one that it is rank 0, as torchrun would."""
    with socket.socket() as free:
        free.bind((LOCALHOST, 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": LOCALHOST, "MASTER_PORT": str(port), WORLD_SIZE: str(num_devices)}
    os.environ.update(shared | {RANK: "0", LOCAL_RANK: "0"})
    return [_start_follower(rank, device) for rank in range(1, num_devices)]


def _start_follower(rank: int, device: str) -> _Follower:
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "kdctl.execution.distributed", device, str(writer)],
            env={**os.environ, RANK: str(rank), LOCAL_RANK: str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(writer,),
        )
    finally:
        os.close(writer)  # it is the follower's alone: so its end is that of the pipe
    return _Follower(process=process, pipe=reader)


def _stop_followers(followers: Sequence[_Follower]) -> None:
    for follower in followers:
        follower.process.send_signal(signal.SIGTERM)


def _await_followers(followers: Sequence[_Follower]) -> None:
    """Wait until all are there: torch would wait for one that has died, too, until its patience ends.

    Raises:
        MachineError: one has died.
    """
    are_there: list[bool] = []
    for follower in followers:
        with os.fdopen(follower.pipe, "rb", buffering=0) as pipe:
            are_there.append(bool(pipe.read(1)))
    for rank, (follower, is_there) in enumerate(zip(followers, are_there, strict=True), 1):
        if not is_there:
            how = how_it_ended(follower.process.wait(LEAVE_SECONDS))
            problem = f"process {rank} of {len(followers) + 1} {how} before the training began."
            raise MachineError(MachineFault(problem=problem, hint=f"see what it said; {GOES_ON}"))


class _Stop:
    """Whether SIGINT, SIGTERM, SIGUSR2 (a job's time is nearly over) or SIGHUP (a closed terminal) came."""

    def __init__(self) -> None:
        self._heard = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # by `nohup` it is
            signal.signal(signal.SIGHUP, self._on_signal)

    def __call__(self) -> bool:
        return self._heard

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._heard = True


if __name__ == "__main__":
    logging.getLogger("kdctl").addHandler(logging.NullHandler())
    sys.exit(follow(sys.argv[1], int(sys.argv[2])))
