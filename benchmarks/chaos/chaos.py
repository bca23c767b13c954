"""Kill a sweep again and again, and see whether anything is lost, done twice, or different.

    python benchmarks/chaos/chaos.py --kills 100

A sweep of tiny runs under several workers loses, once a second, a worker or its scheduler: by SIGKILL,
by SIGTERM, or by SIGSTOP for longer than a lease lasts, while a second scheduler tries to take over.
It is started again until everything is finished, and then held against the same sweep undisturbed, in
one process. A plug-in writes down every training step with its process, so that two processes that
train one run at once would be seen. Prints what happened, and ends with 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdctl.engine.seeds import derive

HERE = Path(__file__).parent

RECIPE = """
schema = 1
name = "chaos"
plugins = ["logged.py"]
seeds = {seeds}
student = "resnet3"
teacher = {{name = "resnet4"}}
data = {{name = "digits", size = 8, samples_per_class = 8}}
schedule = {{name = "cosine", epochs = {epochs}}}
method = "logged"
[grid]
method.tag = {tags}
"""

SEEDS = (0, 1)
STEPS_AN_EPOCH = 2
GANG = 2


class Sweep:
    """The sweep of one folder: its schedulers, and the workers they have had."""

    def __init__(self, folder: Path, args: argparse.Namespace, slots: int) -> None:
        self.folder, self.slots, self.lease = folder, slots, args.lease
        folder.mkdir(parents=True)
        shutil.copy(HERE / "logged.py", folder)
        tags = list(range(args.runs // len(SEEDS)))
        (folder / "chaos.toml").write_text(RECIPE.format(seeds=list(SEEDS), epochs=args.epochs, tags=tags))
        self.schedulers: list[subprocess.Popen[bytes]] = []
        self.workers: set[int] = set()
        self.starts = 0
        self.read = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Start a scheduler."""
        self.starts += 1
        log = (self.folder / "scheduler.log").open("ab")
        command = [sys.executable, str(HERE / "scheduler.py"), str(self.folder), str(self.slots)]
        command.append(str(self.lease))
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        self.schedulers.append(process)
        return process

    def living_workers(self) -> list[int]:
        """Return the workers that live, orphans among them."""
        ours = {process.pid for process in self.schedulers} | self.workers
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and is_worker(entry) and parent_of(entry) in ours:
                self.workers.add(int(entry.name))
        return sorted(pid for pid in self.workers if is_worker(Path("/proc") / str(pid)))

    def training(self) -> list[int]:
        """Return the workers that have taken a step since this was last asked."""
        log = self.folder / "steps.txt"
        if not log.is_file():
            return []
        with log.open() as file:
            file.seek(self.read)
            pids = {int(line.split()[2]) for line in file if line.endswith("\n")}
            self.read = file.tell()
        return [pid for pid in self.living_workers() if pid in pids]

    def close(self) -> None:
        """Leave nothing behind."""
        for pid in [process.pid for process in self.schedulers if process.poll() is None]:
            os.kill(pid, signal.SIGKILL)
        for pid in self.living_workers():
            os.kill(pid, signal.SIGKILL)


def is_worker(entry: Path) -> bool:
    try:
        command = (entry / "cmdline").read_bytes()
        return b"kdctl.execution.worker" in command and state_of(entry) != "Z"
    except OSError:
        return False


def state_of(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def parent_of(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


DEEDS = {
    "kill a worker": 30,
    "terminate a worker": 10,
    "stop a worker past its lease": 10,
    "kill the scheduler": 20,
    "terminate the scheduler": 15,
    "stop the scheduler past its lease": 5,
    "kill the scheduler beside a stopped worker": 10,
}


class Chaos:
    """Does something bad, now and then."""

    def __init__(self, sweep: Sweep, args: argparse.Namespace) -> None:
        self.sweep, self.args = sweep, args
        self.chance = random.Random(args.seed)
        self.done: collections.Counter[str] = collections.Counter()
        self.asleep: list[tuple[float, int]] = []
        self.scheduler = sweep.start()

    def run(self) -> None:
        """Disturb the sweep until it is finished all the same."""
        deadline = time.monotonic() + self.args.limit
        while time.monotonic() < deadline:
            time.sleep(self.args.every)
            self.wake()
            if self.scheduler.poll() is not None:
                if self.scheduler.returncode == 0 and not self.asleep:
                    break
                self.scheduler = self.sweep.start()
            victims = self.sweep.training()
            if victims and self.done.total() < self.args.kills:
                deed = self.chance.choices(list(DEEDS), list(DEEDS.values()))[0]
                self.do(deed, self.chance.choice(victims))
        else:
            log = (self.sweep.folder / "scheduler.log").read_text()
            sys.exit(f"the sweep did not finish in {self.args.limit} s:\n{log}")
        for process in self.sweep.schedulers:  # one that slept finds that everything is done
            process.wait(60)

    def do(self, deed: str, victim: int) -> None:
        """Do one thing."""
        self.done[deed] += 1
        print(f"{self.done.total():4d}  {deed}", flush=True)
        if "worker" in deed and "stop" in deed:
            self.stop(victim)
        elif "worker" in deed:
            send(victim, signal.SIGKILL if "kill" in deed else signal.SIGTERM)
        if deed == "stop the scheduler past its lease":
            self.stop(self.scheduler.pid)
            self.scheduler = self.sweep.start()
        elif "kill the scheduler" in deed:
            send(self.scheduler.pid, signal.SIGKILL)
        elif deed == "terminate the scheduler":
            send(self.scheduler.pid, signal.SIGTERM)

    def stop(self, pid: int) -> None:
        """Stop a process, until its lease ran out twice."""
        send(pid, signal.SIGSTOP)
        self.asleep.append((time.monotonic() + 2 * self.args.lease, pid))

    def wake(self) -> None:
        """Let stopped processes go on when it is time."""
        due = [item for item in self.asleep if time.monotonic() > item[0]]
        self.asleep = [item for item in self.asleep if item not in due]
        for _, pid in due:
            send(pid, signal.SIGCONT)


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def results(folder: Path) -> dict[str, object]:
    """Return what all runs came to, by key, without times."""
    found: dict[str, object] = {}
    for path in sorted((folder / "runs").glob("*/result.json")):
        result = json.loads(path.read_text())["result"]
        epochs = [json.loads(line) for line in (path.parent / "epochs.jsonl").read_text().splitlines()]
        numbers = [{k: v for k, v in epoch.items() if "second" not in k} for epoch in epochs]
        weights = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.parent.glob("*.pt"))]
        found[path.parent.name] = (result["state"], result["selected"], numbers, weights)
    return found


