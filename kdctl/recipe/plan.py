"""A plan: one fully resolved run, with the key that identifies its content."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from kdctl.recipe.component import PLUGIN_NUMERICS, Spec, content_of
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.history import HEADING, told_by
from kdctl.recipe.optimization import Schedule
from kdctl.recipe.sections import PLUGIN_SECTIONS, STUDENT_WEIGHTS
from kdctl.records import PlannedRun
from kdctl.serialization import canonical_json, to_tree

SCHEMA = 1
"""Version of the recipe and plan format."""

NUMERICS = 4
"""Raised when a change of kdctl alters the numbers of all existing plans: old results are then not reused.

What alters those of one method, model, data set, projector, optimizer or schedule raises its own number
instead, where it is registered: `@methods.register("kd", numerics=2)`."""

MODEL = "model"
"""Key of a stored teacher's table: how a model is put together that is more than an architecture."""

PART = "part"
"""Key of a stored teacher's tables: which model of its run it is, where that is not the one the run ships."""

KEY_LENGTH = 16
"""Hexadecimal digits of a key (64 bits)."""

SHOWN = 8
"""Of them, where people read."""


@dataclass(frozen=True, kw_only=True)
class ShippedModel:
    """How the model of a run is put together that ships more than its student."""

    student: Spec
    method: Spec
    teachers: tuple[TeacherRef, ...]
    """Of that run: parts of them may be shipped, too."""
    seed: int = 0
    """Of the weights that are drawn before the trained ones take their place."""
    part: str = ""
    """Another model of that run is meant, by name: an adapted teacher, a peer; empty: the one it ships."""

    @property
    def name(self) -> str:
        """A short name for people: 'resnet8 (simkd)'; another model of a run: 'resnet8 (atsc, teacher)'."""
        part = f", {self.part}" if self.part else ""
        return f"{self.student.name} ({self.method.name}{part})"

    def tree(self) -> dict[str, Any]:
        """Return it as plain dicts and scalars."""
        teachers = [teacher.tree() for teacher in self.teachers]
        part = {PART: self.part} if self.part else {}
        return {"student": self.student.tree(), "method": self.method.tree(), "teachers": teachers, **part}


