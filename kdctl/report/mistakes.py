"""What is wrong with the table that a recipe asks for, as far as it shows before there are runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdctl.errors import UsageError
from kdctl.recipe.report_section import reported_numbers
from kdctl.records import Selection
from kdctl.registry import folded
from kdctl.report.fields import flatten, known_fields, read_field, resolve_field
from kdctl.report.layout_kind import USUAL_LAYOUT, layouts
from kdctl.report.measures import find_measures
from kdctl.text import one_or_several


def wrong_options(options: Mapping[str, Any], plans: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what a recipe's `[report]` names that runs of these plans will not have."""
    wrong = list(wrong_names(options, plans))
    yield from (f"[report] {name}: {words}" for name, words in wrong)
    if any(read_field(plan, "data.val_fraction") for plan in plans):
        return
    told = {name for name, _ in wrong}
    kind = layouts.get(options.get("layout") or USUAL_LAYOUT).item if "layout" not in told else None
    wanted = {
        "select": options.get("select") == Selection.BEST_VAL,
        "best_by": options.get("best_by") == "val",
        "layout": "best_by" not in options and kind is not None and kind.best_by == "val",
        "values": any(word.startswith("val_") for word in one_or_several(options.get("values", ()))),
    }
    for name in (name for name, is_so in wanted.items() if is_so and name not in told):
        yield f"[report] {name}: no run holds out validation images, which it needs: data.val_fraction = 0.1"


def wrong_names(options: Mapping[str, Any], plans: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the options of a recipe's `[report]` that name what there is not, each with what is wrong."""
    known = known_fields(plans)
    found: dict[str, set[str]] = {"rows": set(), "columns": set()}

    def look_up_field(name: str, word: str) -> None:
        found[name].add(resolve_field(word, known))

    look_ups: dict[str, Callable[[str], object]] = {
        "layout": layouts.get,
        "rows": lambda word: look_up_field("rows", word),
        "columns": lambda word: look_up_field("columns", word),
        "values": lambda word: find_measures([word]),
    }
    for name, look_up in look_ups.items():
        for word in one_or_several(options.get(name, ())):
            try:
                look_up(word)
            except UsageError as error:
                near, question, _ = error.hint.partition("?")  # without the list of all there are
                yield name, f"{error.problem} {near}{question}"
    yield from (("columns", f"'{field}' is one of the rows.") for field in found["rows"] & found["columns"])


def doubtful_numbers(
    tables: Any, plans: Iterable[Mapping[str, Any]], is_option: Callable[[str], bool]
) -> Iterator[str]:
    """Yield what looks like a slip in the `[[reported]]` tables of a recipe that was checked.

    A paper's table is wider than what is run here, and a number without a row is no slip. One whose `match`
    has a field that no run of any recipe has will never stand anywhere.

    Args:
        tables: of the recipe.
        plans: of its runs.
        is_option: whether some plug-in has an option of this name.
    """
    known = known_fields(plans)
    seen: dict[str, tuple[str, float]] = {}
    for place, number in _numbers_in(tables):
        top1, match = number["top1"], flatten(number["match"])
        where = f"[reported.{place}] {number.get('label') or number.get('source', '')}".rstrip()
        for name in match:
            if not _is_field(name, known, is_option):
                yield f"{where}: no run of any recipe has a field '{name}', so that it stands nowhere"
        if 0 < top1 < 1:
            yield f"{where}: top1 = {top1} is less than one percent, and accuracies are in percent"
        first, shown = seen.setdefault(_about(number, match), (where, top1))
        if top1 != shown:
            yield f"{where}: {top1} is about the same rows as {first}, whose {shown} stands there"


def _numbers_in(tables: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for place, table in enumerate(tables, start=1):
        yield from ((place, number) for number in reported_numbers([table]))


def _about(number: Mapping[str, Any], match: Mapping[str, Any]) -> str:
    """Return the same for two numbers of which only one can stand in a table."""
    alike = {
        name.removesuffix(".name"): folded(value) if isinstance(value, str) else value
        for name, value in match.items()
    }
    return repr((sorted(alike.items()), [number.get(name) for name in ("select", "protocol", "epochs")]))


def _is_field(name: str, known: Sequence[str], is_option: Callable[[str], bool]) -> bool:
    last = name.removesuffix(".name").rpartition(".")[2]
    is_known = any(f".{field}".endswith((f".{name}", f".{name}.name")) for field in known)
    return is_known or last in ("teacher", "teachers", "weights") or is_option(last)
