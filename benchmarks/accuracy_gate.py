"""Whether the engine's faster ways of computing change what students learn.

    python benchmarks/accuracy_gate.py --data DATA
    python benchmarks/accuracy_gate.py --data DATA --student mobilenetv2 --methods simkd \
        --learning-rate 0.5 --only-fastest --seeds 5

Trains students of one teacher on ten classes of the real CIFAR-100, by KD and by SimKD, once as exactly as
the engine can and once in each faster way, with the same seeds. Per method it prints means, the
difference from the exact way with its 95 % interval, and Welch's test with Holm's correction over all
comparisons. The teacher table must give the very same bits, which is checked file by file. First it
says how far the teacher's fast copies are off on the test images. About 20 minutes on two cores.

The second line is for depthwise students. At the protocol's learning rate for them, 0.01, these few
steps leave SimKD at chance (docs/log.md), and two ways of being at chance cannot be told apart. Such
students leave it sooner or later by seed, hence more seeds. An hour on one core.

Exit code: 0 when no difference is significant, the table gave the same bits, and the exact students
learned something (at least twice the accuracy of a guess); else 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from kdctl import workflows
from kdctl.assembly.environment import git_commit
from kdctl.assembly.teachers import load_teacher
from kdctl.assembly.workspace import Workspace
from kdctl.engine.batches import EvaluationSet, Normalisation
from kdctl.engine.device import choose_device, describe
from kdctl.engine.evaluate import agreement
from kdctl.engine.frozen import frozen_copy
from kdctl.recipe.engine_options import EngineOptions
from kdctl.records import Selection, StoredRun
from kdctl.report.statistics import SIGNIFICANCE, Summary, holm, summarize, welch

TeacherCache = Literal["on", "off"]
METHODS = ("kd", "simkd")
EXACT = "exact"
VARIANTS = {
    EXACT: EngineOptions(fold_teacher=False),
    "folded teacher": EngineOptions(),
    "bf16 teacher": EngineOptions(fold_teacher=False, teacher_precision="bf16"),
    "bf16 folded teacher": EngineOptions(teacher_precision="bf16"),
    "bf16 folded teacher, bf16 student": EngineOptions(teacher_precision="bf16", student_precision="bf16"),
}
FASTEST = "bf16 folded teacher, bf16 student"
"""Trained once more with a teacher table."""
NUM_CLASSES = 10

RECIPE = """
schema = 1
name = "{name}"
extends = "simkd"
student = "{student}"
seeds = {seeds}
data = {{ name = "cifar100", num_classes = {num_classes}, samples_per_class = {samples}, batch_size = 32 }}
schedule = {{ name = "cosine", epochs = {epochs} }}
"""

_CHECKPOINTS = tuple(f"{rule.value}.pt" for rule in Selection)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is trained."""

    teacher_epochs: int
    epochs: int
    samples: int
    seeds: tuple[int, ...]


FULL = Size(teacher_epochs=20, epochs=10, samples=300, seeds=(0, 1, 2))
QUICK = Size(teacher_epochs=1, epochs=1, samples=20, seeds=(0, 1))


