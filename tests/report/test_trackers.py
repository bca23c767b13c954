"""Exports, read back with the trackers' own libraries."""

from __future__ import annotations

import dataclasses
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdctl.errors import KdctlError
from kdctl.records import EpochResult, SplitMetrics, StoredRun
from kdctl.report.tracker import TrackedRun, require_package, trackers
from kdctl.report.trackers.wandb import ends_with_exit, require_whole

NOON = 1769860800.0
"""2026-01-31T12:00:00 UTC, in seconds since 1970."""

FULL, FIRST, LAST = 1, 2, 4

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the trackers' own packages


def epoch(number: int, ended: str, test_loss: float = 1.5) -> EpochResult:
    return EpochResult(
        epoch=number,
        learning_rate=0.05,
        train_loss=2.0,
        train_terms={"task": 1.5, "logits": 0.5},
        train_top1=40.0,
        test=SplitMetrics(top1=50.0 + number, top5=80.0, loss=test_loss),
        val=None,
        seconds=30.0,
        images_per_second=1000.0,
        ended=ended,
    )


def log_records(log: bytes) -> Iterator[bytes]:
    """Read W&B's file: LevelDB's log format after a header of 7 bytes, in blocks of 32 KiB."""
    block, header, at, parts = 32_768, 7, 7, b""
    while at + header <= len(log):
        if block - at % block < header:
            at += block - at % block
            continue
        size, kind = struct.unpack_from("<HB", log, at + 4)
        part = log[at + header : at + header + size]
        at += header + size
        if kind == FULL:
            yield part
        else:
            parts = part if kind == FIRST else parts + part
        if kind == LAST:
            yield parts


@pytest.fixture
def tracked(make_run: Callable[..., StoredRun]) -> list[TrackedRun]:
    ends = ("2026-01-31T12:00:30.000+00:00", "2026-01-31T12:01:00.000+00:00")
    epochs = (epoch(1, ends[0]), epoch(2, ends[1], test_loss=float("nan")))
    return [
        TrackedRun(
            run=make_run(70.0, seed=seed),
            name=f"simkd/α, seed {seed}",
            group="a sweep",
            epochs=epochs,
            evaluations=(),
        )
        for seed in range(2)
    ]


def test_times_are_those_of_the_epochs(tracked: list[TrackedRun]) -> None:
    run = tracked[0]
    assert (run.started, run.ended) == (NOON, NOON + 60)
    assert [item.seconds for item in run.scalars() if item.name == "test/top1"] == [NOON + 30, NOON + 60]


def test_times_of_earlier_versions_follow_each_other_from_when_the_run_was_planned(
    tracked: list[TrackedRun],
) -> None:
    old = dataclasses.replace(tracked[0], epochs=(epoch(1, ""), epoch(2, "yesterday")))
    planned = 1767225600.0  # 2026-01-01
    assert old.ends == [planned + 30, planned + 60]


def test_a_value_that_is_no_number_is_left_out(tracked: list[TrackedRun]) -> None:
    assert [item.epoch for item in tracked[0].scalars() if item.name == "test/loss"] == [1]


def test_tensorboard_reads_scalars_at_their_times_and_settings(
    tracked: list[TrackedRun], tmp_path: Path
) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # the second export replaces the first
        trackers.get("tensorboard").item(tracked, tmp_path)
    folders = sorted(path.parent for path in tmp_path.glob("a sweep/*/events*"))
    assert [folder.name[:-9] for folder in folders] == ["simkd_α, seed 0", "simkd_α, seed 1"]
    log: Any = reading.EventAccumulator(str(folders[0]))
    log.Reload()
    assert [(item.wall_time, item.step, item.value) for item in log.Scalars("test/top1")] == [
        (NOON + 30, 1, 51.0),
        (NOON + 60, 2, 52.0),
    ]
    assert log.Scalars("train/terms/logits")[0].value == 0.5
    assert "_hparams_/session_start_info" in log.summary_metadata


