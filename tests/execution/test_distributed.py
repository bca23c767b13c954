"""One run in two processes over gloo: for real, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdctl.execution import distributed
from kdctl.execution.distributed import processes
from kdctl.machine_errors import MachineError

TOLERANCE = 1e-5
"""Of losses after two epochs: two devices sum the same gradients as one, but in another order.

At a low rate: at the usual one, rounding grows within an epoch to hundredths of the loss on some processors.
"""

PAIR = ("--student", "resnet8", "--teacher", "resnet14", "--method", "kd", "--dataset", "digits")
SHORT = ("-o", "schedule.name=cosine", "-o", "schedule.epochs=2", "-o", "teacher.schedule.epochs=1")
PLAIN = ("-o", "engine.teacher_precision=fp32", "-o", "engine.student_precision=fp32")
WORDS = (
    *(*PAIR, *SHORT, *PLAIN, "--lr", "0.001"),
    *("-o", "engine.batch_parts=2", "--device", "cpu", "--threads", "1"),
)
NUM_EPOCHS = 20
LONG = ("-o", f"schedule.epochs={NUM_EPOCHS}", "-o", "data.samples_per_class=20")


def start(words: Sequence[str], launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    interpreter = [sys.executable, "-m", *launcher, *(("-m",) if launcher else ()), "kdctl"]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        [*interpreter, "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    return text


def epochs(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the epochs of each run, by its key."""
    return {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in runs.glob("*/epochs.jsonl")
    }


def followers(process: subprocess.Popen[str]) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    return [
        int(line.split()[0]) for line in listed.stdout.splitlines() if "kdctl.execution.distributed" in line
    ]


def wait_for_epochs(runs: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if any(len(told) >= count for told in epochs(runs).values()):
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} epochs in {runs}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What one process makes of it."""
    runs = tmp_path_factory.mktemp("alone")
    finish(start([*WORDS, "--runs", str(runs)]))
    return epochs(runs)


def assert_alike(found: dict[str, list[dict[str, Any]]], expected: dict[str, list[dict[str, Any]]]) -> None:
    assert found.keys() == expected.keys()
    assert found
    for key, told in found.items():
        for ours, theirs in zip(told, expected[key], strict=True):
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=TOLERANCE)
            assert ours["test"]["loss"] == pytest.approx(theirs["test"]["loss"], rel=10 * TOLERANCE)
            assert ours["train_top1"] == pytest.approx(theirs["train_top1"], abs=0.1)


def test_what_a_process_is_told_of_the_others_is_forgotten_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    before = dict(os.environ)
    for _ in range(2):  # the second time nobody is taken for torchrun
        with processes(1, "cpu") as ranks:
            assert (ranks.rank, ranks.count) == (0, 1)
            assert os.environ["WORLD_SIZE"] == "1"
        assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("program", "how"), [("exit 3", "ended with exit code 3"), ("kill -9 $$", "was killed by SIGKILL")]
)
def test_a_process_that_dies_before_it_meets_the_others_is_not_waited_for(
    program: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{program}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = dict(os.environ)
    told = f"process 1 of 3 {how} before the training began"
    with pytest.raises(MachineError, match=told), processes(3, "cpu"):
        raise AssertionError("they have not met")
    assert dict(os.environ) == before


class Lingering:
    """A follower that does not end by itself; it notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def wait(self, seconds: float) -> int:
        self.heard.append("wait in a group" if torch.distributed.is_initialized() else "wait")
        raise subprocess.TimeoutExpired("follower", seconds)

    def kill(self) -> None:
        self.heard.append("kill")


