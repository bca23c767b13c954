"""A recipe: what to run, as layers; and the plans that come out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from kdctl.errors import KdctlError, suggestion
from kdctl.recipe.component import Spec
from kdctl.recipe.layers import Layer, Merged, Tree, look_up, merge
from kdctl.recipe.plan import EngineOptions, RunPlan, TeacherRef
from kdctl.recipe.resolve import Catalog, Resolver
from kdctl.recipe.space import Point, Search, grid_points, search_space, tunable_ranges

TEACHER_TABLES = ("optimizer", "schedule", "engine")
"""Sections of the recipe that a `[teacher]` table may overlay for its own training."""


class TeacherSource(Protocol):
    """Finds teachers that exist already."""

    def by_run(self, key: str) -> TeacherRef:
        """Return the teacher that the run with this key (or prefix) trained."""
        ...

    def by_checkpoint(self, path: Path) -> TeacherRef:
        """Return the teacher in a checkpoint file."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlanContext:
    """What planning needs to know of the world outside the recipe."""

    catalog: Catalog
    fingerprint: Callable[[Spec], str]
    """Data set -> SHA-256 of its content."""
    teachers: TeacherSource


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to run: layers of values, seeds, and a grid or a search over them."""

    source: str
    """The file (or words of the command line) it was read from."""
    name: str
    description: str
    protocol: str
    layers: tuple[Layer, ...]
    plugins: tuple[Path, ...]
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    """Of the grid, in order; a single empty point without a grid."""
    search: Search | None
    tree: Tree
    """All layers merged, for the record."""

    def plan(self, point: Point, seed: int, context: PlanContext) -> RunPlan:
        """Resolve one configuration with one seed.

        Raises:
            RecipeError: everything that is wrong with it.
        """
        layers = [*self.layers, point.layer("[grid]")] if point.values else [*self.layers]
        resolver = Resolver(merge(layers), context.catalog)
        plan = _resolve(resolver, self, context, seed)
        resolver.finish()
        return cast(RunPlan, plan)

    def teacher_plan(self, teacher: Mapping[str, Any], data: Spec, context: PlanContext) -> RunPlan:
        """Plan how a teacher given by architecture is trained.

        With `ce`, on the student's data, by the recipe's own optimizer and schedule (not those of a
        grid point or of `-o`), overlaid by what `[teacher]` says itself.
        """
        own = {key: value for key, value in teacher.items() if key in TEACHER_TABLES}
        base = [layer for layer in self.layers if layer.source != "-o"]
        overlay = Layer(
            source="[teacher]", values={"student": {"name": teacher["name"]}, "method": {"name": "ce"}, **own}
        )
        merged = merge([*base, overlay])
        merged.tree["data"] = data.tree()
        merged.tree.pop("teacher", None)
        resolver = Resolver(merged, context.catalog)
        plan = _resolve(resolver, self, context, int(teacher.get("seed", 0)))
        resolver.finish()
        return cast(RunPlan, plan)


def make_recipe(layers: Sequence[Layer], catalog: Catalog) -> Recipe:
    """Check a recipe's headings and expand its grid.

    Raises:
        RecipeError: all mistakes in headings, grid and search. Mistakes in sections show in `plan`.
    """
    merged = merge(layers)
    resolver = Resolver(merged, catalog)
    tree = merged.tree
    if "grid" in tree and "search" in tree:
        resolver.wrong("search", "a recipe has either [grid] or [search].", "leave one of them out.")
    points = grid_points(tree["grid"], resolver) if "grid" in tree else (Point(values={}),)
    source = [layer.source for layer in layers if layer.source != "-o"][-1]
    search = search_space(tree["search"], resolver, _ranges(merged, catalog)) if "search" in tree else None
    recipe = Recipe(
        source=source,
        name=_text(resolver, "name", Path(source).stem),
        description=_text(resolver, "description", ""),
        protocol=_text(resolver, "protocol", "custom"),
        layers=tuple(layers),
        plugins=plugin_paths(layers),
        seeds=_seeds(resolver),
        points=points,
        search=search,
        tree=tree,
    )
    resolver.finish()
    return recipe


def plugin_paths(layers: Sequence[Layer]) -> tuple[Path, ...]:
    """Return the plug-in files the layers name, each relative to the recipe that names it."""
    paths: list[Path] = []
    for layer in layers:
        folder = Path(layer.source).parent if layer.source.endswith(".toml") else Path()
        paths.extend(folder / str(name) for name in layer.values.get("plugins", []))
    return tuple(dict.fromkeys(paths))


def _resolve(resolver: Resolver, recipe: Recipe, context: PlanContext, seed: int) -> RunPlan | None:
    tree = resolver.merged.tree
    data = resolver.component("dataset", tree.get("data"), "data")
    student = resolver.component("model", tree.get("student"), "student")
    method = resolver.component(
        "method", tree.get("method"), "method", "simkd" if "teacher" in tree else "ce"
    )
    optimizer = resolver.component("optimizer", tree.get("optimizer"), "optimizer", "sgd")
    schedule = resolver.component("schedule", tree.get("schedule"), "schedule", "step")
    engine = resolver.record(EngineOptions, tree.get("engine"), "engine")
    teachers = _teachers(resolver, recipe, context, data, method)
    if not (data and student and method and optimizer and schedule and engine) or resolver.mistakes:
        return None
    return RunPlan(
        protocol=recipe.protocol,
        data=data,
        data_fingerprint=context.fingerprint(data),
        student=student,
        teachers=teachers,
        method=method,
        optimizer=optimizer,
        schedule=schedule,
        engine=engine,
        seed=seed,
    )


def _teachers(
    resolver: Resolver, recipe: Recipe, context: PlanContext, data: Spec | None, method: Spec | None
) -> tuple[TeacherRef, ...]:
    tables = _teacher_tables(resolver)
    if method is None or data is None:
        return ()
    fewest, most = resolver.catalog["method"].get(method.name).item.num_teachers
    if most == 0:  # a method that is not taught (`ce`) may stand in a grid beside those that are
        return ()
    if len(tables) < fewest or (most is not None and len(tables) > most):
        wants = (
            f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        )
        resolver.wrong(
            "teacher",
            f"method '{method.name}' wants {wants} teacher(s), the recipe names {len(tables)}.",
            "name one with [teacher] name = '...' or --teacher, or choose method 'ce' to train without.",
        )
        return ()
    if resolver.mistakes:
        return ()
    found = [_teacher(resolver, recipe, context, data, table) for table in tables]
    return tuple(teacher for teacher in found if teacher is not None)


def _teacher_tables(resolver: Resolver) -> list[Mapping[str, Any]]:
    """Return the `[teacher]` table or `[[teacher]]` tables, checked."""
    raw: Any = resolver.merged.tree.get("teacher", [])
    tables: list[Any] = [
        {"name": item} if isinstance(item, str) else item
        for item in (raw if isinstance(raw, list) else [raw])
    ]
    known = ("name", "run", "checkpoint", "seed", *TEACHER_TABLES)
    for table in tables:
        if not isinstance(table, Mapping):
            resolver.wrong(
                "teacher", f"teacher = {table!r} is not a table or a name.", "write [teacher] name = '...'"
            )
            continue
        for key in table:
            if key not in known:
                hint = suggestion(key, known, "Options")
                resolver.wrong(f"teacher.{key}", f"[teacher] has no option '{key}'.", hint)
        if sum(key in table for key in ("name", "run", "checkpoint")) != 1:
            resolver.wrong(
                "teacher",
                "[teacher] needs exactly one of name, run and checkpoint.",
                "name an architecture, a finished run, or a checkpoint file.",
            )
    return tables


def _teacher(
    resolver: Resolver, recipe: Recipe, context: PlanContext, data: Spec, table: Mapping[str, Any]
) -> TeacherRef | None:
    try:
        if "run" in table:
            return context.teachers.by_run(str(table["run"]))
        if "checkpoint" in table:
            return context.teachers.by_checkpoint(Path(str(table["checkpoint"])))
        name = resolver.catalog["model"].get(str(table["name"])).name
        plan = recipe.teacher_plan({**table, "name": name}, data, context)
        return TeacherRef(name=name, run=plan.key, plan=plan)
    except KdctlError as error:
        for mistake in error.mistakes:
            resolver.wrong("teacher", f"[teacher] {mistake.problem}", mistake.hint)
        return None


def _ranges(merged: Merged, catalog: Catalog) -> dict[str, Any]:
    """Return the tunable ranges of what the recipe picks outside its search."""
    sections: list[tuple[str, Any]] = []
    for section, kind, default in (("optimizer", "optimizer", "sgd"), ("method", "method", "")):
        name = look_up(merged.tree, f"{section}.name") or default
        if isinstance(name, str) and name:
            sections.append((section, catalog[kind].get(name).config))
    return tunable_ranges(sections)


def _seeds(resolver: Resolver) -> tuple[int, ...]:
    raw = resolver.merged.tree.get("seeds", [0])
    seeds = list(range(raw)) if isinstance(raw, int) and not isinstance(raw, bool) and raw > 0 else raw
    good = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not good or len(set(cast(list[int], seeds))) != len(cast(list[int], seeds)):
        resolver.wrong(
            "seeds", f"seeds = {raw!r} is not a list of different whole numbers.", "write seeds = [0, 1, 2]."
        )
        return ()
    return tuple(cast(list[int], seeds))


def _text(resolver: Resolver, heading: str, default: str) -> str:
    value = resolver.merged.tree.get(heading, default)
    if not isinstance(value, str):
        resolver.wrong(heading, f"{heading} = {value!r} is not text.", f"write {heading} = '...'.")
        return default
    return value
