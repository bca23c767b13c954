"""Ctrl-C, SIGTERM and kill -9 in the middle of a run, and the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kdctl.cli.signals import StopSignals
from kdctl.engine.checkpoint import read_model
from kdctl.errors import AbortedError

TRAIN = (
    "train --student resnet3 --dataset digits -o data.size=8 -o data.samples_per_class=8 --threads 1 "
    "-o schedule.epochs=30"
)

Start = Callable[[Sequence[str]], "subprocess.Popen[str]"]
Kdctl = Callable[..., Any]


def send_in_training(process: subprocess.Popen[str], number: int, *, after: str = "epoch 1/") -> None:
    """Send a signal once the first epoch was reported."""
    assert process.stderr is not None
    assert any(after in line for line in process.stderr)
    process.send_signal(number)


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code and the rest of stderr."""
    assert process.stderr is not None
    return process.wait(60), process.stderr.read()


def weights(runs: Path) -> dict[str, torch.Tensor]:
    (path,) = runs.glob("*/last.pt")
    return dict(read_model(path).weights)


@pytest.mark.extended
def test_a_run_that_was_stopped_or_killed_ends_as_if_it_had_not_been(
    start: Start, kdctl: Kdctl, tmp_path: Path
) -> None:
    """One test for all three, so that they can run beside each other."""
    numbers = {"int": signal.SIGINT, "kill": signal.SIGKILL}
    processes = {runs: start([*TRAIN.split(), "--runs", runs]) for runs in numbers}
    for runs, process in processes.items():
        send_in_training(process, numbers[runs])
    ends = {runs: end_of(process) for runs, process in processes.items()}
    assert ends["int"][0] == 130
    assert "the same command goes on from here" in ends["int"][1]
    assert "; its state is saved" in ends["int"][1]
    assert ends["kill"][0] == -signal.SIGKILL
    assert (tmp_path / "int").is_dir()
    assert not list((tmp_path / "int").glob("*/last.pt"))
    undisturbed = kdctl(f"{TRAIN} --runs undisturbed --quiet")
    for runs in numbers:
        again = kdctl(f"{TRAIN} --runs {runs} --quiet")
        assert (again.code, again.out) == (0, undisturbed.out)
        ours, theirs = weights(tmp_path / runs), weights(tmp_path / "undisturbed")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.extended
def test_a_terminated_sweep_saves_and_goes_on(
    kdctl: Kdctl, recipe: Callable[..., str], tmp_path: Path
) -> None:
    name = recipe("[method]\nname = 'ce'\n[grid]\noptimizer.learning_rate = [0.05, 0.1]\n")

    def terminate_once_training() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not list(tmp_path.glob("runs/*/epochs.jsonl")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate_once_training)
    thread.start()
    stopped = kdctl(f"sweep {name} --threads 1 -o schedule.epochs=30")
    thread.join()
    assert stopped.code == 143
    assert "tiny: 2 interrupted" in stopped.err
    assert "state saved; the same command goes on from here" in stopped.err
    finished = kdctl(f"sweep {name} --threads 1 -o schedule.epochs=30")
    assert finished.code == 0
    assert "tiny: 2 finished" in finished.err


def test_a_second_signal_does_not_wait_for_the_step() -> None:
    before = signal.getsignal(signal.SIGINT)  # programs in the background are started with it ignored
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(AbortedError) as end:
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # while runs are given back
    assert end.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_prints_nothing_until_someone_asks(capfd: pytest.CaptureFixture[str]) -> None:
    """What it interrupts may be a write to the very stream it would print to."""
    with StopSignals() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err == ""
        assert stop()
        assert stop()
    assert capfd.readouterr().err.count("stopping after this step") == 1
    assert stop.exit_code == 130


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no terminals that close")
def test_a_closed_terminal_is_a_wish_to_stop_unless_it_is_to_be_outlived() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.exit_code == 129
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_training_outlives_the_readers_of_its_messages_and_its_events(kdctl: Kdctl, tmp_path: Path) -> None:
    """As behind `2>&1 | head`, and where a terminal is gone and `nohup` was said."""
    short = TRAIN.replace("epochs=30", "epochs=3")
    for words in (short, f"{short} --json --seed 1"):
        read, write = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "kdctl", *words.split()],
            cwd=tmp_path,
            stdout=write if "--json" in words else subprocess.DEVNULL,
            stderr=write,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        os.close(write)
        os.close(read)
        assert process.wait(60) == 0
    rows = json.loads(kdctl("runs list --format json").out)["rows"]
    assert [row["state"] for row in rows] == ["finished", "finished"]


@pytest.mark.slow
def test_a_sweep_with_workers_saves_at_the_first_signal_and_aborts_at_the_second(
    start: Start, kdctl: Kdctl, recipe: Callable[..., str]
) -> None:
    name = recipe("[method]\nname = 'ce'\n[grid]\noptimizer.learning_rate = [0.05, 0.1]\n")
    words = ["sweep", name, "--slots", "2", "--threads", "1", "-o", "schedule.epochs=150"]
    process = start(words)
    send_in_training(process, signal.SIGTERM)
    code, errors = end_of(process)
    assert code == 143
    assert "stopping after this step" in errors
    assert "state saved; the same command goes on from here" in errors
    again = start(words)
    send_in_training(again, signal.SIGINT, after="epoch")
    again.send_signal(signal.SIGINT)
    assert end_of(again)[0] == 130
    finished = kdctl(f"sweep {name} --threads 1 -o schedule.epochs=150 --quiet")
    assert finished.code == 0