def differences(ours: dict[str, object], theirs: dict[str, object]) -> list[str]:
    """Say for each run that is not the same where the two begin to differ."""
    found: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        left, right = json.dumps(ours.get(key)), json.dumps(theirs.get(key))
        if left != right:
            place = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), -1)
            start = max(place - 80, 0)
            found.append(f"{key}: ...{left[start : place + 60]} instead of ...{right[start : place + 60]}")
    return found


def step_counts(folder: Path, epochs: int) -> tuple[int, int, int]:
    """Return distinct steps, steps that were repeated, and steps by a process that had lost its run."""
    names = {
        derive(seed, "method", epoch, step): (seed, epoch, step)
        for seed in SEEDS
        for epoch in range(epochs)
        for step in range(STEPS_AN_EPOCH)
    }
    seen: set[tuple[int, ...]] = set()
    by_run: dict[tuple[int, int], list[tuple[int, int]]] = {}
    total = 0
    for line in (folder / "steps.txt").read_text().splitlines():
        tag, stream, pid, when = map(int, line.split())
        seen.add((tag, *names[stream]))
        by_run.setdefault((tag, names[stream][0]), []).append((when, pid))
        total += 1
    stale = 0
    for steps in by_run.values():
        passed: set[int] = set()
        holder = 0
        for _, pid in sorted(steps):
            if pid != holder and pid in passed:
                stale += 1
            elif pid != holder:
                passed.add(holder)
                holder = pid
    return len(seen), total - len(seen), stale


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=60, help="students; a teacher for each seed comes on top")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two kills")
    parser.add_argument("--lease", type=float, default=8.0, help="seconds")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which to give up")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdctl-chaos-") as scratch:
        calm = Sweep(Path(scratch) / "calm", args, slots=0)
        if calm.start().wait() != 0:
            sys.exit((calm.folder / "scheduler.log").read_text())
        wild = Sweep(Path(scratch) / "wild", args, slots=args.slots)
        try:
            began = time.monotonic()
            chaos = Chaos(wild, args)
            chaos.run()
            return report(calm, chaos, time.monotonic() - began)
        finally:
            wild.close()


def report(calm: Sweep, chaos: Chaos, seconds: float) -> int:
    """Print what happened and what was kept; return the exit code."""
    wild, args, done = chaos.sweep, chaos.args, chaos.done
    ours, theirs = results(wild.folder), results(calm.folder)
    distinct, repeated, stale = step_counts(wild.folder, args.epochs)
    before = (wild.folder / "steps.txt").stat().st_size
    again = wild.start().wait()
    with sqlite3.connect(wild.folder / "runs" / "kdctl.db") as connection:
        (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        states = dict(connection.execute("SELECT state, count(*) FROM kdctl_runs GROUP BY state").fetchall())
        (attempts,) = connection.execute("SELECT sum(attempts) FROM kdctl_runs").fetchone()
    connection.close()
    planned = args.runs * args.epochs * STEPS_AN_EPOCH
    stopped = sum(count for deed, count in done.items() if "stop" in deed)
    kept = {
        f"all {len(theirs)} runs finished": states == {"finished": len(theirs)},
        "every result, epoch and checkpoint equals the undisturbed sweep's, bit for bit": ours == theirs,
        f"all {planned} planned steps were taken": distinct == planned,
        f"runs of {stopped} stopped processes took at most one step after others had taken over": (
            stale <= GANG * stopped
        ),
        "a further start trains nothing": again == 0 and (wild.folder / "steps.txt").stat().st_size == before,
        f"SQLite's integrity check says {integrity}": integrity == "ok",
        "no run folder names a holder any more": not list(wild.folder.glob("runs/*/holder.json")),
        "no worker is left": not wild.living_workers(),
    }
    seen = f"{wild.starts - 1} starts of the scheduler, {len(wild.workers)} workers"
    print(f"{done.total()} disturbances in {seconds:.0f} s, {seen}:")
    for deed, count in done.most_common():
        print(f"  {count:4d}  {deed}")
    print(f"{attempts} attempts; {repeated} steps repeated from saved states, {stale} by stale processes")
    for promise, held in kept.items():
        print(f"  {'ok    ' if held else 'BROKEN'}  {promise}")
    for difference in differences(ours, theirs):
        print(f"  {difference}")
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
