"""The processes that train one run together, each on a device of its own.

Plain torch.distributed: NCCL between GPUs, gloo between CPUs. Rank 0 speaks to the world: it alone writes.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from kdctl.errors import StoppedError, UsageError
from kdctl.machine_errors import GOES_ON, MachineError, MachineFault

RANK, WORLD_SIZE, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
"""Variables of the environment by which torchrun tells a process who it is."""

_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""A variable that torchrun sets and nothing else does."""

_MEETING_PLACE = ("MASTER_ADDR", "MASTER_PORT")
"""Variables that tell where the processes meet."""

PATIENCE = timedelta(minutes=30)
"""How long the others wait for a process before they give up; an evaluation or a plan takes less."""

STOPPED = "it was told to stop"
"""Of a process whose images were still made ready; in training, all stop at the same step."""

_SIGNS_OF_LOSS = ("connection", "peer", "gloo", "nccl", "timed out", "timeout", "broken pipe", "aborted")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train a run together."""

    rank: int
    count: int
    stop_others: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    """Tells the processes that this one has started to stop; torchrun and SLURM tell theirs themselves."""

    @property
    def leads(self) -> bool:
        """Whether this process writes, and tells the others what to do."""
        return self.rank == 0

    def share(self, message: Any = None) -> Any:
        """Return what rank 0 has to say; the others' `message` does not matter."""
        box = [message]
        with watching(self):
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether one process at least has raised it: the same answer for all."""
        votes = torch.tensor([int(flag) for flag in flags])
        with watching(self):
            distributed.all_reduce(votes)
        return [bool(vote) for vote in votes.tolist()]

    def require_all_well(self, problem: str) -> None:
        """Raise in every process if one has a problem, or was told to stop; an empty text is neither.

        Raises:
            MachineError: one has a problem; it says which.
            StoppedError: one was told to stop, as `STOPPED` says.
        """
        problems: list[str] = [""] * self.count
        with watching(self):
            distributed.all_gather_object(problems, problem)
        for rank, told in enumerate(problems):
            if told and told != STOPPED:
                fault = MachineFault(
                    problem=f"process {rank} of {self.count} cannot go on: {told}", hint=GOES_ON
                )
                raise MachineError(fault)
        if STOPPED in problems:
            raise StoppedError

    def stop_together(self) -> None:
        """Raise in every process, once each has come to `require_all_well`: this one was told to stop.

        Raises:
            MachineError: one of them has a problem.
            StoppedError: none has.
        """
        self.stop_others()
        self.require_all_well(STOPPED)

    def require_same(self, what: str, own: Any) -> None:
        """Raise in every process if one holds something else than rank 0: another saved state, say.

        So it may be where nodes do not see each other's files at once, or where one read a damaged file.

        Args:
            what: 'it found runs saved at', before the one and the other.
            own: what this process holds.

        Raises:
            MachineError: one does; it says which.
        """
        first = self.share(own)
        self.require_all_well("" if own == first else f"{what} {own}, process 0 at {first}")

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        with watching(self):
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def gather(self, pieces: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the tensors of all processes, by rank; they may differ in number and size."""
        everything: list[Any] = [None] * self.count
        with watching(self):
            distributed.all_gather_object(everything, [piece.cpu() for piece in pieces])
        return everything


def ranks_told(environment: Mapping[str, str]) -> Ranks:
    """Return who this process is, as torchrun tells; alone, if it did not start it.

    Raises:
        UsageError: the variables are not as torchrun sets them: left over from something else.
    """
    if WORLD_SIZE not in environment:
        return Ranks(rank=0, count=1)
    told = {name: environment.get(name, "0") for name in (WORLD_SIZE, RANK, LOCAL_RANK)}
    are_numbers = all(re.fullmatch("[0-9]{1,6}", value) for value in told.values())
    count, rank = (int(told[WORLD_SIZE]), int(told[RANK])) if are_numbers else (0, 0)
    if not rank < count or (count > 1 and not all(map(environment.get, _MEETING_PLACE))):
        names = " ".join(name for name in (*told, *_MEETING_PLACE) if name in environment)
        raise UsageError(
            f"the environment has {names}, but not as torchrun sets them for the processes of a run.",
            f"unset them (`unset {names}`), or start kdctl by torchrun.",
        )
    return Ranks(rank=rank, count=count)


def is_follower(environment: Mapping[str, str]) -> bool:
    """Whether torchrun started this process to follow another.

    Raises:
        UsageError: see `ranks_told`.
    """
    return ranks_told(environment).rank > 0


def require_alone(environment: Mapping[str, str]) -> None:
    """Refuse to be one of several processes that torchrun started, each of which would train everything.

    Raises:
        UsageError: this is one of them.
    """
    if _TORCHRUN in environment and (count := ranks_told(environment).count) > 1:
        raise UsageError(
            f"torchrun started {count} of this command, and each would train all of the runs.",
            "start it once: it takes several devices by --slots. torchrun is for kdctl train.",
        )


def join(device_type: str) -> Ranks:
    """Meet the other processes, as the environment tells.

    Raises:
        MachineError: they do not come.
    """
    ranks = ranks_told(os.environ)
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    with watching(ranks):
        distributed.init_process_group(backend, timeout=PATIENCE)
    return ranks


def leave() -> None:
    """Part from the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextlib.contextmanager
def watching(ranks: Ranks) -> Generator[None]:
    """Say in plain words that another process is gone.

    Raises:
        MachineError: it is.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(sign in text.lower() for sign in _SIGNS_OF_LOSS):
            raise
        fault = MachineFault(
            problem=f"another of the {ranks.count} processes that train this run is gone ({_said(text)}).",
            hint=f"see what it said, or whether the system killed it for its memory; {GOES_ON}",
        )
        raise MachineError(fault) from error


def _said(text: str) -> str:
    """Return the first sentence of what torch says, without the line of its code and its advice."""
    return re.sub(r"^\[[^]]*\] *", "", text.splitlines()[0]).partition(". ")[0].rstrip(".")
