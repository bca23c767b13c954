"""TensorBoard: one event file a run."""

from __future__ import annotations

import importlib
import io
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdctl.records import RunState
from kdctl.report.tracker import TrackedRun, require_package, staged, trackers

EVENTS = "events.out.tfevents.kdctl"
_KEY_DIGITS = 8
"""Of a run's key, at the end of its folder's name."""
_LONGEST = 150
"""Letters of a folder's name."""


@trackers.register("tensorboard", label="TensorBoard")
def export_to_tensorboard(runs: Sequence[TrackedRun], folder: Path) -> str:
    """Write `folder/<sweep>/<run>/events...` for `tensorboard --logdir folder`: scalars and settings."""
    require_package("tensorboard", "tensorboard")
    with staged(folder) as stage:
        for run in runs:
            path = stage / _safe(run.group) / f"{_safe(run.name)} {run.run.key[:_KEY_DIGITS]}" / EVENTS
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_events(run))
        for run in runs:  # it had another name when it was exported among other runs
            for earlier in folder.glob(f"*/* {run.run.key[:_KEY_DIGITS]}/{EVENTS}"):
                shutil.rmtree(earlier.parent)
    return shlex.join(["tensorboard", "--logdir", str(folder)])


def _safe(name: str) -> str:
    """Return a name that every file system takes as one folder."""
    return re.sub(r"[^\w .,=+-]", "_", name)[:_LONGEST].strip(". ") or "_"


def _events(run: TrackedRun) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415 - optional, slow

    event, summary = _messages("compat.proto.event_pb2"), _messages("compat.proto.summary_pb2")
    buffer = io.BytesIO()
    writer: Any = RecordWriter(buffer)
    writer.write(event.Event(wall_time=run.started, file_version="brain.Event:2").SerializeToString())
    writer.write(event.Event(wall_time=run.started, summary=_hyper_parameters(run)).SerializeToString())
    for item in run.scalars():
        values = summary.Summary(value=[summary.Summary.Value(tag=item.name, simple_value=item.value)])
        happened = event.Event(wall_time=item.seconds, step=item.epoch, summary=values)
        writer.write(happened.SerializeToString())
    if run.ended is not None:
        writer.write(event.Event(wall_time=run.ended, summary=_ending(run)).SerializeToString())
    return buffer.getvalue()


def _hyper_parameters(run: TrackedRun) -> Any:
    from tensorboard.plugins.hparams import summary_v2  # noqa: PLC0415

    return summary_v2.hparams_pb(run.settings, trial_id=run.run.key, start_time_secs=run.started)


def _ending(run: TrackedRun) -> Any:
    from tensorboard.plugins.hparams import metadata  # noqa: PLC0415

    parameters, summary = _messages("plugins.hparams.plugin_data_pb2"), _messages("compat.proto.summary_pb2")
    codes = _messages("plugins.hparams.api_pb2").Status
    status = codes.STATUS_SUCCESS if run.run.state is RunState.FINISHED else codes.STATUS_FAILURE
    ending = parameters.SessionEndInfo(status=status, end_time_secs=run.ended)
    content = parameters.HParamsPluginData(session_end_info=ending)
    value = summary.Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(content)
    )
    return summary.Summary(value=[value])


def _messages(module: str) -> Any:
    """Return the message classes that protobuf makes while it is imported; no type checker sees them."""
    return importlib.import_module(f"tensorboard.{module}")
