"""What to know of plans before training: which images, how long for, and what looks wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from kdctl.assembly.catalog import full_catalog
from kdctl.readers.selection import Counts
from kdctl.recipe.component import Spec
from kdctl.recipe.layers import look_up
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe
from kdctl.recipe.values_in_toml import as_written
from kdctl.text import plural

_LENGTH = "schedule.epochs"

_MOST_DATA = 4
"""Data sets and selections of them that are told one by one."""

_LEAST_CROP = 0.7
"""Of the scaled side of an image, what an evaluation usually sees at least; 224 of 256 is 0.875."""


def plan_notes(
    recipe: Recipe,
    teachers: Sequence[RunPlan],
    students: Sequence[RunPlan],
    counts: Callable[[Spec], Counts],
) -> tuple[str, ...]:
    """Return lines for people, without an end; those that begin with 'warning: ' are about what looks wrong.

    Args:
        recipe: where the plans come from.
        teachers: runs that are trained first.
        students: all other runs.
        counts: how many images a data set has.
    """
    students = list({plan.configuration: plan for plan in students}.values())  # seeds are alike
    return tuple(
        dict.fromkeys(
            [
                *_images((*teachers, *students), counts),
                *_lengths(teachers, students),
                *_unsaid_length(recipe, students),
                *_parts((*teachers, *students)),
                *_new_classifiers(students, counts),
                *_idle_whens(recipe, teachers),
                *(f"warning: {line}" for line in _warnings((*teachers, *students), counts)),
            ]
        )
    )


def _images(plans: Iterable[RunPlan], counts: Callable[[Spec], Counts]) -> Iterator[str]:
    """Say how many images of how many classes runs see: of data of one's own nobody else knows."""
    told = list(dict.fromkeys((plan.data.name, counts(plan.data)) for plan in plans))
    for name, seen in told[:_MOST_DATA]:
        held_out = f"{seen.num_val:,} validation, " if seen.num_val else ""
        yield (
            f"data: {name}, {plural(seen.num_classes, 'class', 'classes')}; {seen.num_train:,} training, "
            f"{held_out}{seen.num_test:,} test images of {seen.input_size} by {seen.input_size}"
        )
    if len(told) > _MOST_DATA:
        yield f"data: and {plural(len(told) - _MOST_DATA, 'other selection')}"


def _lengths(teachers: Sequence[RunPlan], students: Sequence[RunPlan]) -> Iterator[str]:
    """Say how long teachers and students are trained, side by side."""
    if not teachers or not students:
        return
    taught = dict.fromkeys((teacher.student.name, teacher.epochs) for teacher in teachers)
    named = ", ".join(f"{name} {epochs}" for name, epochs in taught)
    unit = "epochs" if any(epochs != 1 for _, epochs in taught) else "epoch"
    lengths = sorted({plan.epochs for plan in students})
    own = "" if {epochs for _, epochs in taught} == set(lengths) else "each by its own schedule; "
    yield (
        f"length: {'teachers' if len(taught) > 1 else 'teacher'} {named} {unit}, students "
        f"{', '.join(map(str, lengths))} ({own}teacher.{_LENGTH} is the teacher's, {_LENGTH} that of both)"
    )


def _idle_whens(recipe: Recipe, teachers: Sequence[RunPlan]) -> Iterator[str]:
    """Warn of `[[when]]` blocks that hold for no run: a name may be misspelt, which nobody has checked."""
    for when in recipe.idle_whens([teacher.student.name for teacher in teachers], full_catalog()):
        conditions = ", ".join(
            f"{dotted} = {' or '.join(map(as_written, values))}" for dotted, values in when.conditions.items()
        )
        yield (
            f"warning: [[when]] {conditions} holds for no run, and what it sets is left out (a condition "
            "sees what the recipe says, not the defaults)"
        )


def _unsaid_length(recipe: Recipe, students: Sequence[RunPlan]) -> Iterator[str]:
    spaces: list[Iterable[str]] = [point.values for point in recipe.points]
    if recipe.search:
        spaces.append(recipe.search.space)
    said = look_up(recipe.tree, _LENGTH) is not None or any(
        field.startswith("schedule") for space in spaces for field in space
    )
    if students and not said:
        yield (
            f"note: {recipe.source} does not say how long to train: {students[0].epochs} epochs, the "
            f"default of {_LENGTH}"
        )