class Gate:
    """Trains the variants in one folder."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        self.arguments = arguments
        size = QUICK if arguments.quick else FULL
        self.size = replace(size, seeds=tuple(range(arguments.seeds))) if arguments.seeds else size
        self.variants = (EXACT, FASTEST) if arguments.only_fastest else tuple(VARIANTS)

    def train_teacher(self) -> StoredRun:
        """Train the teacher of all students, in fp32."""
        body = 'method = "ce"\n[engine]\nstudent_precision = "fp32"\n'
        size = self.size
        path = self._write("teacher", self.arguments.teacher, (0,), size.teacher_epochs, body)
        with self._workspace("off") as workspace:
            (run,) = workflows.train(path, workspace)
        return run

    def train(self, variant: str, teacher: Path, cache: TeacherCache = "off") -> list[StoredRun]:
        """Train students of the teacher in a checkpoint, with all methods and seeds."""
        options = VARIANTS[variant]
        rate = self.arguments.learning_rate
        body = "\n".join(
            [
                f"teacher = {{ checkpoint = '{teacher}' }}",
                "" if rate is None else f"optimizer = {{ learning_rate = {rate} }}",
                f"[grid]\nmethod = {self.arguments.methods}",
                f"[engine]\nstudent_precision = '{options.student_precision}'",
                f"teacher_precision = '{options.teacher_precision}'",
                f"fold_teacher = {str(options.fold_teacher).lower()}",
            ]
        )
        name = variant.replace(" ", "-").replace(",", "")
        path = self._write(name, self.arguments.student, self.size.seeds, self.size.epochs, body)
        with self._workspace(cache) as workspace:
            return list(workflows.sweep(path, workspace).runs)

    def table_differs(self, runs: Sequence[StoredRun], kept: Sequence[StoredRun]) -> list[str]:
        """Return the files that runs with a table left different from those without."""
        if {run.key for run in runs} != {run.key for run in kept}:
            return ["other run keys"]
        names = [f"{run.key}/{name}" for run in runs for name in _CHECKPOINTS]
        return [
            name
            for name in names
            if _content(self.folder / "off" / name) != _content(self.folder / "on" / name)
        ]

    def print_teacher_errors(self, teacher: StoredRun) -> None:
        """Print how far copies of the trained teacher are off on the test images."""
        with self._workspace("off") as workspace:
            device = choose_device(workspace.device)
            path = self._write("look", self.arguments.student, (0,), 1, f"teacher.run = '{teacher.key}'")
            plan = workflows.plan_training(path, workspace).runs[0]
            data = workspace.library.select(plan.data)
            model = load_teacher(plan.teachers[0], data, workspace).backbone.to(device)
            images = EvaluationSet(data.test, Normalisation(data.mean, data.std, device), device)
            batches = list(images.images())
        tap = model.final_tap
        print("| copy of the teacher | largest error of features | relative error (L2) | same predictions |")
        print("|---|--:|--:|--:|")
        with torch.no_grad():
            exact = [model.observe(batch, [tap]) for batch in batches]
            for name in ("folded teacher", "bf16 teacher", "bf16 folded teacher"):
                copy = frozen_copy(model, VARIANTS[name], batches[0][:8])
                seen = [copy.observe(batch, [tap]) for batch in batches]
                ours, theirs = (torch.cat([out.taps[tap].float() for out in outs]) for outs in (seen, exact))
                error = ours - theirs
                logits = (torch.cat([out.require_logits() for out in outs]) for outs in (seen, exact))
                print(
                    f"| {name} | {float(error.abs().max()):.2g} | {float(error.norm() / theirs.norm()):.2g} "
                    f"| {agreement(*logits):.2f} % |"
                )

    def _workspace(self, cache: TeacherCache) -> AbstractContextManager[Workspace]:
        arguments = self.arguments
        return workflows.open_workspace(
            self.folder / cache,
            arguments.data,
            device=arguments.device,
            num_threads=arguments.threads,
            teacher_cache=cache,
        )

    def _write(self, name: str, student: str, seeds: Sequence[int], epochs: int, body: str) -> Path:
        head = RECIPE.format(
            name=name,
            student=student,
            seeds=list(seeds),
            num_classes=NUM_CLASSES,
            samples=self.size.samples,
            epochs=epochs,
        )
        path = self.folder / f"{name}.toml"
        path.write_text(f"{head}{body}\n")
        return path


def main() -> int:
    """Train, compare, print; return the exit code."""
    arguments = _arguments()
    folder = arguments.runs or Path(tempfile.mkdtemp(prefix="kdctl-gate-"))
    folder.mkdir(parents=True, exist_ok=True)
    gate = Gate(folder, arguments)
    print(f"{arguments.teacher} -> {arguments.student}, {gate.size}, runs in {folder}\n")
    teacher = gate.train_teacher()
    gate.print_teacher_errors(teacher)
    checkpoint = folder / "off" / teacher.key / "last.pt"
    runs: dict[str, list[StoredRun]] = {}
    for variant in gate.variants:
        began = time.perf_counter()
        runs[variant] = gate.train(variant, checkpoint)
        print(f"\n{variant}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    differing = gate.table_differs(runs[FASTEST], gate.train(FASTEST, checkpoint, "on"))
    significant = _print_table(runs)
    idle = _at_chance(runs[EXACT])
    if idle:
        print(f"\nExact students of {', '.join(idle)} are near chance: THIS SAYS NOTHING of other ways.")
    print(f"\nTeacher table: {'DIFFERS in ' + ', '.join(differing) if differing else 'the same bits'}.")
    device, threads = describe(choose_device(arguments.device)), torch.get_num_threads()
    print(
        f"{device}, {threads} thread(s), torch {torch.__version__}, commit {git_commit()[:12] or 'unknown'}"
    )
    return int(significant or bool(differing) or (bool(idle) and not arguments.quick))


def _print_table(runs: dict[str, list[StoredRun]]) -> bool:
    """Print every variant against the exact one; return whether a difference is significant."""
    rows = [(method, variant) for method in _methods(runs[EXACT]) for variant in runs]
    summaries = {(method, variant): _summary(runs[variant], method) for method, variant in rows}
    tests = {row: welch(summaries[row], summaries[row[0], EXACT]) for row in rows if row[1] != EXACT}
    made = {row: test for row, test in tests.items() if test is not None}
    corrected = dict(zip(made, holm([test.p for test in made.values()]), strict=True))
    print("\n| method | variant | top-1 (%) | n | Δ exact | 95 % interval | p | p (Holm) |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        ours, exact, test = summaries[row], summaries[row[0], EXACT], made.get(row)
        spread = "—" if ours.std is None else f"{ours.std:.2f}"
        cells = [*row, f"{ours.mean:.2f} ± {spread}", str(ours.n)]
        delta = ours.mean - exact.mean
        if row[1] == EXACT:
            cells += ["", "", "", ""]
        elif test is None:
            cells += [f"{delta:+.2f}", "—", "—", "—"]
        else:
            low, high = delta - test.half_width, delta + test.half_width
            cells += [f"{delta:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{test.p:.3f}", f"{corrected[row]:.3f}"]
        print(f"| {' | '.join(cells)} |")
    return any(p < SIGNIFICANCE for p in corrected.values())


def _at_chance(runs: Sequence[StoredRun]) -> list[str]:
    """Return the methods whose students have less than twice the accuracy of a guess."""
    least = 2 * 100 / NUM_CLASSES
    return [method for method in _methods(runs) if _summary(runs, method).mean < least]


def _methods(runs: Sequence[StoredRun]) -> list[str]:
    return list(dict.fromkeys(run.plan["method"]["name"] for run in runs))


def _summary(runs: Sequence[StoredRun], method: str) -> Summary:
    """Return mean and spread of the accuracy of a method's runs."""
    return summarize([_top1(run) for run in runs if run.plan["method"]["name"] == method])


def _top1(run: StoredRun) -> float:
    if run.result is None:
        raise SystemExit(f"run {run.key} did not end: {run.state.value} {run.reason}")
    return run.result.selected[Selection.LAST.value].test.top1


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder below which CIFAR-100 lies")
    parser.add_argument("--runs", type=Path, help="where runs are kept, to go on later; else a new folder")
    parser.add_argument("--teacher", default="wrn_16_2")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, help="how many students of each kind, instead of 3")
    parser.add_argument("--learning-rate", type=float, help="of the students; else the protocol's")
    parser.add_argument(
        "--only-fastest", action="store_true", help="only the fastest way against the exact one"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--quick", action="store_true", help="a minute: shows that it runs, and nothing else")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