def test_a_process_that_does_not_end_after_the_training_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the first leaves before it waits for others: NCCL lets nobody go before all do."""
    start_none, lingering = distributed._start_followers, Lingering()
    reader, writer = os.pipe()
    os.write(writer, b"!")
    os.close(writer)

    def start_followers(_num_devices: int, device: str) -> list[Any]:
        assert start_none(1, device) == []
        return [distributed._Follower(process=lingering, pipe=reader)]  # type: ignore[arg-type]

    monkeypatch.setattr(distributed, "_start_followers", start_followers)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes(2, "cpu") as ranks:
        assert ranks.leads
    assert lingering.heard == ["wait", "kill", "wait"]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(
    alone: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    text = finish(start([*WORDS, "--devices", "2", "--runs", str(tmp_path)]))
    assert "Warning" not in text
    assert_alike(epochs(tmp_path), alone)
    environments = [json.loads(path.read_text()) for path in tmp_path.glob("*/environment.json")]
    assert {one["execution"] for one in environments} == {"eager, batches in 2 parts on 2 devices"}


@pytest.mark.slow
def test_torchrun_starts_both(alone: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    finish(start([*WORDS, "--runs", str(tmp_path)], launcher))
    assert_alike(epochs(tmp_path), alone)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_lost_a_process_or_was_told_to_stop_goes_on(signal_number: int, tmp_path: Path) -> None:
    if signal.getsignal(signal_number) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup")
    words = [*WORDS, *LONG, "--devices", "2", "--runs", str(tmp_path / "ended")]
    process = start(words)
    wait_for_epochs(tmp_path / "ended", 2)
    if signal_number == signal.SIGKILL:
        (follower,) = followers(process)
        os.kill(follower, signal.SIGKILL)
    elif signal_number == signal.SIGHUP:  # which all processes get whose terminal is closed
        os.killpg(process.pid, signal.SIGHUP)
    else:
        process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=200)
    if signal_number == signal.SIGKILL:
        assert process.returncode == 1, text
        assert "another of the 2 processes that train this run is gone" in text
        assert "the same command goes on" in text
    else:
        assert process.returncode == 128 + signal_number, text
        assert "state saved" in text
    assert followers(process) == []
    before = max(len(told) for told in epochs(tmp_path / "ended").values())
    finish(start(words))
    told = max(epochs(tmp_path / "ended").values(), key=len)
    assert [line["epoch"] for line in told] == list(range(1, NUM_EPOCHS + 1))
    assert before >= 2


SCALED = "cache/**/scaled-*/*.bin"


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders whose images take some seconds to be scaled, in several parts."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("cat", "dog")):
        photo = folder / f"{name}.jpg"
        Image.effect_noise((300, 300), 40.0 + 20.0 * number).convert("RGB").save(photo)
        for split, count in (("train", 1600), ("test", 4)):
            (folder / split / name).mkdir(parents=True)
            for place in range(count):
                os.link(photo, folder / split / name / f"{place}.jpg")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all", "first", "second"])
def test_processes_that_are_told_to_stop_do_not_scale_all_images_first(
    whom: str, large_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [
        *("--student", "resnet3", "--dataset", "streamedfolder", "-o", f"data.path={large_photos}"),
        *("-o", "data.size=16", "-o", "data.resize=18", "-o", "data.stored_side=250", *PLAIN),
        *("-o", "schedule.epochs=1", "-o", "engine.batch_parts=2", "--device", "cpu", "--threads", "1"),
        *("--devices", "2", "--workers", "0", "--runs", str(tmp_path / "runs")),
    ]
    process = start(words)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob(SCALED)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (follower,) = followers(process)
    if whom == "all":  # as Ctrl-C does
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(process.pid if whom == "first" else follower, signal.SIGTERM)
    text, _ = process.communicate(timeout=200)
    if whom == "second":
        assert process.returncode == 1, text
        assert "was told to stop" in text
    else:
        assert process.returncode == 128 + (signal.SIGINT if whom == "all" else signal.SIGTERM), text
        assert "the same command goes on" in text
    assert followers(process) == []
    if whom != "second":  # rank 0 hears of it only when it meets the others
        assert len(list(tmp_path.glob(SCALED))) < 4
    assert not epochs(tmp_path / "runs")
    if whom == "all":
        finish(start(words))
        (told,) = epochs(tmp_path / "runs").values()
        assert len(told) == 1


@pytest.mark.slow
def test_parts_that_devices_cannot_share_equally_are_told(tmp_path: Path) -> None:
    process = start([*WORDS[:-4], "-o", "engine.batch_parts=3", "-o", "data.batch_size=66", "--devices", "2",
                     "--device", "cpu", "--runs", str(tmp_path)])  # fmt: skip
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "engine.batch_parts = 3 cannot be taken by 2 devices" in text
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_synchronised_batch_norms_give_the_numbers_of_whole_batches(tmp_path: Path) -> None:
    """At a low rate, as above."""
    words = ["--student", "resnet14", "--method", "ce", "--dataset", "digits", *SHORT[:2], *PLAIN[2:]]
    words += ["-o", "schedule.epochs=1", "--lr", "0.001", "--device", "cpu", "--threads", "1"]
    shared = ["-o", "engine.batch_parts=2", "-o", "engine.sync_batch_norm=true", "--devices", "2"]
    finish(start([*words, "--runs", str(tmp_path / "whole")]))
    finish(start([*words, *shared, "--runs", str(tmp_path / "shared")]))
    ((whole,),) = epochs(tmp_path / "whole").values()
    ((found,),) = epochs(tmp_path / "shared").values()
    assert found["train_loss"] == pytest.approx(whole["train_loss"], rel=TOLERANCE)
    assert found["test"]["loss"] == pytest.approx(whole["test"]["loss"], rel=10 * TOLERANCE)


@pytest.mark.slow
def test_synchronised_batch_norms_need_a_device_for_each_part(tmp_path: Path) -> None:
    words = [*WORDS, "-o", "engine.sync_batch_norm=true", "--runs", str(tmp_path)]
    text, _ = (process := start(words)).communicate(timeout=200)
    assert process.returncode == 2
    assert "engine.sync_batch_norm needs a device for each of the 2 parts of a batch" in text
    assert "--devices 2" in text
