"""A recipe: what to run, as layers; and the plans that come out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kdctl.errors import Mistake
from kdctl.recipe.bounds import LARGEST_SEED, MOST_SEEDS
from kdctl.recipe.component import Spec
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.layer_mistakes import (
    idle_teachers,
    idle_whens,
    misnamed_sections,
    overruled,
    unknown_headings,
)
from kdctl.recipe.layers import NAME, Layer, Merged, Tree, When, flat, merge
from kdctl.recipe.limits import Limits, read_limits
from kdctl.recipe.load import OVERRIDES, SMOKE, are_texts
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.report_section import check_reporting, numbers_of_their_task
from kdctl.recipe.resolve import OF_TEACHER, Resolver
from kdctl.recipe.sections import Catalog, with_canonical_names
from kdctl.recipe.space import Point, Search, grid_points, search_space
from kdctl.recipe.teacher_section import (
    PlanContext,
    TeacherFinder,
    TeacherOptions,
    find_weights,
    read_teachers,
)
from kdctl.recipe.values_in_toml import as_written
from kdctl.text import printable

_LONGEST_NAME = 200
"""Letters of a recipe's name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """What to run: layers of values, seeds, and a grid or a search over them."""

    source: str
    """The file (or words of the command line) it was read from."""
    name: str
    description: str
    protocol: str
    layers: tuple[Layer, ...]
    """With all names in their canonical spelling."""
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    """Of students without a teacher: `seeds`, and perhaps more."""
    points: tuple[Point, ...]
    """Of the grid, in order; a single empty point without a grid, none for a search."""
    search: Search | None
    limits: Limits
    """What ends it before all of its runs are done."""
    tree: Tree
    """All layers merged, for the record."""

    def plan(self, point: Point, seed: int, context: PlanContext) -> RunPlan:
        """Resolve one configuration with one seed.

        Raises:
            RecipeError: everything that is wrong with it.
        """
        return self._resolve(self._resolver(point, context.catalog), seed, context)

    def mistakes_at(self, point: Point, catalog: Catalog) -> list[Mistake]:
        """Return what is wrong with the sections at a point, as far as it shows without data."""
        resolver = self._resolver(point, catalog)
        resolver.sections()
        resolver.record(EngineOptions, resolver.merged.tree.get("engine"), "engine")
        read_teachers(resolver)
        return resolver.mistakes

    def tree_at(self, point: Point, catalog: Catalog) -> Tree:
        """Return all layers merged at a point, as they are written: neither checked nor completed."""
        return self._merged(point.layer(self.source), catalog).tree

    def overruled(self, catalog: Catalog) -> list[Mistake]:
        """Return a mistake for each override of the command line that no configuration has."""
        said = {
            dotted: value
            for layer in self.layers
            if layer.source == OVERRIDES
            for dotted, value in flat(layer.values).items()
        }
        above = {dotted for layer in self.layers if layer.above_grid for dotted in flat(layer.values)}
        points = self.search.probes() if self.search else self.points

        def tree_at(point: Point) -> Tree:
            return self._merged(point.layer(OVERRIDES), catalog).tree

        lost = overruled(
            {dotted: value for dotted, value in said.items() if dotted not in above},
            points,
            tree_at,
            space="search.space" if self.search else "grid",
            axes=self.tree["search"]["space"] if self.search else self.tree.get("grid"),
        )
        return [*lost, *idle_teachers(said, map(tree_at, points), catalog)]

    def idle_whens(self, teachers: Sequence[str], catalog: Catalog) -> list[When]:
        """Return the `[[when]]` blocks of its own file that hold neither at a point nor for a teacher."""
        if not any(layer.whens for layer in self.layers if layer.source == self.source):
            return []
        points = self.search.probes() if self.search else self.points
        trees = [self.tree_at(point, catalog) for point in points]
        trees += [{**trees[0], "student": {NAME: name}, "method": {NAME: "ce"}} for name in teachers]
        return idle_whens(self.layers, self.source, trees, self.search.space if self.search else ())

    def teacher_plan(self, teacher: TeacherOptions, data: Spec, context: PlanContext) -> RunPlan:
        """Plan how a teacher given by architecture is trained.

        With `ce`, on the student's data, by the recipe's own optimizer and schedule, `-o` among them (not
        those of a grid point), overlaid by what `[teacher]` says itself.

        Raises:
            RecipeError: everything that is wrong with it.
        """
        known = (self, repr((teacher, data)))
        if known not in context.trained_teachers:
            whole = {"student": {NAME: teacher.name}, "method": {NAME: "ce"}}
            top = Layer(source=f"{self.source}{OF_TEACHER}", values={**whole, **teacher.overlay()})
            merged = self._merged(top, context.catalog)
            merged.tree.update(whole, data=data.tree())  # no option of the student's own is left
            merged.tree.pop("teacher", None)
            resolver = Resolver(merged, context.catalog, self.source)
            context.trained_teachers[known] = self._resolve(resolver, teacher.seed, context)
        return context.trained_teachers[known]

    def _resolver(self, point: Point, catalog: Catalog) -> Resolver:
        where = f"{self.source} [{'search' if self.search else 'grid'}]"
        return Resolver(self._merged(point.layer(where), catalog), catalog, self.source)

    def _merged(self, top: Layer, catalog: Catalog) -> Merged:
        """Merge the recipe's layers with one that lies on top of all but those above the grid."""
        below = [layer for layer in self.layers if not layer.above_grid]
        above = [layer for layer in self.layers if layer.above_grid]
        return merge([*below, with_canonical_names(top, catalog), *above])

    def _resolve(self, resolver: Resolver, seed: int, context: PlanContext) -> RunPlan:
        sections = resolver.sections()
        engine = resolver.record(EngineOptions, resolver.merged.tree.get("engine"), "engine")
        finder = TeacherFinder(
            existing=context.teachers,
            plan_training=lambda teacher, data: self.teacher_plan(teacher, data, context),
        )
        teachers = finder.find(resolver, sections["data"], sections["method"])
        weights = find_weights(context.teachers, resolver, sections["student"], sections["data"])
        resolver.finish()
        parts = cast(dict[str, Spec], sections)
        options = cast(EngineOptions, engine)
        return RunPlan(
            protocol=self.protocol,
            data_fingerprint=context.fingerprint(parts["data"]),
            weights=weights,
            teachers=teachers,
            engine=options.as_used(with_teachers=bool(teachers)),
            seed=seed,
            **parts,
        )