@pytest.mark.extended
def test_mlflow_reads_runs_with_metrics_parameters_and_times(
    tracked: list[TrackedRun], tmp_path: Path
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    folder = tmp_path / "a%41?b"  # no URL as it stands
    for group in ("another sweep", "a sweep", "a sweep"):
        trackers.get("mlflow").item([dataclasses.replace(run, group=group) for run in tracked], folder)
    shutil.copy(folder / "mlflow.db", tmp_path)
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("a sweep")
    another = client.get_experiment_by_name("another sweep")
    assert list(client.search_runs([another.experiment_id])) == []
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["simkd/α, seed 0", "simkd/α, seed 1"]
    run = next(run for run in runs if run.info.run_name.endswith("0"))
    assert (run.info.start_time, run.info.end_time) == (NOON * 1000, (NOON + 60) * 1000)
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.learning_rate"] == "0.05"
    assert run.data.metrics["last/test/top1"] == 70.0
    history = client.get_metric_history(run.info.run_id, "test/top1")
    assert [(item.step, item.timestamp, item.value) for item in history] == [
        (1, (NOON + 30) * 1000, 51.0),
        (2, (NOON + 60) * 1000, 52.0),
    ]


@pytest.mark.extended
def test_losses_of_a_plug_in_may_have_names_that_mlflow_does_not_take(
    tracked: list[TrackedRun], tmp_path: Path
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    terms = {"KL[p]": 1.0, "KL(p)": 2.0, "KL_p_": 3.0, "../up": 4.0}
    run = dataclasses.replace(
        tracked[0], epochs=(dataclasses.replace(tracked[0].epochs[0], train_terms=terms),)
    )
    trackers.get("mlflow").item([run], tmp_path)
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (kept,) = client.search_runs([client.get_experiment_by_name("a sweep").experiment_id])
    told = {name: value for name, value in kept.data.metrics.items() if name.startswith("train/terms/")}
    assert told == {
        "train/terms/KL_p_": 3.0,
        "train/terms/KL_p__2": 1.0,
        "train/terms/KL_p__3": 2.0,
        "train/terms/_/up": 4.0,
    }


@pytest.mark.extended
def test_wandb_reads_an_offline_run_with_its_history(tracked: list[TrackedRun], tmp_path: Path) -> None:
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    trackers.get("wandb").item(tracked[:1], tmp_path)
    (file,) = tmp_path.glob(f"wandb/offline-run-*-{tracked[0].run.key}/*.wandb")
    rows: list[dict[str, str]] = []
    for content in log_records(file.read_bytes()):
        record: Any = records.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "run":
            assert (record.run.run_id, record.run.project) == (tracked[0].run.key, "a sweep")
        if record.WhichOneof("record_type") == "history":
            rows.append(
                {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            )
    assert {float(row["test/top1"]) for row in rows if "test/top1" in row} == {51.0, 52.0}
    content = file.read_bytes()
    assert ends_with_exit(content)
    assert not any(ends_with_exit(content[:size]) for size in range(0, len(content), 97))


def test_a_run_that_wandb_has_not_written_to_its_end_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (tmp_path / "run.wandb").write_bytes(b":W&B\xe1\xbe\0")
    with pytest.raises(OSError, match="has not written all of it"):
        require_whole(tmp_path / "run.wandb")


def test_a_package_that_is_missing_is_named_with_what_installs_it() -> None:
    with pytest.raises(KdctlError) as error:
        require_package("no_such_package", "tensorboard")
    assert "kdctl[tensorboard]" in error.value.hint


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("tensorboard", "tensorboard --logdir 'my logs'"),
        ("mlflow", "mlflow ui --backend-store-uri 'sqlite:///my logs/mlflow.db'"),
        ("wandb", "wandb sync 'my logs/wandb'/offline-run-*"),
    ],
)
@pytest.mark.extended
def test_an_export_names_the_command_that_shows_it(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    assert trackers.get(name).item([], Path("my logs")) == command


@pytest.mark.parametrize("name", trackers.names())
def test_nothing_is_written_of_no_runs_and_nothing_fails(name: str, tmp_path: Path) -> None:
    trackers.get(name).item([], tmp_path / "empty")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == []


def test_a_run_that_is_exported_among_others_has_another_name_and_is_there_once(
    tracked: list[TrackedRun], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    export = trackers.get("tensorboard").item
    export([dataclasses.replace(tracked[0], name="seed 0")], tmp_path)
    export(tracked, tmp_path)
    found = sorted(path.name for path in (tmp_path / "a sweep").iterdir())
    assert found == sorted(f"simkd_α, seed {run.run.seed} {run.run.key[:8]}" for run in tracked)


@pytest.mark.parametrize(("name", "most"), [("tensorboard", 300), ("mlflow", 100_000)])
@pytest.mark.extended
def test_a_full_disk_leaves_an_older_export_as_it_was(
    name: str, most: int, tracked: list[TrackedRun], tmp_path: Path, full_disk: Callable[[int], None]
) -> None:
    pytest.importorskip(name)
    export = trackers.get(name).item
    folder = tmp_path / "logs"
    export(tracked[:1], folder)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    full_disk(most)
    for place in (folder, tmp_path / "new" / "logs"):
        with pytest.raises(KdctlError, match=r"logs.* cannot be written|cannot write .*logs") as caught:
            export(tracked, place)
        assert "free disk space" in caught.value.hint
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
