"""What a recipe says about its report: `[report]`, and `[[reported]]` numbers of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt

from kdctl.recipe.resolve import Resolver
from kdctl.records import Selection


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The `[report]` table: how the table of a sweep is laid out unless the command line says so."""

    rows: tuple[str, ...] = ()
    """Fields that make a row; none: those that tell the configurations apart."""
    columns: tuple[str, ...] = ()
    """Fields that are spread over columns."""
    select: Selection = Selection.LAST
    """Which epoch counts."""


@dataclass(frozen=True, kw_only=True)
class ReportedNumber:
    """One `[[reported]]` table: a number that others published, and the rows it stands beside."""

    match: Mapping[str, Any]
    """Fields and values that a row must have."""
    top1: float
    """Test accuracy in percent."""
    std: Annotated[float, Ge(0)] | None = None
    """In percent points; None: the source does not say."""
    num_trials: Annotated[int, Gt(0)] | None = None
    """How many runs stand behind it; None: the source does not say."""
    select: Selection | None = None
    """Which epoch was taken; None: the source does not say."""
    protocol: str | None = None
    """Under which training preset; None: the source does not say."""
    label: str = ""
    source: str = ""


def check_reporting(resolver: Resolver) -> None:
    """Note what is wrong with `[report]` and `[[reported]]`."""
    tree = resolver.merged.tree
    resolver.record(ReportOptions, tree.get("report"), "report")
    tables = tree.get("reported", [])
    if not isinstance(tables, list):
        resolver.wrong("reported", "reported is not a list of tables.", "write it as [[reported]].")
        return
    for number, table in enumerate(tables, start=1):
        resolver.record(ReportedNumber, table, f"reported.{number}")
