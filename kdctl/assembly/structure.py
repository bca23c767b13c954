"""How a method joins student and teachers: built without weights, to see what does not fit and to show it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from kdctl.assembly.architecture import Architecture, build_architecture
from kdctl.assembly.assemble import (
    count_parameters,
    join,
    make_projector,
    model_facts,
    require_average,
    require_single_gradient,
)
from kdctl.assembly.data import DataLibrary, Sizes, counted_sizes
from kdctl.assembly.failure import asks_for_numbers, brief
from kdctl.assembly.operations import ImageOperations, OperationCounter, same_operations
from kdctl.assembly.sanity_checks import require_known_taps, require_step, tried_projector
from kdctl.engine.device import shapes_computed, shapes_only
from kdctl.engine.parted_steps import require_parts
from kdctl.engine.phases import Span, divide
from kdctl.engine.sync_batch_norm import require_eager
from kdctl.errors import ANY_FAILURE, KdctlError, place_of
from kdctl.protocols.backbone import Backbone, Shape
from kdctl.protocols.distiller import Distiller, Match, methods
from kdctl.protocols.maps import tap_and_size
from kdctl.readers.selection import Counts
from kdctl.recipe.component import Spec
from kdctl.recipe.plan import RunPlan
from kdctl.records import ModelFacts
from kdctl.serialization import canonical_json
from kdctl.working_folder import kept_working_folder


@dataclass(frozen=True, kw_only=True)
class MatchedTaps:
    """A tap of the student that is held against one of a teacher."""

    student: str
    student_shape: Shape
    teacher: str
    teacher_shape: Shape
    weight: float | None
    """What the distance is multiplied by within the method's own term; None: the method does not tell."""


@dataclass(frozen=True, kw_only=True)
class PhaseStructure:
    """What one phase of the training reads and trains."""

    name: str
    """Empty where there is only one."""
    epochs: int
    matches: tuple[MatchedTaps, ...]
    reads_teacher_logits: bool
    untrained: tuple[str, ...]
    """Modules that no loss of this phase trains."""
    groups: tuple[str, ...]
    """What is trained by an optimizer of its own; one name where there is only one."""
    updates: tuple[str, ...]
    """What a training step consists of, in order: an empty name where it is one update."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A method around its student and teachers."""

    phases: tuple[PhaseStructure, ...]
    added: Mapping[str, int]
    """Modules that the method trains besides the student, with their parameters."""
    facts: ModelFacts


