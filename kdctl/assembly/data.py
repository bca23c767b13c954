"""Data sets by name, each read once per process."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kdctl.errors import KdctlError, UsageError, suggestion
from kdctl.machine_errors import GOES_ON, MachineError, MachineFault
from kdctl.protocols.dataset import (
    NO_ROWS,
    DatasetOptions,
    ImageData,
    Split,
    StreamedSplit,
    TestApart,
    datasets,
    fingerprint,
    without_training_images,
)
from kdctl.readers.archive import without_network
from kdctl.readers.selection import Counts, SelectedData, counts_of, expected_counts, select
from kdctl.recipe.component import Spec, places_of
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.plan import RunPlan
from kdctl.serialization import canonical_json
from kdctl.text import plural

_log = logging.getLogger(__name__)


class Sizes(NamedTuple):
    """What a model is built for."""

    num_classes: int
    input_size: int
    """Height and width of the images."""


class DataLibrary:
    """Reads data sets from below one folder and keeps them."""

    def __init__(
        self, root: Path, *, may_fetch: bool = True, places: Mapping[str, str] | None = None
    ) -> None:
        """Look for data below a folder.

        Args:
            root: that folder.
            may_fetch: fetch what is not there from the network.
            places: where data sets lie that were moved since their runs were planned, by the name of the
                option that says so: {'path': '/disk2/pictures'}.
        """
        self.root = root
        self._places = dict(places or {})
        self._network = contextlib.nullcontext if may_fetch else without_network
        self._whole: dict[str, ImageData] = {}
        self._tests: dict[str, ImageData] = {}
        """Without training images."""
        self._fingerprints: dict[str, str] = {}

    def select(self, spec: Spec) -> SelectedData:
        """Return the splits of a data set, cut to the classes and samples the options ask for.

        Raises:
            KdctlError: the data are missing or corrupt, or smaller than the options ask for.
        """
        return select(self._load(spec), spec.options)

    def select_for(self, plan: RunPlan) -> SelectedData:
        """Return what a run reads: one whose method makes its images gets no image of the training set.

        It is not read either, where the data set can be read without it, unless a part of it is held out
        for validation.

        Raises:
            KdctlError: as `select`.
        """
        if not isinstance(plan.method.options, GeneratedImages):
            return self.select(plan.data)
        if plan.data.options.val_fraction > 0:
            selected = self.select(plan.data)
            return dataclasses.replace(selected, train=selected.train.taken(NO_ROWS))
        return select(self._load_test(plan.data), plan.data.options)

    def counts(self, spec: Spec) -> Counts:
        """Return how many images a run on these data sees.

        A published data set, whose numbers are known, is not read for it.

        Raises:
            KdctlError: as `select`.
        """
        form = datasets.get(spec.name).item.published_form
        return expected_counts(form, spec.options) if form else counts_of(self.select(spec))

    def require(self, plans: Iterable[RunPlan]) -> None:
        """Read the data of all these runs now, so that trouble shows before the first one starts.

        Raises:
            KdctlError: as `select_for`.
        """
        different = {
            (canonical_json(plan.data.tree()), isinstance(plan.method.options, GeneratedImages)): plan
            for plan in plans
        }
        for plan in different.values():
            self.select_for(plan)

    def fingerprint(self, spec: Spec) -> str:
        """Return the SHA-256 of a data set's pixels and labels.

        A published data set, whose fingerprint is known, is not read for it; its files are compared with
        that when a run loads them.
        """
        published = datasets.get(spec.name).item.published_fingerprint
        return published or self._computed(spec)

    def _computed(self, spec: Spec) -> str:
        _, source = _located(spec, self._places)
        if source not in self._fingerprints:
            self._fingerprints[source] = fingerprint(self._load(spec))
        return self._fingerprints[source]

    def _load(self, spec: Spec) -> ImageData:
        spec, source = _located(spec, self._places)
        if source not in self._whole:
            with self._network():
                found = datasets.get(spec.name).item.load(spec.options, self.root)
            _require_classes(spec.name, found)
            self._whole[source] = found
            if datasets.get(spec.name).item.published_fingerprint is None:
                _warn_of_shared_images(spec.name, found)
        return self._whole[source]

    def _load_test(self, spec: Spec) -> ImageData:
        """Return a data set without its training images."""
        spec, source = _located(spec, self._places)
        found = datasets.get(spec.name).item
        if source in self._whole or not isinstance(found, TestApart):
            return without_training_images(self._load(spec))
        if source not in self._tests:
            with self._network():
                self._tests[source] = found.load_test(spec.options, self.root)
        return self._tests[source]


def _require_classes(name: str, data: ImageData) -> None:
    """Refuse data of which nothing can be learnt, or whose labels name no class.

    Raises:
        KdctlError: there is one class only, a split is empty, or a label is beyond the classes.
    """
    if data.num_classes < 2:
        only = f", {data.class_names[0]}" if data.class_names else ""
        number = plural(data.num_classes, "class", "classes")
        raise KdctlError(
            f"the data set '{name}' has {number}{only}: there is nothing to tell apart.",
            "give it two classes or more.",
        )
    for what, split in (("training", data.train), ("test", data.test), ("validation", data.val)):
        if split is None:
            continue
        if not len(split):
            raise KdctlError(f"the data set '{name}' has no {what} images.", "give it some.")
        if split.labels.min() < 0 or split.labels.max() >= data.num_classes:
            raise KdctlError(
                f"the data set '{name}' has {what} images whose labels are none of its {data.num_classes} "
                "classes.",
                "labels are ranks from 0 among the names of the classes: mend the plug-in that reads it.",
            )


def _warn_of_shared_images(name: str, data: ImageData) -> None:
    """Say how many images of a test or validation set stand in the training set, too.

    A model may have learned their labels by heart, and then their accuracy says nothing of other images.
    """
    known = set(_digests(data.train))
    for what, split in (("test", data.test), ("validation", data.val)):
        shared = sum(digest in known for digest in _digests(split)) if split is not None else 0
        if split is not None and shared:
            _log.warning(
                "%d of the %s of '%s' also %s in its training set: accuracies tell less of others",
                shared,
                plural(len(split), f"{what} image"),
                name,
                "stands" if shared == 1 else "stand",
            )


def _digests(split: Split | StreamedSplit) -> Iterator[bytes]:
    """Yield a hash of each image: of its pixels, or of its file where images are not all in memory."""
    if isinstance(split, Split):
        return (hashlib.sha256(image.tobytes()).digest() for image in split.images)
    return (digest.tobytes() for digest in split.digests)


def planned_data(plan: RunPlan, library: DataLibrary) -> SelectedData:
    """Return the splits that a run trains on, as they were when it was planned.

    A process that has read them keeps them, whatever becomes of the disk. One that reads them now may
    find them gone or changed, which is not the run's fault.

    Raises:
        MachineError: they cannot be read any more, or are not what they were.
    """
    name = plan.data.name
    try:
        selected, found = library.select_for(plan), library.fingerprint(plan.data)
    except (KdctlError, OSError) as error:
        problem = error.problem if isinstance(error, KdctlError) else f"{error}."
        fault = MachineFault(
            problem=f"the data set '{name}' was there when the run was planned, and is not now: {problem}",
            hint=f"bring it back; {GOES_ON}",
        )
        raise MachineError(fault) from error
    if found != plan.data_fingerprint:
        fault = MachineFault(
            problem=f"the data set '{name}' in {library.root} is not what it was when the run was planned.",
            hint=f"bring back the files that it had; {GOES_ON}",
        )
        raise MachineError(fault)
    return selected


def sizes_of(data: SelectedData) -> Sizes:
    """Return what a model of these data is built for."""
    return Sizes(num_classes=data.num_classes, input_size=data.train.input_size)


def counted_sizes(counts: Counts) -> Sizes:
    """Return what a model of data of which only the numbers are known is built for."""
    return Sizes(num_classes=counts.num_classes, input_size=counts.input_size)


def _located(spec: Spec, places: Mapping[str, str]) -> tuple[Spec, str]:
    """Return a data set where it lies now, and the name of what is read from there.

    That name is made of the data set's own options, without those that every data set has.

    Raises:
        UsageError: it has no such place.
    """
    known = places_of(spec.options)
    for name in places:
        if name not in known:
            raise UsageError(
                f"data.{name} of '{spec.name}' is no place: it says what runs are trained on.",
                suggestion(name, known, "Places"),
            )
    moved = dataclasses.replace(spec, options=dataclasses.replace(spec.options, **places))
    shared = DatasetOptions.__dataclass_fields__
    return moved, canonical_json({key: value for key, value in moved.tree().items() if key not in shared})