@dataclass(frozen=True, kw_only=True)
class TeacherRef:
    """A teacher, identified by what trained it or by its weights."""

    name: str
    """Canonical name of its architecture; or that of the run's method beside the student's."""
    run: str = ""
    """Key of the run that trains it; empty for a checkpoint from elsewhere."""
    checkpoint_sha256: str = ""
    """SHA-256 of the checkpoint file, when it is given as a file."""
    checkpoint: str = field(default="", compare=False)
    """Path of that file: where it lies, not what it is."""
    plan: RunPlan | None = field(default=None, compare=False)
    """How it is trained, when it is given by architecture; `run` stands for it."""
    numerics: int = 1
    """Of its architecture: what it tells of an image changes with that."""
    model: ShippedModel | None = field(default=None, compare=False)
    """How it is put together, when it is more than an architecture; run or weights stand for it."""
    trained_on: TrainedOn | None = field(default=None, compare=False, repr=False)
    """The data of a teacher that was trained before, while it is planned."""

    @property
    def where(self) -> str:
        """Which run or file it is, in words."""
        return f"run {self.run}" if self.run else self.checkpoint

    @property
    def architecture(self) -> str | ShippedModel:
        """What is built before it gets its weights."""
        return self.model or self.name

    def content(self) -> dict[str, Any]:
        """Return what identifies the teacher."""
        source = {"run": self.run} if self.run else {"checkpoint_sha256": self.checkpoint_sha256}
        part = {PART: self.model.part} if self.model and self.model.part else {}
        return {
            "name": self.name,
            **source,
            **part,
            **({PLUGIN_NUMERICS: self.numerics} if self.numerics > 1 else {}),
        }

    def tree(self) -> dict[str, Any]:
        """Return what identifies the teacher, and how it is put together."""
        return {**self.content(), **({MODEL: self.model.tree()} if self.model else {})}


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Trained weights that a student starts from, identified by their run or by their file."""

    run: str = ""
    """Key of that run; empty for a file."""
    sha256: str = ""
    """SHA-256 of the file."""
    file: str = field(default="", compare=False)
    """Its path: where it lies, not what it is."""
    num_classes: int = field(default=0, compare=False)
    """That these weights tell apart; 0 in plans that are read from a store."""
    data_fingerprint: str = field(default="", compare=False)
    """Of what they were trained on; empty in plans from a store, and of files from elsewhere."""

    @classmethod
    def named(cls, identity: str) -> InitialWeights:
        """Return the weights that a stored plan means."""
        return cls(run=identity) if len(identity) == KEY_LENGTH else cls(sha256=identity)

    @property
    def identity(self) -> str:
        """What a plan says of them: the run's key, or the hash of the file."""
        return self.run or self.sha256


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What a teacher was trained on, to be held against what its student sees."""

    data: Mapping[str, Any]
    """As its plan was stored."""
    fingerprint: str
    other_data: bool = False
    """True: the recipe says that other data are meant (`teacher.other_data`)."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One run, every value explicit. What is printed and stored is what runs."""

    protocol: str
    """Name of the training preset a family of papers uses; a label, not part of the key."""
    data: Spec
    data_fingerprint: str
    """SHA-256 of pixels and labels."""
    student: Spec
    weights: InitialWeights | None = None
    """What the student starts from; None: weights that the seed draws."""
    teachers: tuple[TeacherRef, ...]
    method: Spec
    optimizer: Spec
    schedule: Spec
    engine: EngineOptions
    seed: int
    """Of initialisation, data order, augmentation and the method's randomness."""

    @property
    def epochs(self) -> int:
        """Length of the run."""
        return cast(Schedule, self.schedule.options).epochs

    @property
    def batch_size(self) -> int:
        """Training images in an update: the method's, where it makes them itself."""
        options = self.method.options
        return (options if isinstance(options, GeneratedImages) else self.data.options).batch_size

    def tree(self) -> dict[str, Any]:
        """Return the plan as plain dicts and scalars, as it is stored."""
        return {
            "schema": SCHEMA,
            "numerics": NUMERICS,
            "protocol": self.protocol,
            **self._table(Spec.tree, TeacherRef.tree),
            "engine": to_tree(self.engine),
            "seed": self.seed,
        }

    @functools.cached_property
    def configuration(self) -> str:
        """Hash of everything that can change the run's numbers, except the seed."""
        content = {**self._table(Spec.content, TeacherRef.content), "engine": content_of(self.engine)}
        return content_key({"numerics": NUMERICS, **content})

    @functools.cached_property
    def key(self) -> str:
        """Hash of everything that can change the run's numbers, and of nothing else."""
        return key_of(self.configuration, self.seed)

    def planned(self) -> PlannedRun:
        """Return the record by which the store gets to know the run."""
        history: dict[str, dict[str, Any]] = {}
        for section in (*PLUGIN_SECTIONS, "engine"):
            for heading, told in told_by(getattr(self, section), section).items():
                history.setdefault(heading, {}).update(told)
        past = {HEADING: history} if any(history.values()) else {}
        return PlannedRun(
            key=self.key, configuration=self.configuration, seed=self.seed, plan={**self.tree(), **past}
        )

    def with_seed(self, seed: int) -> RunPlan:
        """Return the same configuration with another seed; what does not depend on it is not hashed again."""
        twin = dataclasses.replace(self, seed=seed)
        vars(twin)["configuration"] = self.configuration  # where `cached_property` keeps it
        return twin

    def title(self) -> str:
        """Return a short name for people: what is trained, and from whom."""
        return f"{self.pair()} · {self.method.name} · seed {self.seed}"

    def pair(self) -> str:
        """Return who is taught by whom: 'resnet8 <- resnet20'; a student alone is just named."""
        teachers = " + ".join(teacher.name for teacher in self.teachers)
        student = self.student.name
        if self.weights:
            student += f" (from {self.weights.identity[:SHOWN]})"
        return f"{student} <- {teachers}" if teachers else student

    def precision(self) -> str:
        """Return the student's precision, and that of the teachers where it is another."""
        student, teacher = self.engine.student_precision, self.engine.teacher_precision
        return student if not self.teachers or teacher == student else f"{student}, teacher {teacher}"

    def _table(
        self, table: Callable[[Spec], dict[str, Any]], teacher: Callable[[TeacherRef], dict[str, Any]]
    ) -> dict[str, Any]:
        start = {STUDENT_WEIGHTS: self.weights.identity} if self.weights else {}
        return {
            "data": table(self.data),
            "data_fingerprint": self.data_fingerprint,
            "student": table(self.student) | start,
            "teachers": list(map(teacher, self.teachers)),
            "method": table(self.method),
            "optimizer": table(self.optimizer),
            "schedule": table(self.schedule),
        }


def key_of(configuration: str, seed: int) -> str:
    """Return the key of the run of a configuration with a seed."""
    return content_key({"configuration": configuration, "seed": seed})


def content_key(tree: Mapping[str, Any]) -> str:
    """Return the key of a run, or of a configuration, with this content."""
    return hashlib.sha256(canonical_json(tree).encode()).hexdigest()[:KEY_LENGTH]