def make_recipe(layers: Sequence[Layer], catalog: Catalog) -> Recipe:
    """Check a recipe's headings and expand its grid.

    Raises:
        RecipeError: all mistakes in headings, grid and search; and if there are any, those in the
            sections as well. Mistakes in sections alone show in `plan`.
    """
    canonical = [with_canonical_names(layer, catalog) for layer in layers]
    merged = merge(canonical)
    tree = merged.tree
    source = next(layer.source for layer in reversed(layers) if layer.source not in (OVERRIDES, SMOKE))
    resolver = Resolver(merged, catalog, source)
    resolver.mistakes.extend(mistake for layer in layers for mistake in _mistakes_in_layer(layer, catalog))
    seeds, points = _seeds(resolver), _points(resolver)
    recipe = Recipe(
        source=source,
        name=_name(resolver, Path(source).stem),
        description=_text(resolver, "description", ""),
        protocol=_text(resolver, "protocol", "custom"),
        layers=tuple(canonical),
        seeds=seeds,
        baseline_seeds=_baseline_seeds(resolver, seeds),
        points=points,
        search=search_space(tree["search"], resolver) if "search" in tree else None,
        limits=read_limits(resolver, seeds=seeds, num_points=len(points)),
        tree=tree,
    )
    check_reporting(resolver)
    resolver.mistakes.extend(recipe.overruled(catalog))
    if resolver.mistakes:
        first = recipe.search.probes()[:1] if recipe.search else recipe.points[:1]
        misnamed = tuple(f" [{section}] does not say which " for section in misnamed_sections(layers))
        more = (mistake for point in first for mistake in recipe.mistakes_at(point, catalog))
        resolver.mistakes.extend(m for m in more if not any(words in m.problem for words in misnamed))
    resolver.finish()
    if "reported" in tree:
        probes = recipe.search.probes() if recipe.search else recipe.points
        tree["reported"] = numbers_of_their_task(canonical, tree, probes)
    return recipe


