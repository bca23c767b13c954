"""One gang from its plans to its results in store and run folders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kdctl.engine.device import Compute, choose_device, prepare
from kdctl.engine.member import Member
from kdctl.engine.trainer import Gang, TrainingData, fit
from kdctl.errors import KdctlError
from kdctl.recipe.plan import RunPlan
from kdctl.records import Artifact, EpochResult, ModelFacts, RunResult, RunState, Selection
from kdctl.store.store import Owner
from kdctl.workflows.assemble import (
    build_compute,
    build_data,
    build_distiller,
    build_member,
    build_student,
    model_facts,
)
from kdctl.workflows.data import DataLibrary, sizes_of
from kdctl.workflows.environment import describe_environment
from kdctl.workflows.progress import Progress
from kdctl.workflows.teachers import LoadedTeacher, TeacherLibrary
from kdctl.workflows.workspace import Workspace

LEASE_SECONDS = 120.0
"""A run whose process is silent for so long may be taken over."""

RENEW_SECONDS = 20.0


@dataclass(kw_only=True)
class GangRun:
    """Trains claimed runs in lockstep; is the engine's observer while it does."""

    workspace: Workspace
    library: DataLibrary
    progress: Progress
    stop: Callable[[], bool]
    owner: Owner
    plans: list[RunPlan]
    _facts: dict[str, ModelFacts] = field(default_factory=dict[str, ModelFacts])
    _teacher_top1: float | None = None
    _renewed: float = field(default_factory=time.monotonic)

    def run(self) -> Exception | None:
        """Train all members to their end; return what went wrong, if the gang could not go on.

        After an error no member is settled; after a stop all are marked interrupted.
        """
        self.progress.started(self.plans)
        try:
            gangs = self._assemble()
            for gang in gangs:
                if fit(gang, self, stop=self.stop):
                    self._settle(gang)
                else:
                    self._interrupt(gang)
        except (KdctlError, RuntimeError, ValueError, MemoryError) as error:
            return error
        return None

    def step_done(self, gang: Gang) -> None:
        """Pass on where the members stand, and keep their leases alive."""
        num_steps = gang.data.train.num_steps
        for member in gang.active:
            self.progress.stepped(member.key, member.epoch + member.step / num_steps)
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            self._renewed = time.monotonic()
            for plan in self.plans:
                self.workspace.store.renew(plan.key, self.owner, lease_seconds=LEASE_SECONDS)

    def epoch_done(self, member: Member, result: EpochResult) -> None:
        """Write an epoch's numbers into run folder and store."""
        self.workspace.folder(member.key).append_epoch(result)
        self.workspace.store.record_epoch(member.key, result)
        self.progress.epoch(self._plan(member.key), result)

    def _assemble(self) -> list[Gang]:
        """Build the members; those that a resume puts at different steps train one group after the other."""
        first = self.plans[0]
        device = choose_device(self.workspace.device)
        compute = build_compute(first, device)
        prepare(compute, self.workspace.num_threads)
        selected = self.library.select(first.data)
        data = build_data(selected, first.data.options, device)
        sizes = sizes_of(selected)
        teachers = [TeacherLibrary(self.workspace).load(teacher, sizes) for teacher in first.teachers]
        backbones = [teacher.backbone.to(device) for teacher in teachers]
        self._teacher_top1 = max((t.test_top1 for t in teachers if t.test_top1 is not None), default=None)
        places: dict[tuple[int, int], list[Member]] = {}
        for plan in self.plans:
            student = build_student(plan, sizes)
            distiller = build_distiller(
                plan, student, backbones, num_samples=len(selected.train), device=device
            )
            self._facts[plan.key] = model_facts(distiller, backbones)
            member = build_member(plan, distiller, self.workspace)
            self._open_folder(plan, member, teachers, compute)
            places.setdefault((member.epoch, member.step), []).append(member)
        return [
            Gang(members=members, teachers=backbones, data=data, compute=compute)
            for members in places.values()
        ]

    def _open_folder(
        self, plan: RunPlan, member: Member, teachers: list[LoadedTeacher], compute: Compute
    ) -> None:
        """Say in the run's folder what runs and where; drop epochs that a resume will repeat."""
        environment = describe_environment(
            compute,
            data_fingerprint=plan.data_fingerprint,
            teacher_checkpoints=tuple(teacher.checkpoint_sha256 for teacher in teachers),
            gang=tuple(other.key for other in self.plans),
        )
        folder = self.workspace.folder(plan.key)
        folder.write_plan(plan.planned())
        folder.write_environment(environment)
        folder.truncate_epochs(member.epoch)
        self.workspace.store.record_environment(plan.key, environment)

    def _settle(self, gang: Gang) -> None:
        for member in gang.members:
            plan = self._plan(member.key)
            state = RunState.DIVERGED if member.diverged else RunState.FINISHED
            result = self._result(member, state, gang.data)
            folder = self.workspace.folder(member.key)
            names = [f"{rule.value}.pt" for rule in Selection]
            artifacts: list[Artifact] = [folder.artifact(n) for n in names if (folder.path / n).is_file()]
            folder.write_result(result, artifacts)
            self.workspace.store.settle(member.key, self.owner, result=result, artifacts=artifacts)
            self.progress.ended(plan, state, result, member.diverged)

    def _result(self, member: Member, state: RunState, data: TrainingData) -> RunResult:
        images = len(data.train) * member.epoch
        return RunResult(
            state=state,
            epochs=member.epoch,
            selected=dict(member.selected),
            facts=self._facts[member.key],
            teacher_test_top1=self._teacher_top1,
            train_seconds=member.train_seconds,
            images_per_second=images / member.train_seconds if member.train_seconds else 0.0,
            reason=member.diverged,
        )

    def _interrupt(self, gang: Gang) -> None:
        for member in gang.active:
            reason = f"stopped in epoch {member.epoch + 1}"
            self.workspace.store.release(member.key, self.owner, state=RunState.INTERRUPTED, reason=reason)
            self.progress.ended(self._plan(member.key), RunState.INTERRUPTED, None, reason)

    def _plan(self, key: str) -> RunPlan:
        return next(plan for plan in self.plans if plan.key == key)
