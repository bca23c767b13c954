"""What to measure first on a GPU, in order, with one command.

    python benchmarks/gpu_first_measurements.py
    python benchmarks/gpu_first_measurements.py --device cpu --quick     (tries the script itself)

Facts of the machine; the tests that need a GPU; a step alone, plain and replayed from CUDA graphs, with its
kernels; gangs of 1 to 16; teachers that look ahead; precisions; evaluation. SimKD with batch 64 on noise in
the form of CIFAR-100: speed does not depend on the images. Writes Markdown and JSON after each part, so that
a machine that is taken away leaves what was measured. A part that fails, hangs or crashes says so, and the
next one goes on; after `--minutes` none begins. `--only WORDS` and `--without WORDS` choose parts by their
titles.
"""

from __future__ import annotations

import argparse
import functools
import gc
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from against_public import PAIRS, SHORT, cpu_name, run_git
from in_parts import Part, Row, measure, supervised
from torch.profiler import ProfilerActivity, profile

from kdctl import workflows
from kdctl.assembly.assemble import build_compute
from kdctl.assembly.planning import Planner
from kdctl.assembly.run_context import TeacherCache
from kdctl.cli.recipe_options import layer, open_recipe
from kdctl.engine.device import choose_device, describe, prepare
from kdctl.engine.throughput import count_launches
from kdctl.workflows.benchmarking import TimedGang

HERE = Path(__file__).parent
GANGS = (1, 2, 4, 8, 16)
LOOKAHEADS = (1, 4, 8, 16)
"""Batches that teachers see at once."""
PRECISIONS = (("fp32", "fp32"), ("fp32", "fp16"), ("bf16", "bf16"), ("bf16", "fp16"))
FAST = ("bf16", "fp16")
TOP_KERNELS = 20

# Else a profile after another may crash where graphs are replayed (torch/profiler/profiler.py says so).
os.environ.setdefault("TEARDOWN_CUPTI", "0")


@dataclass(frozen=True)
class Lab:
    """Builds gangs to measure."""

    arguments: argparse.Namespace
    device: torch.device
    folder: Path

    def subject(
        self,
        pair: str,
        precision: tuple[str, str],
        members: int = 1,
        *,
        graphs: str = "auto",
        lookahead: int = 1,
        cache: TeacherCache = "off",
    ) -> TimedGang:
        """Build a gang of equal members, its state warmed up."""
        self.forget_memory()
        teacher, student = pair.split(":")
        overrides = [
            f"engine.{who}_precision='{name}'"
            for who, name in zip(("student", "teacher"), precision, strict=True)
        ]
        overrides.append(f"engine.teacher_lookahead={lookahead}")
        overrides += SHORT if cache == "on" else ()
        words = layer(student, [teacher], method="simkd", data="noise")
        recipe = open_recipe(None, "simkd", words, overrides, [HERE / "synthetic.py"])
        opened = workflows.open_for_planning(
            self.folder / "runs",
            self.folder,
            device=str(self.device),
            num_threads=self.arguments.threads,
            graphs=graphs,
            teacher_cache=cache,
        )
        with opened as workspace:
            plan = Planner(recipe, workspace).runs(recipe.points)[0]
            prepare(build_compute(plan, self.device), self.arguments.threads)
            subject = TimedGang([plan] * members, workspace, self.folder)
        subject.warm_up(self.arguments.steps)
        return subject

    def precision(self) -> tuple[str, str]:
        """Return the precisions that are meant for this device."""
        return FAST if self.device.type == "cuda" else ("fp32", "fp32")

    def measured(self, subject: TimedGang, steps: int | None = None) -> Row:
        """Return what a step of a gang takes, over so many in a round."""
        steps, rounds = steps or self.arguments.steps, self.arguments.rounds
        seconds = sorted(subject.take(steps) / steps for _ in range(rounds))
        members = len(subject.gang.members)
        step = median(seconds)
        return {
            "step ms": 1e3 * step,
            "fastest to slowest": f"{1e3 * seconds[0]:.3f} to {1e3 * seconds[-1]:.3f}",
            "ms per member": 1e3 * step / members,
            "h per 240 epochs of CIFAR-100": 240 * 782 * step / 3600,
            "memory MiB": self.memory_mib(),
        }

    def whole_chunks(self, subject: TimedGang, number: int) -> int:
        """Return the steps of a round of whole chunks: no fewer than asked for, if an epoch has them."""
        most = (subject.gang.data.train.num_steps - 1) // number
        return number * min(most, math.ceil(self.arguments.steps / number))

    def memory_mib(self) -> float:
        """Return the peak of the GPU's memory that torch took."""
        return torch.cuda.max_memory_reserved(self.device) / 2**20 if self.device.type == "cuda" else 0.0

    def forget_memory(self) -> None:
        """Give back what earlier subjects took, and count the peak anew."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    """Measure everything, in a process that may die."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="kdctl-parts-") as folder:
        if supervised(Path(folder) / "state.json", arguments.minutes):
            return
    device = choose_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    lab = Lab(arguments, device, Path(tempfile.mkdtemp(prefix="kdctl-gpu-")))
    chosen = [part for part in parts(lab) if is_wanted(part[0], arguments)]
    measure(chosen, arguments.out, facts(device, arguments), limit_s=arguments.limit)
    print(f"written to {arguments.out}")


