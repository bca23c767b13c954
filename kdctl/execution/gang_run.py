"""One gang from its plans to its results, told to a recorder."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kdctl.assembly.build_gangs import BuiltRun, build_gangs
from kdctl.assembly.environment import describe_environment
from kdctl.assembly.failure import Failure, explain, failed_together, lost_device
from kdctl.assembly.progress import Progress
from kdctl.assembly.run_context import RunContext
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.member import Member
from kdctl.engine.pictures import PICTURES
from kdctl.engine.ranks import Ranks
from kdctl.engine.resume import discard_state
from kdctl.engine.trainer import fit
from kdctl.errors import ANY_FAILURE, StoppedError
from kdctl.execution.gang_split import fitting_parts, halves, release_memory
from kdctl.execution.messages import Order, WorkerSetup
from kdctl.execution.recorders import ABORTED, NOT_BEGUN, NOT_READY, RunRecorder
from kdctl.machine_errors import GOES_ON, MachineError, MachineFault, as_machine_errors
from kdctl.plugins import loaded_plugin_files
from kdctl.recipe.plan import RunPlan
from kdctl.records import (
    SHIPPED,
    Environment,
    EpochResult,
    RunResult,
    RunState,
    Selection,
    checkpoint_name,
)
from kdctl.store.json_files import to_json
from kdctl.store.leases import LeaseConfig

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class GangTrainer:
    """Trains claimed runs in this process."""

    context: RunContext
    recorder: RunRecorder
    progress: Progress
    stop: Callable[[], bool]
    until: int | None = None
    """The epoch after which runs pause; None: they train to their end."""
    heartbeat_seconds: float = LeaseConfig.heartbeat_seconds
    on_failure: Callable[[Failure], None] = lambda failure: None
    """Called with what stops a gang, before its members are tried again or given back."""
    ranks: Ranks | None = None
    """The processes that train each run together, led by this one; None: this one alone."""
    _unended: dict[str, RunPlan] = field(default_factory=dict[str, RunPlan])
    """By run key: runs whose end this process has not reported yet."""

    def train(self, plans: Sequence[RunPlan]) -> dict[str, Failure]:
        """Train runs in lockstep to their end; return what stopped those that failed, by run key.

        A gang that memory does not hold trains in parts. One bad member must not fail the others: when a
        gang cannot go on, each member trains on its own, or after a lack of memory each half.

        Raises:
            MachineError: the machine failed, which is no run's fault: all are given back, and their
                last saved states are good. So they are when somebody will not wait for a step.
        """
        self._unended = {plan.key: plan for plan in plans}
        try:
            with as_machine_errors():
                parts = [plans] if self.ranks else fitting_parts(plans, self.context)
                return self._train_parts(parts, "more than memory holds" if len(parts) > 1 else "")
        except MachineError as error:
            self.on_failure(explain(error, self.context.device))
            self._give_back(error.problem)
            raise
        except StoppedError:
            self._give_back(NOT_READY)
            return {}
        except BaseException:
            self._give_back(ABORTED)
            raise

    def follow(self, plans: Sequence[RunPlan]) -> None:
        """Train runs in lockstep along with the process that records them.

        Raises:
            MachineError: this process, or another, cannot go on.
        """
        self._unended = {plan.key: plan for plan in plans}
        with as_machine_errors():
            failure = GangRun(trainer=self, plans=list(plans)).run()
        if failure is not None:
            raise MachineError(failure.fault or failed_together(failure))

    def end(self, key: str, state: RunState, result: RunResult | None, reason: str) -> None:
        """Report that this process trains a run no longer, and why."""
        self.progress.ended(self._unended.pop(key), state, result, reason)

    def _give_back(self, reason: str) -> None:
        """Mark unended runs as interrupted; where the fault forbids to write that, their leases expire."""
        for key in list(self._unended):
            with contextlib.suppress(MachineError), as_machine_errors():
                self.recorder.interrupted(key, reason)
            self.end(key, RunState.INTERRUPTED, None, reason)

    def _train_parts(self, parts: Sequence[Sequence[RunPlan]], reduced: str) -> dict[str, Failure]:
        failed: dict[str, Failure] = {}
        for number, part in enumerate(parts):
            if number and self.stop():  # to build another one may take longer than there is time
                self._give_back(NOT_BEGUN)
                break
            failed |= self._train_part(part, reduced)
        return failed

    def _train_part(self, plans: Sequence[RunPlan], reduced: str) -> dict[str, Failure]:
        """Train runs in lockstep; `reduced` says why they are fewer than was planned, if they are."""
        if self.ranks is not None:
            setup = WorkerSetup.of(self.context, plugins=loaded_plugin_files(), lease=LeaseConfig())
            self.ranks.share((to_json(setup), to_json(Order.of(plans, until=self.until))))
        run = GangRun(trainer=self, plans=list(plans), reduced=reduced)
        failure = run.run()
        if failure is None:
            return {}
        if failure.fault is not None or self.ranks is not None:
            raise MachineError(failure.fault or failed_together(failure))
        self.on_failure(failure)
        if failure.device_lost:
            raise MachineError(lost_device(failure))
        ours = run.still_ours()
        if len(plans) > 1 and failure.out_of_memory:
            del run  # and with it the members
            release_memory(self.context)
            _log.warning("%s; the runs go on in gangs of half the size", failure.problem)
            return self._train_parts(halves(ours), f"out of memory in a gang of {len(plans)}")
        if len(plans) > 1:
            return self._train_parts([[plan] for plan in ours], reduced)
        for plan in ours:
            self.recorder.failed(plan.key, failure)
            self.end(plan.key, RunState.FAILED, None, failure.problem)
        return {plan.key: failure for plan in ours}


@dataclass(kw_only=True)
class GangRun:
    """Trains claimed runs in lockstep; is the engine's observer while it does."""

    trainer: GangTrainer
    plans: list[RunPlan]
    reduced: str = ""
    """Why they are fewer than was planned; empty if they are not."""
    _built: dict[str, BuiltRun] = field(default_factory=dict[str, BuiltRun])
    """By run key."""
    _environments: dict[str, Environment] = field(default_factory=dict[str, Environment])
    _teacher_top1: float | None = None
    _renewed: float = field(default_factory=time.monotonic)
    _ended: set[str] = field(default_factory=set[str])

    def still_ours(self) -> list[RunPlan]:
        """Renew the leases of the runs that have not ended; return those that no other process has taken."""
        self._renewed = time.monotonic()
        open_keys = {plan.key for plan in self.plans} - self._ended
        kept = self.trainer.recorder.renew(open_keys)
        for member in (built.member for built in self._built.values()):
            member.left = member.left or member.key in open_keys - kept
        if self.trainer.ranks is not None and open_keys - kept:
            raise MachineError(MachineFault(problem="another process took a run over.", hint=GOES_ON))
        for key in sorted(open_keys - kept):
            reason = "another process took it over while this one was silent"
            self._end(key, RunState.INTERRUPTED, None, reason)
        return [plan for plan in self.plans if plan.key in kept]

    def run(self) -> Failure | None:
        """Train all members to their end; return what went wrong, if the gang could not go on.

        Members that a failure finds in training are still ours, for another try; after a stop, or where
        they are to pause, they are marked interrupted.
        """
        self.trainer.progress.started(self.plans)
        gangs: list[Gang] = []
        try:
            gangs += self._assembled()
            for gang in gangs:
                finished = fit(gang, self, stop=self.trainer.stop, until=self.trainer.until)
                for member in gang.members:
                    if member.left:
                        continue
                    if finished or member.diverged:
                        self._settle(member, gang.data)
                    else:
                        self._interrupt(member)
        except ANY_FAILURE as error:  # of a plug-in, say, which must not stop other runs
            return explain(error, self.trainer.context.device)
        finally:
            self.trainer.context.restore_working_folder()
            for gang in gangs:
                gang.data.close()
        return None

    def step_done(self, gang: Gang) -> None:
        """Pass on where the members stand, and keep their leases alive."""
        self.trainer.context.restore_working_folder()
        num_steps = gang.data.train.num_steps
        for member in gang.active:
            self._note_execution(member)
            self.trainer.progress.stepped(member.key, member.epoch + member.step / num_steps)
        self._maybe_renew()

    def epoch_done(self, member: Member, result: EpochResult) -> None:
        """Note an epoch's numbers, unless the run left while it was evaluated."""
        self.trainer.context.restore_working_folder()
        self._maybe_renew()
        if member.left:
            return
        self.trainer.recorder.epoch(member.key, result)
        self.trainer.progress.epoch(self._plan(member.key), result)

    def _assembled(self) -> list[Gang]:
        """Build the members. Where several processes train together, all go on, or all raise."""
        ranks, context = self.trainer.ranks, self.trainer.context
        try:
            gangs, self._teacher_top1 = build_gangs(
                self.plans, context, ranks=ranks, on_built=self._note_start, meanwhile=self._meanwhile
            )
        except StoppedError:
            if ranks:
                ranks.stop_together()
            raise
        except ANY_FAILURE as error:
            if ranks:
                ranks.require_all_well(explain(error, context.device).problem)
            raise
        if ranks:
            ranks.require_all_well("")
            places = [(key, run.member.epoch, run.member.step) for key, run in self._built.items()]
            ranks.require_same("it found runs saved at", places)
        return gangs

    def _meanwhile(self) -> None:
        """Keep the leases while images are made ready, and end that where somebody asks to stop."""
        self._maybe_renew()
        if self.trainer.stop():
            raise StoppedError

    def _note_start(self, plan: RunPlan, built: BuiltRun) -> None:
        member = built.member
        member.left = plan.key in self._ended
        self._built[plan.key] = built
        environment = self._environments[plan.key] = describe_environment(
            built.compute,
            data_fingerprint=plan.data_fingerprint,
            teacher_checkpoints=built.teacher_checkpoints,
            gang=tuple(other.key for other in self.plans),
            reduced=self.reduced,
        )
        self.trainer.recorder.opened(plan, environment, epoch=member.epoch)

    def _note_execution(self, member: Member) -> None:
        """Keep how a member's steps are executed, which is known once they are taken."""
        known = self._environments[member.key]
        if known.execution != member.execution:
            known = self._environments[member.key] = replace(known, execution=member.execution)
            self.trainer.recorder.opened(self._plan(member.key), known, epoch=member.epoch)

    def _settle(self, member: Member, data: TrainingData) -> None:
        state = RunState.DIVERGED if member.diverged else RunState.FINISHED
        built = self._built[member.key]
        result = built.result(state, num_images=len(data.train), teacher_test_top1=self._teacher_top1)
        if self.trainer.ranks is None or self.trainer.ranks.leads:
            folder = self.trainer.context.folder(member.key)
            models = [SHIPPED, *(model.name for model in member.distiller.all_models())]
            names = [checkpoint_name(rule, model) for rule in Selection for model in models]
            names += sorted(path.name for path in folder.path.glob(PICTURES))
            artifacts = [folder.artifact(name) for name in names if (folder.path / name).is_file()]
            self.trainer.recorder.settled(member.key, result, artifacts)
            discard_state(folder.path)
        self._end(member.key, state, result, member.diverged)

    def _interrupt(self, member: Member) -> None:
        paused = f"paused after epoch {member.epoch} until it is decided which runs go on"
        stopped = f"stopped in epoch {member.epoch + 1}; its state is saved"
        reason = paused if member.epoch == self.trainer.until else stopped
        self.trainer.recorder.interrupted(member.key, reason)
        self._end(member.key, RunState.INTERRUPTED, None, reason)

    def _maybe_renew(self) -> None:
        """Keep the leases alive; a run that another process took over meanwhile leaves the gang."""
        if time.monotonic() - self._renewed > self.trainer.heartbeat_seconds:
            self.still_ours()

    def _end(self, key: str, state: RunState, result: RunResult | None, reason: str) -> None:
        self._ended.add(key)
        self.trainer.end(key, state, result, reason)

    def _plan(self, key: str) -> RunPlan:
        return next(plan for plan in self.plans if plan.key == key)