class Structures:
    """Builds methods without weights, each combination of method, models and data once."""

    def __init__(self, library: DataLibrary) -> None:
        """Ask `library` how many classes and samples there are, and how large the images are."""
        self._library = library
        self._counts: dict[str, Counts] = {}
        self._models: dict[tuple[Architecture, Sizes], Backbone] = {}
        self._known: dict[str, Structure | KdctlError] = {}
        self._counter = OperationCounter()
        self._operations: dict[Hashable, ImageOperations] = {}

    def counts(self, data: Spec) -> Counts:
        """Return how many images a run on these data sees.

        Raises:
            KdctlError: the data are missing or corrupt, or smaller than the options ask for.
        """
        name = canonical_json(data.tree())
        if name not in self._counts:
            self._counts[name] = self._library.counts(data)
        return self._counts[name]

    def of(self, plan: RunPlan, counts: Counts) -> Structure:
        """Return how a run on so many images is built; the seed does not matter, the optimizer rarely.

        Raises:
            KdctlError: models, projector, method and length of the run do not fit together.
        """
        names = [plan.student.name, *(teacher.tree() for teacher in plan.teachers)]
        known = canonical_json([names, plan.method.tree(), list(counts), plan.epochs, _engine(plan)])
        if known not in self._known:
            try:
                with kept_working_folder():
                    self._known[known] = self._build(plan, counts)
            except KdctlError as error:
                self._known[known] = error
        structure = self._known[known]
        if isinstance(structure, KdctlError):
            raise structure
        return structure

    def operations(self, plan: RunPlan, counts: Counts) -> ImageOperations:
        """Return what a run computes for each image, counted on what was built for its structure.

        A method that cannot be built or asked without numbers counts like its student.

        Raises:
            KdctlError: a model cannot be built.
        """
        known = _alike(plan, counts)
        if known not in self._operations:
            with contextlib.suppress(KdctlError):
                self.of(plan, counts)
        if known not in self._operations:
            sizes = counted_sizes(counts)
            teachers = [self._model(teacher.architecture, sizes) for teacher in plan.teachers]
            self._operations[known] = self._counter.alone(self._model(plan.student.name, sizes), teachers)
        return self._operations[known]

    def weight_bytes(self, plan: RunPlan, counts: Counts) -> int:
        """Return how large the weights of a run's student are.

        Raises:
            KdctlError: the model cannot be built.
        """
        weights = self._model(plan.student.name, counted_sizes(counts)).state_dict().values()
        return sum(tensor.numel() * tensor.element_size() for tensor in weights)

    def _build(self, plan: RunPlan, counts: Counts) -> Structure:
        try:
            with shapes_computed():
                distiller, structure = self._describe(plan, counts, self._model, tried_projector)
        except KdctlError:
            raise
        except ANY_FAILURE:  # code that needs numbers, not only shapes: it may do better with them
            return self._build_with_numbers(plan, counts)
        known = _alike(plan, counts)
        if known not in self._operations:
            try:
                self._operations[known] = self._counter.of(distiller, plan)
            except ANY_FAILURE as error:  # of a plug-in's code, which may need numbers; or it is wrong
                if not asks_for_numbers(error):
                    self._try_step(plan, counts)
        return structure

    def _try_step(self, plan: RunPlan, counts: Counts) -> None:
        """Take a step with numbers, on what may be too large to be built here.

        Raises:
            KdctlError: the method's code fails at it, and where.
        """
        try:
            distiller, _ = self._describe(plan, counts, build_architecture, make_projector)
        except ANY_FAILURE:  # it is built without numbers; why not with them, the run will show
            return
        require_step(distiller, plan, counts.num_train)

    def _build_with_numbers(self, plan: RunPlan, counts: Counts) -> Structure:
        """Build a run as it will be trained, and take a step.

        Raises:
            KdctlError: a plug-in's code fails at it, and where.
        """
        try:
            distiller, structure = self._describe(plan, counts, build_architecture, make_projector)
            require_step(distiller, plan, counts.num_train)
            return structure
        except KdctlError:
            raise
        except ANY_FAILURE as error:
            raise KdctlError(
                f"it cannot be built: {brief(error)} ({place_of(error)}).", "mend the code it names."
            ) from error

    def _describe(
        self,
        plan: RunPlan,
        counts: Counts,
        build_model: Callable[[Architecture, Sizes], Backbone],
        projector: Callable[[Spec, Shape, Shape], nn.Module],
    ) -> tuple[Distiller, Structure]:
        sizes = counted_sizes(counts)
        teachers = [build_model(teacher.architecture, sizes) for teacher in plan.teachers]
        distiller = join(
            plan.method,
            build_model(plan.student.name, sizes),
            teachers,
            seed=plan.seed,
            student_name=plan.student.name,
            num_samples=counts.num_train,
            rng=torch.Generator("cpu"),
            projector=projector,
        )
        batch_size = plan.data.options.batch_size
        require_parts(distiller, plan.engine.batch_parts, batch_size, counts.num_train)
        require_eager(plan.engine)
        require_average(distiller, plan.engine.average_decay)
        require_single_gradient(plan)
        distiller.check_optimizer(plan.optimizer)
        return distiller, describe(distiller, teachers, plan.epochs)

    def _model(self, architecture: Architecture, sizes: Sizes) -> Backbone:
        """Return a model that students and teachers of all combinations may share: it has no weights."""
        if (architecture, sizes) not in self._models:
            with shapes_only():
                self._models[architecture, sizes] = build_architecture(architecture, sizes).eval()
        return self._models[architecture, sizes]


def _alike(plan: RunPlan, counts: Counts) -> Hashable:
    """Return what decides how much a run computes for an image, and what its method keeps of all of them."""
    return same_operations(plan, counted_sizes(counts)), counts.num_train


def _engine(plan: RunPlan) -> list[object]:
    """Return what of arithmetic and optimizer may not fit a method."""
    checks = methods.get(plan.method.name).item.check_optimizer is not Distiller.check_optimizer
    optimizer = plan.optimizer.tree() if checks else plan.optimizer.name
    engine = plan.engine
    arithmetic = [engine.batch_parts, engine.average_decay, engine.sync_batch_norm, engine.compile_student]
    return [*arithmetic, plan.data.options.batch_size, optimizer]


def describe(distiller: Distiller, teachers: Sequence[Backbone], epochs: int) -> Structure:
    """Return what a distiller reads, adds and trains in each of its phases.

    Raises:
        KdctlError: there are fewer epochs than phases.
    """
    spans = divide(distiller.phases(), epochs)
    known = {distiller.student, *(model.module for model in distiller.all_models())}
    added = {
        name: count
        for name, module in distiller.named_children()
        if module not in known and (count := count_parameters(module)) > 0
    }
    phases = tuple(_phase(distiller, span) for span in spans)
    return Structure(phases=phases, added=added, facts=model_facts(distiller, teachers))


def _phase(distiller: Distiller, span: Span) -> PhaseStructure:
    distiller.look_at(span.phase)
    require_known_taps(distiller)
    return PhaseStructure(
        name=span.phase.name,
        epochs=span.epochs,
        matches=tuple(_matched(distiller, match) for match in distiller.matches()),
        reads_teacher_logits=bool(distiller.setup.teachers) and distiller.reads_teacher_logits,
        untrained=tuple(distiller.frozen_modules()),
        groups=tuple(group.name for group in distiller.optimized() if group.parameters),
        updates=tuple(update.name for update in distiller.updates()),
    )


def _matched(distiller: Distiller, match: Match) -> MatchedTaps:
    teacher, _ = tap_and_size(match.teacher)
    return MatchedTaps(
        student=match.student,
        student_shape=distiller.student.tap_shapes[match.student],
        teacher=teacher,
        teacher_shape=distiller.setup.teachers[match.teacher_index].tap_shapes[teacher],
        weight=match.weight,
    )
