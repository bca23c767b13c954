"""A command that runs on several devices at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from kdctl.execution.executor import InProcessConfig


def maybe_follow(num_devices: int, device: str) -> int:
    """Return on how many devices to train: as torchrun says, if it started us.

    Does not come back where torchrun started this process to follow another.
    """
    from kdctl.engine.ranks import WORLD_SIZE, is_follower

    if is_follower(os.environ):
        from kdctl.execution.distributed import follow

        raise typer.Exit(follow(device))
    return int(os.environ.get(WORLD_SIZE, num_devices))


@contextlib.contextmanager
def executor_on(num_devices: int, device: str) -> Generator[InProcessConfig | None]:
    """Return what trains on so many devices; None for one."""
    if num_devices == 1:
        yield None
        return
    from kdctl.execution.distributed import processes
    from kdctl.execution.executor import InProcessConfig

    with processes(num_devices, device) as ranks:
        yield InProcessConfig(ranks=ranks)
