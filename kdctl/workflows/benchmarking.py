"""How fast a recipe trains here: a run alone and in a gang, measured in turns on the real loop."""

from __future__ import annotations

import functools
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdctl.assembly.architecture import build_architecture
from kdctl.assembly.assemble import (
    build_compute,
    build_data,
    build_distiller,
    build_student,
    freeze_teachers,
)
from kdctl.assembly.data import sizes_of
from kdctl.assembly.planning import Planner
from kdctl.assembly.readiness import require_device
from kdctl.assembly.teacher_cache import find_table
from kdctl.assembly.workspace import Workspace
from kdctl.engine.device import choose_device, describe, prepare
from kdctl.engine.gang import Gang
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.member import Member, StepInputs
from kdctl.engine.optim import build_optimizers
from kdctl.engine.steps import Steps
from kdctl.engine.throughput import Stopwatch, count_launches, peak_flops
from kdctl.errors import UsageError
from kdctl.recipe.gangs import form_gangs
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe

WARMUP_STEPS = 2
"""Steps of each gang before the clock runs."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one gang trains."""

    members: int
    step_ms: float
    """Wall time of a step of the whole gang: the median over rounds."""
    step_ms_range: tuple[float, float]
    """Fastest and slowest round."""
    member_ms: float
    """`step_ms` divided by the members: what a step costs each run."""
    images_per_second: float
    """Training images, over all members."""
    step_gflop: float
    """Arithmetic of a step: forward passes as counted, times three where there is a backward pass."""
    gflop_per_second: float
    share_of_peak: float
    """Of the rate that a large matrix product reaches here, in the students' precision."""
    launches: int
    """Kernels of a step on a GPU; operators on a CPU."""
    teacher_outputs: Literal["kept", "computed", "none"]
    """Whether the measured steps read what the teachers said before, or asked them; 'none': no teacher."""
    teacher_lookahead: int
    """Batches that teachers see at once."""
    waiting_share: float
    """Of a step's time: how much it waits for images to be decoded."""
    memory_mib: float
    """Peak while training: of the GPU's memory that torch used, or of the process."""


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What `kdctl bench` found."""

    run: str
    """Title of the run that was measured."""
    device: str
    torch: str
    num_threads: int
    precision: str
    deterministic: bool
    batch_size: int
    steps: int
    """Per round."""
    rounds: int
    peak_gflop_per_second: float
    paces: tuple[Pace, ...]
    """Alone first, then the gang."""


def benchmark(
    recipe: Recipe,
    workspace: Workspace,
    *,
    gang_size: int = 8,
    num_steps: int = 10,
    num_rounds: int = 5,
) -> BenchResult:
    """Measure the first run of a recipe alone, and in a gang of `gang_size`.

    The gang is made of the recipe's runs that share data, seed and teachers with the first, repeated
    until there are enough. Nothing is stored. Weights are fresh, the teachers' too: speed does not depend
    on them. Solo and gang take turns, so that a disturbance meets both.

    Raises:
        RecipeError: everything that is wrong with the recipe.
        UsageError: the data have fewer steps per epoch than are to be measured.
        KdctlError: device or data are missing, or the device cannot compute in a precision that is asked for.
    """
    runs = Planner(recipe, workspace).runs(recipe.points)
    together = form_gangs(runs, size=len(runs))[0]
    sizes = sorted({1, gang_size})
    chosen = [[together[place % len(together)] for place in range(size)] for size in sizes]
    first = runs[0]
    device = require_device(together, workspace)
    prepare(build_compute(first, device), workspace.num_threads)
    with tempfile.TemporaryDirectory(prefix="kdctl-bench-") as folder:
        gangs = [TimedGang(plans, workspace, Path(folder)) for plans in chosen]
        for timed in gangs:
            timed.warm_up(num_steps)
        for _ in range(num_rounds):
            for timed in gangs:
                timed.take(num_steps)
        peak = peak_flops(device, first.engine.student_precision)
        paces = tuple(timed.pace(num_steps, peak) for timed in gangs)
        for timed in gangs:
            timed.gang.data.close()
    return BenchResult(
        run=first.title(),
        device=describe(device),
        torch=torch.__version__,
        num_threads=torch.get_num_threads(),
        precision=first.precision(),
        deterministic=first.engine.deterministic,
        batch_size=first.batch_size,
        steps=num_steps,
        rounds=num_rounds,
        peak_gflop_per_second=peak / 1e9,
        paces=paces,
    )


class TimedGang:
    """A gang under the clock, with fresh weights."""

    def __init__(self, plans: Sequence[RunPlan], workspace: Workspace, folder: Path) -> None:
        """Build the plans, of which one may come several times; states are saved below `folder`."""
        self.gang = _build_gang(plans, workspace, folder)
        self._watch = Stopwatch(self.gang)
        self._seconds: list[float] = []
        self._waited_seconds = 0.0
        self._memory_mib = 0.0

    def warm_up(self, num_steps: int) -> None:
        """Take the first steps, which are slower."""
        available = self.gang.data.train.num_steps - 1 - self._watch.num_ahead
        if max(num_steps, WARMUP_STEPS) > available:
            raise UsageError(
                f"an epoch of these data has {available + 1} step(s): too few to measure {num_steps}.",
                f"pass --steps {available} or less." if available > WARMUP_STEPS else "use more data.",
            )
        # What a table keeps is read, not computed, in the steps that are measured.
        self._watch.take(WARMUP_STEPS if self.gang.table is None else max(num_steps, WARMUP_STEPS))

    def take(self, num_steps: int) -> float:
        """Measure one round; return its wall time in seconds."""
        device = self.gang.compute.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = self._watch.take(num_steps)
        self._seconds.append(seconds)
        self._waited_seconds += self._watch.waited_seconds
        self._memory_mib = max(self._memory_mib, _peak_memory_mib(device))
        return seconds

    def ready(self) -> Steps:
        """Stand before the first step of an epoch, and return what takes steps from there."""
        return self._watch.ready()

    def pace(self, num_steps: int, peak: float) -> Pace:
        """Sum up the rounds."""
        steps = sorted(seconds / num_steps for seconds in self._seconds)
        step = median(steps)
        members = len(self.gang.members)
        flops = _step_flops(self.gang)
        return Pace(
            members=members,
            step_ms=1e3 * step,
            step_ms_range=(1e3 * steps[0], 1e3 * steps[-1]),
            member_ms=1e3 * step / members,
            images_per_second=self._watch.num_images / step,
            step_gflop=flops / 1e9,
            gflop_per_second=flops / step / 1e9,
            share_of_peak=flops / step / peak,
            launches=count_launches(self.ready().take, self.gang.compute.device),
            teacher_outputs=self._teacher_outputs(),
            teacher_lookahead=self.gang.chunks.num_batches,
            waiting_share=self._waited_seconds / sum(self._seconds),
            memory_mib=self._memory_mib,
        )

    def _teacher_outputs(self) -> Literal["kept", "computed", "none"]:
        if not self.gang.teachers:
            return "none"
        return "computed" if self.gang.table is None else "kept"


def _build_gang(plans: Sequence[RunPlan], workspace: Workspace, folder: Path) -> Gang:
    first = plans[0]
    device = choose_device(workspace.device)
    selected = workspace.library.select(first.data)
    sizes = sizes_of(selected)
    teachers = [
        build_architecture(teacher.architecture, sizes).eval().requires_grad_(False)
        for teacher in first.teachers
    ]
    teachers = [teacher.to(device) for teacher in teachers]
    data = build_data(selected, first, device, ImageWorkers(workspace.num_workers))
    members: list[Member] = []
    for place, plan in enumerate(plans):
        student = build_student(plan, sizes)
        distiller = build_distiller(plan, student, teachers, num_samples=len(selected.train), device=device)
        members.append(
            Member(
                key=f"{plan.key}-{place}",
                seed=plan.seed,
                distiller=distiller,
                make_optimizers=functools.partial(build_optimizers, plan.optimizer),
                schedule=plan.schedule.options,
                learning_rate=plan.optimizer.options.learning_rate,
                folder=folder / f"{len(plans)}-{place}",
                plan=plan.tree(),
            )
        )
    gang = Gang(
        members=members,
        teachers=freeze_teachers(first, teachers, data),
        data=data,
        compute=build_compute(first, device),
        graphs=workspace.graphs,
    )
    weights = [f"fresh {id(teacher)}" for teacher in teachers]
    gang.table = find_table(gang, first, weights, workspace)
    return gang


def _step_flops(gang: Gang) -> float:
    """Return the floating-point operations of one step of all members, teachers once."""
    train = gang.data.train
    batch = train.batch(train.order(0, 0), 0)
    with FlopCounterMode(display=False) as counter:
        teachers = gang.teacher_outputs(batch.images)
    total = float(counter.get_total_flops())
    zero = torch.zeros((), device=batch.images.device)
    inputs = StepInputs(batch=batch, teachers=teachers, progress=zero, learning_rate=zero)
    for member in gang.active:
        run_teachers = functools.partial(gang.outputs_for, member)
        for update in member.distiller.updates():
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                member.forward(update, inputs, gang.compute, run_teachers)
            total += 3.0 * update.repeats * counter.get_total_flops()
    return total


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