def _mistakes_in_layer(layer: Layer, catalog: Catalog) -> Iterator[Mistake]:
    yield from unknown_headings(layer, catalog)
    yield from layer.mistakes
    plugins = layer.values.get("plugins", [])
    if not are_texts(plugins):
        problem = f"{layer.source}: plugins = {as_written(plugins)} is not a list of files."
        yield Mistake(problem=problem, hint="write plugins = ['mine.py'].")


def _points(resolver: Resolver) -> tuple[Point, ...]:
    tree = resolver.merged.tree
    if "grid" in tree and "search" in tree:
        resolver.wrong("search", "a recipe has either [grid] or [search].", "leave one of them out.")
    if "search" in tree:
        return ()
    return grid_points(tree["grid"], resolver) if "grid" in tree else (Point(values={}),)


def _seeds(resolver: Resolver) -> tuple[int, ...]:
    raw: Any = resolver.merged.tree.get("seeds", [0])
    number = raw if type(raw) is int else len(raw) if isinstance(raw, list) else 0
    if number > MOST_SEEDS:
        problem = f"seeds: {number:,} are more than the {MOST_SEEDS:,} that a recipe may have."
        resolver.wrong("seeds", problem, "write seeds = 3: that many runs of each configuration.")
        return ()
    seeds: Any = list(range(raw)) if type(raw) is int else raw
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        problem = (
            f"seeds = {as_written(raw)} is not a list of different whole numbers (up to {LARGEST_SEED}), "
            "nor how many there are."
        )
        resolver.wrong("seeds", problem, "write seeds = [0, 1, 2], or seeds = 3.")
        return ()
    return tuple(seeds)


def _baseline_seeds(resolver: Resolver, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Return the seeds of students without a teacher: as many as `baseline_seeds` says."""
    tree = resolver.merged.tree
    number: Any = tree.get("baseline_seeds")
    if number is None or not seeds or resolver.merged.origin("seeds") == SMOKE:
        return seeds
    if type(number) is not int or not len(seeds) <= number <= MOST_SEEDS:
        problem = (
            f"baseline_seeds = {as_written(number)} is not a whole number of at least {len(seeds)}, "
            "which all have."
            if type(number) is not int or number < len(seeds)
            else f"baseline_seeds = {number} are more than the {MOST_SEEDS:,} that a recipe may have."
        )
        resolver.wrong("baseline_seeds", problem, "say how many seeds the students without a teacher get.")
        return seeds
    deciding = [section for section in ("search", "racing", "pruning") if section in tree]
    if "target_std_error" in tree.get("budget", {}):
        deciding.append("budget.target_std_error")
    if deciding:
        problem = f"baseline_seeds does not go with {deciding[0]}, which decides from equal seeds of all."
        resolver.wrong("baseline_seeds", problem, "leave one of them out.")
    if max(seeds) + number - len(seeds) > LARGEST_SEED:
        problem = f"baseline_seeds goes on after the largest seed, and there are too few after {max(seeds)}."
        resolver.wrong("baseline_seeds", problem, "write smaller seeds.")
        return seeds
    return (*seeds, *range(max(seeds) + 1, max(seeds) + 1 + number - len(seeds)))


def _name(resolver: Resolver, default: str) -> str:
    """Return the recipe's name: what its sweep is called in tables, files and commands."""
    name = _text(resolver, "name", default)
    if not name.strip() or len(name) > _LONGEST_NAME or printable(name, one_line=True) != name:
        problem = f"name = {as_written(name)} cannot be the name of a sweep."
        hint = f"give it letters that can be printed, {_LONGEST_NAME} at the most."
        resolver.wrong("name", problem, hint)
    return name


def _text(resolver: Resolver, heading: str, default: str) -> str:
    value = resolver.merged.tree.get(heading, default)
    if not isinstance(value, str):
        resolver.wrong(heading, f"{heading} = {as_written(value)} is not text.", f"write {heading} = '...'.")
        return default
    return value
