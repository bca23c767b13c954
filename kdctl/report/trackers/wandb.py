"""Weights & Biases, without a network: `wandb sync` uploads what is written."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import shlex
import shutil
import struct
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdctl.records import RunState
from kdctl.report.tracker import TrackedRun, require_package, staged, trackers


@trackers.register("wandb", label="Weights & Biases", aliases=("weights_and_biases",))
def export_to_wandb(runs: Sequence[TrackedRun], folder: Path) -> str:
    """Write `folder/wandb/offline-run-...` for `wandb sync folder/wandb/offline-run-*`; needs no account.

    A project is a sweep, a group the replicates of a configuration. The run key is W&B's run id, so that an
    upload again goes on with the same run.
    """
    require_package("wandb", "wandb")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing is sent anywhere
    with staged(folder) as stage:
        with _without_reports_of_logging():
            for run in runs:
                _write(run, stage)
            _close()
        for path in sorted(stage.glob("wandb/offline-run-*/*.wandb")):
            require_whole(path)
        for run in runs:
            for earlier in (folder / "wandb").glob(f"offline-run-*-{run.run.key}"):
                shutil.rmtree(earlier)
    return f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*"


def _write(run: TrackedRun, folder: Path) -> None:
    import wandb  # noqa: PLC0415 - optional, slow to import

    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        x_disable_stats=True,
        x_disable_meta=True,
        save_code=False,
    )
    made: Any = wandb.init(
        mode="offline",
        dir=str(folder),
        project=run.group,
        group=run.run.configuration,
        name=run.name,
        id=run.run.key,
        config={**run.settings, "kdctl_state": run.run.state.value, "kdctl_created": run.run.created},
        settings=settings,
        reinit="create_new",
    )
    for epoch, items in itertools.groupby(run.scalars(), key=lambda item: item.epoch):
        listed = list(items)
        made.log({item.name: item.value for item in listed} | {"_timestamp": listed[0].seconds}, step=epoch)
    made.summary.update(run.results())
    made.finish(exit_code=0 if run.run.state is RunState.FINISHED else 1)


def _close() -> None:
    """End W&B's own process: on a busy machine it still writes when the last run says it is finished."""
    import wandb  # noqa: PLC0415 - optional, slow to import

    wandb.teardown()


@contextmanager
def _without_reports_of_logging() -> Generator[None]:
    """Let handlers of logging fail in silence: on a full disk each line of W&B's log is a traceback."""
    before = logging.raiseExceptions
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logging.raiseExceptions = before


def require_whole(path: Path) -> None:
    """Make sure that a run was written to its end: W&B's process does not say so when the disk is full.

    Raises:
        OSError: it was not.
    """
    if not ends_with_exit(path.read_bytes()):
        code = errno.ENOSPC if shutil.disk_usage(path).free < _FULL else errno.EIO
        raise OSError(code, f"W&B has not written all of it: {os.strerror(code)}", str(path))


_FULL = 2**20
"""Free bytes of a disk that is as good as full."""

_HEADER = struct.Struct("<IHB")
"""Before each part of a record: checksum, bytes, and whether it is all, the first, the middle or the last."""

_BLOCK = 32 * 1024
"""Bytes in which a header is not parted. The format is that of LevelDB's log, behind seven bytes of W&B's."""

_WHOLE, _FIRST, _LAST = 1, 2, 4


def ends_with_exit(content: bytes) -> bool:
    """Return whether a run's file is whole: the last record tells how the run ended."""
    from wandb.proto import wandb_internal_pb2  # noqa: PLC0415 - optional, slow to import

    place, begun, last = _HEADER.size, b"", b""
    while place < len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER.size:
            place += left
            continue
        _, size, kind = _HEADER.unpack(content[place : place + _HEADER.size].ljust(_HEADER.size, b"\0"))
        place += _HEADER.size
        part = content[place : place + size]
        place += size
        begun = part if kind in (_WHOLE, _FIRST) else begun + part
        last = begun if kind in (_WHOLE, _LAST) and len(part) == size else b""
    records: Any = wandb_internal_pb2  # made when it is imported: no type checker knows what is in it
    record = records.Record()
    record.ParseFromString(last)
    return record.WhichOneof("record_type") == "exit"
