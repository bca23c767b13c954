"""What a number is about: two under one title must be about the same.

Accuracies can be compared where the data, the classes and images used, the protocol and the length of
training are the same. A caption names these, rows that differ in one are told apart by it, and a published
number about something else gets no difference. A data set's name does not say which images it has: two
folders of one's own have the same name.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdctl.report.fields import read_field, show_value, varying_fields, without_repeats

SUBJECT_FIELDS = (
    "data.name",
    "data.num_classes",
    "data.samples_per_class",
    "data.val_fraction",
    "protocol",
    "schedule.epochs",
)
"""Rows that differ in one of these are about different things."""

_FINGERPRINT = "data_fingerprint"
_TELL_IMAGES_APART = (("data.path",), ("data.size",), ("data.path", "data.size"))
"""Fields by which readers may know images of one name, rather than by their fingerprint."""

_WORDS = {
    "data.name": "data sets",
    "data.num_classes": "numbers of classes",
    "data.samples_per_class": "numbers of images",
    "data.val_fraction": "shares held out for validation",
    "protocol": "protocols",
    "schedule.epochs": "numbers of epochs",
    "data.path": "folders",
    "data.size": "sizes of images",
    _FINGERPRINT: "images",
}


def unlike_subjects(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the `SUBJECT_FIELDS` in which plans differ, and what tells images of one name apart."""
    varying = varying_fields(plans)
    return [*(field for field in SUBJECT_FIELDS if field in varying), *_images_apart(without_repeats(plans))]


def _images_apart(plans: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Return the fields that say which images plans have whose data have one name; none where that says it.

    A folder's path says it only if each path has images of its own: they may have changed since, or moved.
    """

    def num_told(*fields: str) -> int:
        return len({tuple(read_field(plan, field) for field in ("data.name", *fields)) for plan in plans})

    num_sets = num_told(_FINGERPRINT)
    if num_sets == num_told():
        return ()
    for fields in _TELL_IMAGES_APART:
        if num_sets == num_told(*fields) == num_told(_FINGERPRINT, *fields):
            return fields
    return (_FINGERPRINT,)


def unlike_words(field: str) -> str:
    """Word a subject field for a note, in the plural: 'numbers of epochs'."""
    return _WORDS[field]


@dataclass(frozen=True, kw_only=True)
class SharedWords:
    """What all plans have in common, worded for captions and titles; each is empty where they differ."""

    pair: str
    """Teacher and student, or the one that is the same for all."""
    method: str
    protocol: str
    length: str


def shared_words(plans: Sequence[Mapping[str, Any]], *, but: Container[str] = ()) -> SharedWords:
    """Word what all plans share that have it, but for the fields that are told elsewhere."""
    teacher, student, method, protocol, epochs = (
        "" if field in but else _shared_value(plans, field)
        for field in ("teachers", "student.name", "method.name", "protocol", "schedule.epochs")
    )
    return SharedWords(
        pair=f"teacher {teacher}"
        if teacher and not student
        else " → ".join(filter(None, (teacher, student))),
        method=method,
        protocol=f"protocol {protocol}" if protocol else "",
        length=("1 epoch" if epochs == "1" else f"{epochs} epochs") if epochs else "",
    )


def _shared_value(plans: Sequence[Mapping[str, Any]], field: str) -> str:
    values = {read_field(plan, field) for plan in plans} - {None}
    return show_value(values.pop()) if len(values) == 1 else ""


def data_words(plan: Mapping[str, Any], fields: Sequence[str], totals: Mapping[str, int]) -> str:
    """Name data with what was used of them: 'cifar100 (4 of 100 classes, 60 images each)'.

    Args:
        plan: one of those that agree in `fields`.
        fields: the fields of data that may be named: those in which all rows agree.
        totals: number of classes of data sets, where it is known; empty for plans of several data sets, of
            which each has its own.
    """
    name = read_field(plan, "data.name") if "data.name" in fields else None
    used = ", ".join(used_words(plan, fields, totals))
    if not name:
        return used
    return f"{name} ({used})" if used else str(name)


def used_words(plan: Mapping[str, Any], fields: Sequence[str], totals: Mapping[str, int]) -> list[str]:
    """Say what was left out of the data: classes, images, a part held out; nothing when all were used."""
    num_classes, images, held_out = (
        read_field(plan, field) if field in fields else None
        for field in ("data.num_classes", "data.samples_per_class", "data.val_fraction")
    )
    total = totals.get(str(read_field(plan, "data.name")))
    words: list[str] = []
    if num_classes is not None and num_classes != total:
        words.append(f"{num_classes} of {total} classes" if total else f"{num_classes} classes")
    if images is not None:
        words.append(f"{images} images each" if words else f"{images} images of each class")
    if held_out:
        words.append(f"{100 * held_out:g} % held out")
    return words
