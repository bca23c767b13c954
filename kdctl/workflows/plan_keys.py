"""Whether stored plans are those of the runs whose keys they go by."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from kdctl.errors import Mistake
from kdctl.recipe.history import HEADING
from kdctl.recipe.imported import ImportedPlan, is_imported
from kdctl.recipe.plan import RunPlan, key_of
from kdctl.recipe.sections import Catalog
from kdctl.recipe.stored import is_plan, read_any
from kdctl.records import PlannedRun
from kdctl.store.folder import RunFolder
from kdctl.store.json_files import to_json


class KeysOfPlans:
    """Computes the keys of stored plans anew; those that differ in their seed are read once.

    The catalog, which loads torch, is made when the first key is asked for.
    """

    def __init__(self) -> None:
        """Know no plan yet."""
        self._read: dict[str, RunPlan | ImportedPlan | None] = {}

    def of(self, plan: Mapping[str, Any]) -> str | None:
        """Return the key that a plan has; None if that is not known here, empty if it is no plan."""
        if not is_plan(plan):
            return ""
        text = to_json({**plan, "seed": 0})
        if text not in self._read:
            try:
                self._read[text] = read_any(plan, self._catalog)
            except ValueError:
                return ""
        known = self._read[text]
        if isinstance(known, RunPlan):
            known = known.with_seed(plan["seed"])
        return known and known.key

    @functools.cached_property
    def _catalog(self) -> Catalog:
        from kdctl.assembly.catalog import full_catalog  # noqa: PLC0415 - loads torch

        return full_catalog()


def foreign_plan(
    planned: PlannedRun, folder: RunFolder, keys: KeysOfPlans, *, is_known: bool = False
) -> Iterator[Mistake]:
    """Compute a run's key anew from its plan, and compare it with the one it goes by.

    A plan whose plug-in is not loaded, or that another version wrote, is taken as it is: unless
    the same run has a plan elsewhere that can be read here (`is_known`).
    """
    key = keys.of(planned.plan)
    yield from _foreign(planned, folder, "" if key is None and is_known else key)


def foreign_key(planned: PlannedRun, folder: RunFolder) -> Iterator[Mistake]:
    """Hold a run's key against its configuration and its seed, for which no plug-in need be loaded.

    That is enough for a plan that lies there with its checksum, as it was written.
    """
    plan, configuration = planned.plan, planned.configuration
    key = "" if not is_plan(plan) else configuration if is_imported(plan) else None
    yield from _foreign(planned, folder, key_of(configuration, planned.seed) if key is None else key)


def same_plan(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two stored plans have the same values; what these mean for older plans is left out."""
    return all(one.get(name) == other.get(name) for name in {*one, *other} - {HEADING})


def _foreign(planned: PlannedRun, folder: RunFolder, key: str | None) -> Iterator[Mistake]:
    if (key is not None and key != folder.key) or planned.plan.get("seed") != planned.seed:
        yield Mistake(
            problem=f"{folder.path} is not run {folder.key}: its plan.json was altered.",
            hint=f"restore the file from a copy, or remove the run: `kdctl runs rm {folder.key}`.",
        )
