"""What a store of many runs costs: its size, and the verbs that read it.

    python benchmarks/large_store.py FOLDER --runs 10000 --epochs 240

Makes FOLDER/recipe.toml, whose runs are all finished, with their folders under FOLDER/runs (made once, and
used again for as many runs), then prints seconds of CPU, seconds of wall time and the largest memory of each
verb, each in a process of its own: `kdctl sync` into a new database, sync again, `report`, `list runs`,
`sweep --dry-run`, a sweep that finds everything done and tells a new study, one that finds nothing to tell
either, `db check`.
The numbers in the epochs are drawn, as hard to pack as real ones; every line ends with its checksum. On a
machine that does something else, look at the seconds of CPU.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kdctl
from kdctl import workflows
from kdctl.assembly.environment import git_commit
from kdctl.records import (
    Environment,
    EpochResult,
    ModelFacts,
    RunResult,
    RunState,
    Selected,
    SplitMetrics,
)
from kdctl.store.epoch_lines import sha256_of
from kdctl.store.folder_records import Ending
from kdctl.store.json_files import line_of

SEEDS = 5

_MEASURE = """
import os, sys, time
began = time.perf_counter()
process = os.fork()
if process == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.executable, [sys.executable, "-m", "kdctl", *sys.argv[1:]])
_, status, used = os.wait4(process, 0)
print(used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1000)
sys.exit(bool(status))
"""
"""Starts a verb from a process of 10 MB: Linux counts as a program's own what its process had before."""

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

RECIPE = """
schema = 1
name = "large"
seeds = {seeds}
student = "resnet3"
[data]
name = "digits"
size = 8
[schedule]
name = "constant"
epochs = {epochs}
[[grid]]
method = ["ce"]
optimizer.learning_rate = {rates}
"""

FACTS = ModelFacts(
    student_parameters=38_922,
    shipped_parameters=38_922,
    teacher_parameters=None,
    projector_parameters=0,
    untrained=(),
)


def main() -> None:
    """Make the store if it is not there, and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=240)
    wanted = parser.parse_args()
    folder: Path = wanted.folder
    if not (folder / "recipe.toml").exists():
        make_store(folder, num_runs=wanted.runs, num_epochs=wanted.epochs)
    first, *others = sorted((folder / "runs").glob("*/epochs.jsonl"))
    there = 1 + len(others), first.read_bytes().count(b"\n")
    if there != (wanted.runs, wanted.epochs):
        raise SystemExit(f"{folder} holds {there[0]} runs of {there[1]} epochs: name another folder")
    print(f"kdctl {kdctl.__version__} {git_commit()[:8]}; {wanted.runs} runs of {wanted.epochs} epochs")
    print(f"folders: {size(folder / 'runs', 'epochs.jsonl') / 1e6:.0f} MB of epochs")
    for old in (folder / "runs").glob("kdctl.db*"):
        old.unlink()
    print(f"{'verb':32} {'CPU s':>7} {'wall s':>7} {'MB':>6}")
    for words in (
        ["sync"],
        ["sync"],
        ["report", "--rows", "learning_rate", "--format", "csv"],
        ["list", "runs"],
        ["sweep", "recipe.toml", "--dry-run"],
        ["sweep", "recipe.toml", "--quiet"],
        ["sweep", "recipe.toml", "--quiet"],
        ["db", "check"],
    ):
        cpu, wall, memory = measured(words, folder)
        print(f"{' '.join(words)[:32]:32} {cpu:7.1f} {wall:7.1f} {memory:6.0f}", flush=True)
    print(f"database: {size(folder / 'runs', 'kdctl.db*') / 1e6:.0f} MB")


def make_store(folder: Path, *, num_runs: int, num_epochs: int) -> None:
    """Write the recipe, and the folders of its runs as if they had been trained."""
    folder.mkdir(parents=True, exist_ok=True)
    rates = [round(0.001 + 0.0001 * number, 6) for number in range(num_runs // SEEDS)]
    recipe = folder / "recipe.partial.toml"
    recipe.write_text(
        RECIPE.format(seeds=list(range(SEEDS)), epochs=num_epochs, rates=rates), encoding="utf-8"
    )
    with workflows.open_for_planning(folder / "runs", folder / "data") as workspace:
        plan = workflows.plan_sweep(recipe, workspace)
    rng = random.Random(0)
    for run in plan.runs:
        target = folder / "runs" / run.key
        target.mkdir(parents=True, exist_ok=True)
        epochs = [drawn_epoch(number, rng) for number in range(1, num_epochs + 1)]
        lines = b"".join(map(line_of, epochs))
        (target / "epochs.jsonl").write_bytes(lines)
        ending = Ending(result=result_of(epochs), artifacts=(), run=run.key, epochs_sha256=sha256_of(lines))
        contents = {"plan.json": run.planned(), "environment.json": environment(), "result.json": ending}
        for name, content in contents.items():
            (target / name).write_bytes(line_of(content))
    recipe.rename(folder / "recipe.toml")


def drawn_epoch(number: int, rng: random.Random) -> EpochResult:
    """Return an epoch whose numbers have as many digits as real ones."""
    loss = 2.3 * 0.99**number * rng.uniform(0.9, 1.1)
    seconds = rng.uniform(4.0, 4.2)
    return EpochResult(
        epoch=number,
        learning_rate=0.05 * rng.random(),
        train_loss=loss,
        train_terms={"task": loss},
        train_top1=100.0 * rng.randrange(50_000) / 50_000,
        test=SplitMetrics(
            top1=rng.randrange(10_000) / 100, top5=rng.randrange(10_000) / 100, loss=loss * rng.random()
        ),
        val=None,
        seconds=seconds,
        images_per_second=50_000 / seconds,
        device_seconds=seconds / 8,
        ended=(_BEGAN + timedelta(seconds=4.1 * number + rng.random())).isoformat(timespec="milliseconds"),
    )


def result_of(epochs: list[EpochResult]) -> RunResult:
    """Return how a run with these epochs ended."""
    best = max(epochs, key=lambda epoch: epoch.test.top1)
    chosen = {"last": epochs[-1], "best-test": best}
    return RunResult(
        state=RunState.FINISHED,
        epochs=len(epochs),
        selected={
            rule: Selected(epoch=epoch.epoch, test=epoch.test, val=None) for rule, epoch in chosen.items()
        },
        facts=FACTS,
        teacher_test_top1=None,
        train_seconds=sum(epoch.seconds for epoch in epochs),
        images_per_second=12_000.0,
    )


def environment() -> Environment:
    """Return where the runs were computed: nowhere."""
    return Environment(
        kdctl_version=kdctl.__version__,
        git_commit="0" * 40,
        python="3.11",
        torch="2.15.0",
        cuda="",
        device="cpu",
        num_threads=1,
        precision="fp32",
        deterministic=True,
        host="somewhere",
        data_fingerprint="0" * 64,
    )


def measured(words: list[str], folder: Path) -> tuple[float, float, float]:
    """Return seconds of CPU, seconds of wall time and the largest memory in MB of a command.

    Raises:
        SystemExit: the command failed.
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURE, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"kdctl {' '.join(words)} failed")
    cpu, wall, memory = map(float, done.stdout.split())
    return cpu, wall, memory


def size(folder: Path, pattern: str) -> int:
    """Return the bytes of all files below a folder that fit a pattern."""
    return sum(path.stat().st_size for path in folder.rglob(pattern))


if __name__ == "__main__":
    main()
