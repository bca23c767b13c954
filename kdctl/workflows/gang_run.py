"""One gang from its plans to its results in store and run folders."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kdctl.engine.device import Compute, choose_device, prepare
from kdctl.engine.member import Member
from kdctl.engine.resume import discard_state
from kdctl.engine.trainer import Gang, TrainingData, fit
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, ModelFacts, RunResult, RunState, Selection
from kdctl.store.store import Owner
from kdctl.workflows.assemble import (
    build_compute,
    build_data,
    build_distiller,
    build_member,
    build_student,
    model_facts,
)
from kdctl.workflows.data import sizes_of
from kdctl.workflows.environment import describe_environment
from kdctl.workflows.failure import TRACEBACK, Failure, explain
from kdctl.workflows.memory import require_memory
from kdctl.workflows.progress import Progress
from kdctl.workflows.teachers import LoadedTeacher, TeacherLibrary
from kdctl.workflows.workspace import Workspace

_log = logging.getLogger(__name__)

LEASE_SECONDS = 600.0
"""A run whose process is silent for so long may be taken over: longer than any evaluation takes.

A process that ended on this machine is noticed at once, whatever its lease says.
"""

RENEW_SECONDS = 20.0
"""At most so often leases are renewed."""


@dataclass(kw_only=True)
class GangRun:
    """Trains claimed runs in lockstep; is the engine's observer while it does."""

    workspace: Workspace
    progress: Progress
    stop: Callable[[], bool]
    owner: Owner
    plans: list[RunPlan]
    _facts: dict[str, ModelFacts] = field(default_factory=dict[str, ModelFacts])
    _teacher_top1: float | None = None
    _renewed: float = field(default_factory=time.monotonic)

    def run(self) -> Failure | None:
        """Train all members to their end; return what went wrong, if the gang could not go on.

        Members that a failure finds in training are still the owner's, for another try; after a
        stop they are marked interrupted.
        """
        self.progress.started(self.plans)
        try:
            for gang in self._assemble():
                finished = fit(gang, self, stop=self.stop)
                for member in gang.members:
                    if member.left:
                        continue
                    if finished or member.diverged:
                        self._settle(member, gang.data)
                    else:
                        self._interrupt(member)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything, and must not stop other runs
            return explain(error, self.workspace.device)
        return None

    def step_done(self, gang: Gang) -> None:
        """Pass on where the members stand, and keep their leases alive."""
        num_steps = gang.data.train.num_steps
        for member in gang.active:
            self.progress.stepped(member.key, member.epoch + member.step / num_steps)
        self._renew_leases(gang)

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
        selected = self.workspace.library.select(first.data)
        data = build_data(selected, first.data.options, device)
        sizes = sizes_of(selected)
        for plan in self.plans:
            require_memory(plan, sizes, device)
        teachers = [TeacherLibrary(self.workspace).load(teacher, sizes) for teacher in first.teachers]
        for teacher, loaded in zip(first.teachers, teachers, strict=True):
            if loaded.data_fingerprint != first.data_fingerprint:
                _log.warning("the teacher %s was trained on other data than its student sees", teacher.name)
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
        (folder.path / TRACEBACK).unlink(missing_ok=True)
        folder.write_plan(plan.planned())
        folder.write_environment(environment)
        folder.truncate_epochs(member.epoch)
        self.workspace.store.record_environment(plan.key, environment)

    def _settle(self, member: Member, data: TrainingData) -> None:
        state = RunState.DIVERGED if member.diverged else RunState.FINISHED
        result = self._result(member, state, data)
        folder = self.workspace.folder(member.key)
        names = [f"{rule.value}.pt" for rule in Selection]
        artifacts = [folder.artifact(name) for name in names if (folder.path / name).is_file()]
        folder.write_result(result, artifacts)
        self.workspace.store.settle(member.key, self.owner, result=result, artifacts=artifacts)
        discard_state(member)
        self.progress.ended(self._plan(member.key), state, result, member.diverged)

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

    def _interrupt(self, member: Member) -> None:
        reason = f"stopped in epoch {member.epoch + 1}"
        self.workspace.store.release(member.key, self.owner, state=RunState.INTERRUPTED, reason=reason)
        self.progress.ended(self._plan(member.key), RunState.INTERRUPTED, None, reason)

    def _renew_leases(self, gang: Gang) -> None:
        """Keep the leases alive; a run that another process took over meanwhile leaves the gang."""
        if time.monotonic() - self._renewed <= RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        store = self.workspace.store
        kept = {p.key for p in self.plans if store.renew(p.key, self.owner, lease_seconds=LEASE_SECONDS)}
        for member in gang.active:
            if member.key not in kept:
                member.left = True
                reason = "another process took it over while this one was silent"
                self.progress.ended(self._plan(member.key), RunState.INTERRUPTED, None, reason)

    def _plan(self, key: str) -> RunPlan:
        return next(plan for plan in self.plans if plan.key == key)