def _parts(plans: Iterable[RunPlan]) -> Iterator[str]:
    """Say how many images a batch norm or a loss sees at a time where batches are taken in parts."""
    for plan in plans:
        batch_size, parts = plan.data.options.batch_size, plan.engine.batch_parts
        if parts > 1:
            each = -(-batch_size // parts)
            where = f"on {parts} devices" if plan.engine.sync_batch_norm else "on one device or several"
            seen = (
                f"batch norms see all of it, losses that compare images of a batch {each:,} at a time"
                if plan.engine.sync_batch_norm
                else f"batch norms and losses that compare images of a batch see {each:,} at a time"
            )
            yield f"parts: each batch of {batch_size:,} in {parts} parts, {where}; {seen}"


def _new_classifiers(plans: Iterable[RunPlan], counts: Callable[[Spec], Counts]) -> Iterator[str]:
    """Say which given weights are of other classes, so that all but the classifier starts from them.

    Whether as many classes of other data are the same ones, nobody knows: those weights start whole.
    """
    for plan in plans:
        if plan.weights is None or not (given := plan.weights.num_classes):
            continue
        own = counts(plan.data).num_classes
        if given == own and plan.weights.data_fingerprint not in ("", plan.data_fingerprint):
            yield (
                f"note: the weights that {plan.student.name} starts from were trained on other images of as "
                "many classes: its classifier starts from them, too"
            )
        if given != own:
            yield (
                f"note: the weights that {plan.student.name} starts from tell {given:,} classes apart, the "
                f"data {own:,}: its classifier is drawn anew"
            )


def _warnings(plans: Iterable[RunPlan], counts: Callable[[Spec], Counts]) -> Iterator[str]:
    trainings: dict[str, dict[str, dict[str, None]]] = {}
    """What looks wrong -> students -> their methods: a recipe of ten methods is told of it once."""
    for plan in plans:
        yield from _of_numbers(plan.data.options, counts(plan.data))
        yield from _of_normalisation(plan.data.options)
        yield from _of_evaluation(plan.data.options)
        if plan.engine.teacher_lookahead > 1 and plan.engine.batch_parts > 1:
            yield (
                f"engine.teacher_lookahead = {plan.engine.teacher_lookahead} changes nothing where batches "
                "are taken in parts"
            )
        if plan.engine.sync_batch_norm and plan.engine.batch_parts == 1:
            yield "engine.sync_batch_norm changes nothing where batches are taken whole"
        yield from _idle(plan.data.options)
        for line in _of_schedule(plan.schedule.options, plan.epochs):
            trainings.setdefault(line, {}).setdefault(plan.student.name, {})[plan.method.name] = None
    for line, students in trainings.items():
        named = "; ".join(f"{name} by {', '.join(methods)}" for name, methods in students.items())
        yield f"{line}, in the training of {named}"


def _of_numbers(options: Any, counts: Counts) -> Iterator[str]:
    """Tell of numbers that do not fit those of the images."""
    num_train, batch_size = counts.num_train, options.batch_size
    if batch_size > num_train:
        yield (
            f"data.batch_size = {batch_size:,} is more than the {num_train:,} training images: each "
            "epoch is one step"
        )
    wanted = options.samples_per_class or 0
    kept = num_train + (counts.num_val if options.val_fraction else 0)
    if wanted * counts.num_classes > kept:
        yield (
            f"data.samples_per_class = {wanted:,}, but not every class has as many training images: "
            f"{kept:,} images of {counts.num_classes:,} classes are taken"
        )
    if options.augmentation.name in ("crop", "crop-flip") and options.padding >= counts.input_size:
        yield (
            f"data.padding = {options.padding} around images of {counts.input_size} by {counts.input_size}: "
            "some random crops see nothing of an image"
        )


def _of_normalisation(options: Any) -> Iterator[str]:
    numbers: tuple[float, ...] = (*getattr(options, "mean", ()), *getattr(options, "std", ()))
    if any(not 0 <= number <= 1 for number in numbers):
        yield (
            f"data.mean = {list(options.mean)}, data.std = {list(options.std)}: both are of pixels from 0 to "
            "1; divide by 255 what is of pixels from 0 to 255"
        )


def _of_evaluation(options: Any) -> Iterator[str]:
    """Tell of an evaluation that sees little of each image, as where `data.size` alone was lowered."""
    size, resize = getattr(options, "size", 0), getattr(options, "resize", 0)
    if size < _LEAST_CROP * resize:
        yield (
            f"data.size = {size}, data.resize = {resize}: an evaluation scales the shorter side of an image "
            f"to {resize} and sees the middle {size} of it; data.resize = {round(size * 256 / 224)} is usual"
        )
    if 0 < (stored := getattr(options, "stored_side", 0)) < max(size, resize):
        yield (
            f"data.stored_side = {stored}, data.resize = {resize}: images are scaled down to {stored} and up "
            f"again; data.stored_side = {max(size, resize)} keeps what an evaluation sees"
        )


def _idle(options: Any) -> Iterator[str]:
    """Name settings that change nothing without another one: a grid over them trains all the same."""
    share = getattr(options, "mix_probability", 1.0)
    if share < 1 and not options.mixup and not options.cutmix:
        yield f"data.mix_probability = {share:g} changes nothing without data.mixup or data.cutmix"
    augmentation: Any = getattr(options.augmentation, "options", None)
    if getattr(augmentation, "randaugment", None) != 0:
        return
    usual = type(augmentation)()
    for name in ("magnitude", "operation_probability"):
        value = getattr(augmentation, name, None)
        if value is not None and value != getattr(usual, name):
            where = "data.augmentation"
            yield f"{where}.{name} = {value:g} changes nothing without {where}.randaugment"


def _of_schedule(options: Any, epochs: int) -> Iterator[str]:
    warmup = getattr(options, "warmup_epochs", 0)
    if warmup >= epochs:
        of = f"{warmup} of {plural(epochs, 'epoch')}"
        yield f"schedule.warmup_epochs = {of}: the full learning rate is never reached"
    milestones: tuple[int, ...] = getattr(options, "milestones", ())
    late = [milestone for milestone in milestones if milestone >= epochs]
    if late:
        named = ", ".join(map(str, late))
        yield (
            f"schedule.milestones {named} are not reached in {plural(epochs, 'epoch')} "
            "(-o schedule.name=cosine fits any length): the rate does not drop there"
        )
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        yield f"schedule.milestones {', '.join(map(str, milestones))} do not rise"
