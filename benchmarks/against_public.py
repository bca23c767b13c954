"""kdctl against the public style of training, per student and step, in turns on one machine.

    python benchmarks/against_public.py --pair wrn_40_2_post:resnet8x4 --pair resnet32x4:mobilenetv2x2

Every contender trains SimKD with batch 64 on the same noise in the form of CIFAR-100 (speed does not
depend on the weights or the images). Public code runs in one process and kdctl in another, each set up
as it is when people use it. One round takes a few steps of each; the medians over rounds count. Prints
Markdown, and writes it with the raw numbers as JSON where `--out` says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from official_simkd import OfficialLoop
from public_style import PublicLoop, make_loader
from taking_turns import Contender, Entry, Stage

from kdctl import workflows
from kdctl.assembly.planning import Planner
from kdctl.assembly.run_context import TeacherCache
from kdctl.assembly.workspace import Workspace
from kdctl.cli.recipe_options import layer, open_recipe
from kdctl.engine.device import Compute, choose_device, describe, prepare
from kdctl.protocols.dataset import Split
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.recipe import Recipe
from kdctl.workflows.benchmarking import TimedGang

HERE = Path(__file__).parent
SHORT = ("schedule.name='constant'", "schedule.epochs=1")
"""A run so short that what teachers say to its views fits into memory whatever the pair."""
PAIRS = ("wrn_40_2_post:resnet8x4", "resnet32x4:mobilenetv2x2")
BASELINE = "public style"


def main() -> None:
    """Measure all pairs that were asked for."""
    arguments = parse()
    device = choose_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = [headline(device, arguments)]
    raw: list[dict[str, object]] = []
    for pair in arguments.pair or PAIRS:
        with Stage({build_public: (pair, device, arguments), build_ours: (pair, device, arguments)}) as stage:
            stage.measure(arguments.rounds)
        contenders = stage.contenders
        report.append(table(pair, contenders))
        raw += [
            {"pair": pair, "name": c.name, "students": c.students, "steps": c.steps, "seconds": c.seconds}
            for c in contenders
        ]
        print(report[-1])
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "against_public.md").write_text("\n".join(report))
        (arguments.out / "against_public.json").write_text(json.dumps(raw, indent=1))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", action="append", metavar="TEACHER:STUDENT")
    parser.add_argument("--official", type=Path, help="a checkout of the official SimKD code, to run beside")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="steps of a round for one student")
    parser.add_argument("--gang", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="loader processes of the public style")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def build_public(pair: str, device: torch.device, arguments: argparse.Namespace) -> list[Entry]:
    """Build the public style for a pair, and the official code where it is."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    teacher, student = pair.split(":")
    split = OurSubjects(teacher, student, arguments).split()
    loader = make_loader(split.images, split.labels, arguments.workers)
    steps = arguments.steps
    entries = [Entry(name=BASELINE, subject=PublicLoop(teacher, student, loader, device), steps=steps)]
    if arguments.official:
        official = OfficialLoop(arguments.official, teacher, student, loader, device)
        entries.append(Entry(name="official SimKD code", subject=official, steps=steps))
    return entries


def build_ours(pair: str, device: torch.device, arguments: argparse.Namespace) -> list[Entry]:
    """Build our ways to train a pair."""
    prepare(Compute(device=device, options=EngineOptions()), arguments.threads)
    ours = OurSubjects(*pair.split(":"), arguments)
    return [
        Entry(
            name=variant.name,
            subject=ours.subject(variant, arguments.steps),
            steps=arguments.steps if variant.members == 1 else max(arguments.steps // 2, 1),
            students=variant.members,
        )
        for variant in variants(arguments.gang)
    ]


def variants(gang: int) -> list[Variant]:
    """Return our contenders."""
    exact = ("engine.student_precision='fp32'", "engine.teacher_precision='fp32'")
    taught = ("engine.student_precision='fp32'", "engine.teacher_precision='bf16'")
    both = ("engine.student_precision='bf16'", "engine.teacher_precision='bf16'")
    return [
        Variant("kdctl, fp32, alone", exact, 1),
        Variant("kdctl, teacher bf16, alone", taught, 1),
        Variant("kdctl, both bf16, alone", both, 1),
        Variant("kdctl, teacher bf16, alone, its outputs kept", taught, 1, cache="on"),
        Variant("kdctl, both bf16, alone, teacher's outputs kept", both, 1, cache="on"),
        Variant(f"kdctl, fp32, gang of {gang}", exact, gang),
        Variant(f"kdctl, teacher bf16, gang of {gang}", taught, gang),
        Variant(f"kdctl, both bf16, gang of {gang}", both, gang),
    ]


@dataclass(frozen=True)
class Variant:
    """A way in which we train."""

    name: str
    overrides: tuple[str, ...]
    """What the recipe says."""
    members: int
    cache: TeacherCache = "off"


class OurSubjects:
    """Builds what `kdctl bench` measures, for one pair and several settings."""

    def __init__(self, teacher: str, student: str, arguments: argparse.Namespace) -> None:
        self.words = layer(student, [teacher], method="simkd", data="noise")
        self.arguments = arguments
        self.folder = Path(tempfile.mkdtemp(prefix="kdctl-bench-"))

    def subject(self, variant: Variant, num_steps: int) -> TimedGang:
        """Build a gang of equal members, and let it take its first steps."""
        with self._workspace(variant.cache) as workspace:
            recipe = self._recipe([*SHORT, *variant.overrides])
            plans = Planner(recipe, workspace).runs(recipe.points)
            subject = TimedGang([plans[0]] * variant.members, workspace, self.folder)
        subject.warm_up(num_steps)
        return subject

    def split(self) -> Split:
        """Return the training images."""
        with self._workspace() as workspace:
            plan = Planner(self._recipe([]), workspace).runs(self._recipe([]).points)[0]
            return workspace.library.select(plan.data).train

    def _recipe(self, overrides: Sequence[str]) -> Recipe:
        return open_recipe(None, "simkd", self.words, overrides, [HERE / "synthetic.py"])

    def _workspace(self, cache: TeacherCache = "off") -> AbstractContextManager[Workspace]:
        return workflows.open_for_planning(
            self.folder / "runs",
            self.folder,
            device=self.arguments.device,
            num_threads=self.arguments.threads,
            teacher_cache=cache,
        )


def headline(device: torch.device, arguments: argparse.Namespace) -> str:
    """Say what was measured where."""
    commit = run_git("rev-parse", "--short", "HEAD")
    return (
        f"# kdctl against the public style\n\n{describe(device)}, {cpu_name()}, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, commit {commit}. "
        f"Batch 64, SimKD with reduction 2. Median of {arguments.rounds} rounds in turns.\n"
    )


def table(pair: str, contenders: Sequence[Contender]) -> str:
    """Write one pair's results as Markdown."""
    yardstick = next(c for c in contenders if c.name == BASELINE).student_ms
    lines = [
        f"## {pair.replace(':', ' → ')}\n",
        "| | step per student, ms | fastest to slowest round | against public style |",
        "|---|--:|--:|--:|",
    ]
    for c in contenders:
        low, high = (1e3 * value / c.steps / c.students for value in (min(c.seconds), max(c.seconds)))
        ratio = yardstick / c.student_ms
        lines.append(f"| {c.name} | {c.student_ms:.1f} | {low:.1f} to {high:.1f} | {ratio:.2f}x |")
    return "\n".join(lines) + "\n"


def cpu_name() -> str:
    """Return the processor's name, where the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU"
    )


def run_git(*words: str) -> str:
    """Return what git says of this checkout."""
    done = subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