def parts(lab: Lab) -> list[Part]:
    """Return all there is to measure, what matters most first."""
    arguments = lab.arguments
    chosen: list[Part] = [("Tests that need a GPU", gpu_tests)]
    for pair in arguments.pair or PAIRS:
        kinds: dict[str, Callable[[Lab, str], list[Row]]] = {
            "alone: plain and replayed": alone,
            "gangs": gangs,
            "precisions (student, teacher)": precisions,
            "evaluation": evaluation,
            "teacher outputs kept": kept,
            "batches that the teacher sees at once": lookaheads,
            "alone: kernels of a replayed step": kernels,
        }
        chosen += [(f"{pair}, {kind}", functools.partial(part, lab, pair)) for kind, part in kinds.items()]
    if arguments.official:
        chosen.append(("Against public code", functools.partial(against_public, arguments)))
    return chosen


def is_wanted(title: str, arguments: argparse.Namespace) -> bool:
    """Return whether a part was asked for."""
    only, without = arguments.only or [""], arguments.without or []
    return any(words in title for words in only) and not any(words in title for words in without)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", action="append", metavar="TEACHER:STUDENT")
    parser.add_argument("--official", type=Path, help="a checkout of the official SimKD code, to run beside")
    parser.add_argument("--steps", type=int, default=50, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gang", type=int, action="append", help=f"sizes of gangs; {GANGS} if not given")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=25.0, help="after these no part begins")
    parser.add_argument("--limit", type=int, default=300, help="seconds for one part")
    parser.add_argument("--only", action="append", metavar="WORDS")
    parser.add_argument("--without", action="append", metavar="WORDS")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--quick", action="store_true", help="tiny models, few steps: to try the script")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pair = arguments.pair or ["resnet14:resnet8"]
        arguments.steps, arguments.rounds, arguments.gang = 2, 2, [1, 2]
    return arguments


def facts(device: torch.device, arguments: argparse.Namespace) -> Row:
    """Say what was measured where."""
    driver = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    on_gpu = device.type == "cuda"
    return {
        "device": describe(device),
        "driver, clock, power": read(driver) if on_gpu else "none",
        "CPU": f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        "commit": run_git("describe", "--always", "--dirty"),
        "steps per round, rounds": f"{arguments.steps}, {arguments.rounds} (medians)",
        "arithmetic": "deterministic; batch 64; SimKD, reduction 2",
    }


def gpu_tests() -> list[Row]:
    """Run the tests that compare plain, replayed, ganged and resumed runs bit for bit.

    In several processes: what breaks the device for one of them leaves it whole for the others.
    """
    processes = "8" if torch.cuda.is_available() else "0"
    words = ["-m", "pytest", "-n", processes, "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(
        [sys.executable, *words, "--timeout", "120"],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    print(done.stdout[-6000:])
    return [{"exit": done.returncode, "last line": done.stdout.strip().rpartition("\n")[2]}]


def alone(lab: Lab, pair: str) -> list[Row]:
    """Measure a step alone, plain and replayed, in turns of whole subjects; and what the host does of it."""
    rows: list[Row] = []
    for graphs in ("off", "auto"):
        for precision in dict.fromkeys((("fp32", "fp32"), lab.precision())):
            subject = lab.subject(pair, precision, graphs=graphs)
            launches = count_launches(subject.ready().take, lab.device)
            row = {"graphs": graphs, "precision": "/".join(precision), **lab.measured(subject)}
            executed = ", ".join({member.execution for member in subject.gang.members})
            rows.append({**row, "host us": host_us(lab, subject), "launches": launches, "executed": executed})
    return rows


def host_us(lab: Lab, subject: TimedGang) -> float:
    """Return what a step takes of the host's time, which does not wait for the device meanwhile."""
    steps = subject.ready()
    count = min(lab.arguments.steps, subject.gang.data.train.num_steps - 1)
    lab.synchronise()
    began = time.perf_counter()
    for _ in range(count):
        steps.take()
    ended = time.perf_counter()
    lab.synchronise()
    return 1e6 * (ended - began) / count


def kernels(lab: Lab, pair: str) -> list[Row]:
    """Return the kernels that take the most time of a replayed step, by name."""
    subject = lab.subject(pair, lab.precision())
    on_gpu = lab.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    steps = min(10, lab.arguments.steps)
    with profile(activities=[activity], acc_events=True) as profiler:
        subject.take(steps)
        lab.synchronise()
    times = {
        event.key: ((event.self_device_time_total if on_gpu else event.self_cpu_time_total), event.count)
        for event in profiler.key_averages()
    }
    total = sum(spent for spent, _ in times.values()) or 1.0
    ranked = sorted(times.items(), key=lambda item: item[1][0], reverse=True)[:TOP_KERNELS]
    return [
        {
            "kernel": name.replace("|", "/")[:110],
            "us per step": spent / steps,
            "share %": 100 * spent / total,
            "calls per step": calls / steps,
        }
        for name, (spent, calls) in ranked
    ]


def gangs(lab: Lab, pair: str) -> list[Row]:
    """Measure gangs of growing size."""
    rows: list[Row] = []
    for size in lab.arguments.gang or GANGS:
        subject = lab.subject(pair, lab.precision(), size)
        rows.append({"members": size, **lab.measured(subject), "host us": host_us(lab, subject)})
    return rows


def lookaheads(lab: Lab, pair: str) -> list[Row]:
    """Measure runs, alone and in a gang, whose teacher sees several batches at once.

    A round takes whole chunks: the first is looked at before the clock starts, but one after the last step.
    """
    return [
        {"members": size, "batches": number, **lab.measured(subject, lab.whole_chunks(subject, number))}
        for size in (1, max(lab.arguments.gang or (8,)))
        for number in (LOOKAHEADS[:2] if lab.arguments.quick else LOOKAHEADS)
        for subject in [lab.subject(pair, lab.precision(), size, lookahead=number)]
    ]


def kept(lab: Lab, pair: str) -> list[Row]:
    """Measure runs that read what their teacher says from a table, after they have filled it."""
    rows: list[Row] = []
    for cache in ("off", "on"):
        subject = lab.subject(pair, lab.precision(), cache=cache)
        subject.take(lab.arguments.steps)
        executed = ", ".join({member.execution for member in subject.gang.members})
        rows.append({"kept": cache, **lab.measured(subject), "executed": executed})
    return rows


def precisions(lab: Lab, pair: str) -> list[Row]:
    """Measure what each precision brings."""
    choices = PRECISIONS if lab.device.type == "cuda" else PRECISIONS[:1]
    return [{"precision": "/".join(p), **lab.measured(lab.subject(pair, p))} for p in choices]


def evaluation(lab: Lab, pair: str) -> list[Row]:
    """Measure the evaluation of the test split, the first time (recorded) and then."""
    rows: list[Row] = []
    for graphs in ("off", "auto"):
        subject = lab.subject(pair, lab.precision(), graphs=graphs)
        steps, gang, member = subject.ready(), subject.gang, subject.gang.members[0]
        seconds: list[float] = []
        for _ in range(4):
            lab.synchronise()
            began = time.perf_counter()
            steps.predict(member, "", member.distiller.inference_model(), gang.data.test)
            steps.join()
            lab.synchronise()
            seconds.append(time.perf_counter() - began)
        images = len(gang.data.test)
        rows.append(
            {"graphs": graphs, "images": images, "first ms": 1e3 * seconds[0], "then ms": 1e3 * min(seconds)}
        )
    return rows


def against_public(arguments: argparse.Namespace) -> list[Row]:
    """Run the comparison with public loops, official code included, as a script of its own."""
    words = ["--device", arguments.device, "--out", arguments.out, "--official", arguments.official]
    script = HERE / "against_public.py"
    done = subprocess.run(
        [sys.executable, script, *map(str, words)], capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr[-3000:])
    return [{"exit": done.returncode, "written to": "against_public.md"}]


def read(command: list[str]) -> str:
    """Return what a command prints; 'unknown' where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
