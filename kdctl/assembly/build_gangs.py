"""From plans of runs that train together to gangs: data and teachers once, a member for each plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from kdctl.assembly.assemble import build_compute, build_data, freeze_teachers, model_facts
from kdctl.assembly.data import planned_data, sizes_of
from kdctl.assembly.initial_weights import build_run
from kdctl.assembly.memory import require_memory, require_room
from kdctl.assembly.run_context import RunContext
from kdctl.assembly.teacher_cache import find_table
from kdctl.assembly.teachers import load_teacher
from kdctl.engine.device import Compute, choose_device, prepare
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.member import Member
from kdctl.engine.ranks import Ranks
from kdctl.readers.selection import SelectedData
from kdctl.recipe.plan import RunPlan
from kdctl.records import ModelFacts, RunResult, RunState

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuiltRun:
    """A member, and what its record says of it."""

    member: Member
    facts: ModelFacts
    compute: Compute
    teacher_checkpoints: tuple[str, ...]
    """SHA-256 of each teacher's checkpoint file."""

    def result(self, state: RunState, *, num_images: int, teacher_test_top1: float | None) -> RunResult:
        """Return what came of it.

        Args:
            state: how it ended.
            num_images: of an epoch.
            teacher_test_top1: of its best teacher, in percent; None: not known.
        """
        member = self.member
        images = num_images * member.epoch
        return RunResult(
            state=state,
            epochs=member.epoch,
            selected=dict(member.selected),
            facts=self.facts,
            teacher_test_top1=teacher_test_top1,
            train_seconds=member.train_seconds,
            images_per_second=images / member.train_seconds if member.train_seconds else 0.0,
            reason=member.diverged,
            models_before=dict(member.models_before),
        )


def build_gangs(
    plans: Sequence[RunPlan],
    context: RunContext,
    *,
    ranks: Ranks | None,
    on_built: Callable[[RunPlan, BuiltRun], None],
    meanwhile: Callable[[], None],
) -> tuple[list[Gang], float | None]:
    """Build runs that share data, teachers and seed.

    Members that a resume puts at different steps come in several gangs, to be trained one after the other,
    those that are furthest first.

    Args:
        plans: of the runs.
        context: what they are built in.
        ranks: the processes that train each run together; None: this one alone.
        on_built: is told of each member at once, also when a later one cannot be built.
        meanwhile: is called again and again while images are made ready; what it raises ends it all.

    Returns:
        The gangs, and the test accuracy of the best teacher in percent, where one is known.

    Raises:
        KdctlError: data or teachers are not there or do not fit, or no memory of this size holds them.
        MemoryError: what is free does not hold all of them together.
    """
    first = plans[0]
    device = choose_device(context.device)
    compute = build_compute(first, device)
    prepare(compute, context.num_threads)
    selected = planned_data(first, context.library)
    data = build_data(selected, first, device, ImageWorkers(context.num_workers, meanwhile))
    try:
        return _gangs_on(data, selected, plans, context, compute=compute, ranks=ranks, on_built=on_built)
    except BaseException:
        data.close()  # else its processes and its memory would stay beside those of the next try
        raise


def _gangs_on(
    data: TrainingData,
    selected: SelectedData,
    plans: Sequence[RunPlan],
    context: RunContext,
    *,
    compute: Compute,
    ranks: Ranks | None,
    on_built: Callable[[RunPlan, BuiltRun], None],
) -> tuple[list[Gang], float | None]:
    """Return what `build_gangs` does, on these data."""
    first, device, sizes = plans[0], compute.device, sizes_of(selected)
    for plan in plans:
        require_memory(plan, sizes, device)
    teachers = [load_teacher(teacher, selected, context) for teacher in first.teachers]
    for teacher, loaded in zip(first.teachers, teachers, strict=True):
        if loaded.data_fingerprint != first.data_fingerprint:
            _log.warning("the teacher %s was trained on other data than its student sees", teacher.name)
    backbones = [teacher.backbone.to(device) for teacher in teachers]
    frozen = freeze_teachers(first, backbones, data)
    checkpoints = tuple(teacher.checkpoint_sha256 for teacher in teachers)
    members_by_place: dict[tuple[int, int], list[Member]] = {}
    trained: list[Tensor] = []
    for plan in plans:
        member = build_run(plan, selected, backbones, context, device)
        facts = model_facts(member.distiller, backbones)
        on_built(plan, BuiltRun(member=member, facts=facts, compute=compute, teacher_checkpoints=checkpoints))
        members_by_place.setdefault((member.epoch, member.step), []).append(member)
        trained += member.distiller.parameters()
    require_room(trained, device)
    gangs = [
        Gang(members=members, teachers=frozen, data=data, compute=compute, graphs=context.graphs, ranks=ranks)
        for _, members in sorted(members_by_place.items(), reverse=True)
    ]
    for gang in gangs if compute.options.batch_parts == 1 else ():
        gang.table = find_table(gang, first, checkpoints, context)
    return gangs, max((t.test_top1 for t in teachers if t.test_top1 is not None), default=None)
