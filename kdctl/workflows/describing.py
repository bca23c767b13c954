"""What a name of a recipe stands for: options, paper and cost of plug-ins, content of presets and recipes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdctl.errors import ANY_FAILURE, KdctlError, UsageError, nearest_name, place_of, words_of
from kdctl.recipe.documentation import OptionHelp, options_of, paragraphs
from kdctl.recipe.layers import NAME
from kdctl.recipe.sections import Catalog, default_name
from kdctl.recipe.shipped import located, preset_names, preset_text, shipped_recipes
from kdctl.registry import Entry

STUDENT, TEACHER = "resnet8x4", "resnet32x4"
"""The pair that methods are described for, with 100 classes of 32x32 pixels: many papers have it."""

NUM_CLASSES, INPUT_SIZE = 100, 32
NUM_SAMPLES = 50_000


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """What a method reads, adds and ships, for the pair above."""

    fewest_teachers: int
    most_teachers: int | None
    """None: no limit."""
    student_taps: tuple[str, ...]
    reads_teacher_logits: bool
    added_parameters: int
    """Trained beside the student."""
    shipped_parameters: int
    phases: tuple[str, ...]
    """Empty where there is only one."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureFacts:
    """What a model consists of, for 100 classes of 32x32 pixels."""

    parameters: int
    multiply_adds: int
    taps: dict[str, tuple[int, ...]]
    """Name -> shape of one sample, in the order of the chain."""
    stage_taps: tuple[str, ...]
    """Those that feature methods pair."""


@dataclass(frozen=True, kw_only=True)
class PluginDescription:
    """A method, model, projector, data set, optimizer or schedule."""

    kind: str
    name: str
    label: str
    """The spelling that papers use."""
    aliases: tuple[str, ...]
    summary: str
    text: str
    """The rest of its docstring: authors, equation, differences from public code."""
    paper: str
    """Address on arXiv, or venue and year; empty if its docstring names none."""
    options: tuple[OptionHelp, ...]
    source: str
    """The plug-in file that it comes from; empty for kdctl's own."""
    method: MethodFacts | None = None
    """None for other kinds, and for methods that do not take the pair."""
    model: ArchitectureFacts | None = None


@dataclass(frozen=True, kw_only=True)
class RecipeDescription:
    """A recipe, before it is planned."""

    name: str
    """What `kdctl sweep` takes."""
    path: Path
    description: str
    comment: str
    """What stands above its first line."""
    protocol: str
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    """Of students without a teacher."""
    pairs: tuple[tuple[str, str], ...]
    """Student and teacher, each pair once; an empty teacher for a student alone."""
    methods: tuple[str, ...]
    num_configurations: int
    """Points of the grid, or trials of the search."""


@dataclass(frozen=True, kw_only=True)
class PresetDescription:
    """A preset: how a family of papers trains."""

    name: str
    """What `--protocol` and `extends` take."""
    comment: str
    """What stands above its first line: whose it is."""
    text: str
    """The rest of its file, each value with its reason."""

    @property
    def summary(self) -> str:
        """First sentence of the comment."""
        return " ".join(self.comment.splitlines()).partition(". ")[0].removesuffix(".") + "."


Description = PluginDescription | RecipeDescription | PresetDescription


def describe_name(name: str) -> list[Description]:
    """Return everything that a name stands for: plug-ins of all kinds, presets, and recipes.

    Raises:
        UsageError: there is nothing of that name.
        RecipeError: it is a recipe with mistakes.
    """
    from kdctl.assembly.catalog import full_catalog  # noqa: PLC0415 - imports every room

    catalog = full_catalog()
    entries = [(kind, registry.find(name)) for kind, registry in catalog.items()]
    found: list[Description] = [_plugin(kind, entry) for kind, entry in entries if entry is not None]
    if name in preset_names():
        found.append(preset(name))
    path = located(Path(name))
    if path.is_file():
        found.append(_recipe(path, name))
    if not found:
        raise UsageError(f"there is nothing called '{name}'.", _names_like(name, catalog))
    return found


def paper_of(text: str) -> str:
    """Return the address of the paper that a docstring names first; its venue where it is not on arXiv."""
    found = re.search(r"arXiv:(\d{4}\.\d{4,5})", text)
    if found:
        return f"https://arxiv.org/abs/{found[1]}"
    venue = re.search(r"\b([A-Z][A-Za-z]+) (20\d\d)\b", text)
    return f"{venue[1]} {venue[2]}" if venue else ""


def method_facts(entry: Entry[Any]) -> MethodFacts | None:
    """Build a method without weights for the pair; None where it does not take that pair."""
    from kdctl.assembly.structure import describe  # noqa: PLC0415
    from kdctl.assembly.without_recipe import build_method  # noqa: PLC0415
    from kdctl.engine.device import shapes_only  # noqa: PLC0415 - torch: for methods only
    from kdctl.protocols.backbone import models  # noqa: PLC0415

    fewest, most = entry.item.num_teachers
    try:
        with shapes_only():
            student = models.get(STUDENT).item(NUM_CLASSES, INPUT_SIZE)
            teachers = [models.get(TEACHER).item(NUM_CLASSES, INPUT_SIZE) for _ in range(fewest)]
            method = build_method(
                entry.name, {}, student, *teachers, num_samples=NUM_SAMPLES, student_name=STUDENT
            )
            structure = describe(method, teachers, epochs=240)
    except ANY_FAILURE:  # it wants another pair, or numbers; what is broken, a plan tells with its place
        return None
    first = structure.phases[0]
    return MethodFacts(
        fewest_teachers=fewest,
        most_teachers=most,
        student_taps=tuple(dict.fromkeys(match.student for match in first.matches)),
        reads_teacher_logits=any(phase.reads_teacher_logits for phase in structure.phases),
        added_parameters=sum(structure.added.values()),
        shipped_parameters=structure.facts.shipped_parameters,
        phases=tuple(phase.name for phase in structure.phases if phase.name),
    )


def _plugin(kind: str, entry: Entry[Any]) -> PluginDescription:
    summary, text = paragraphs(entry.item.__doc__)
    return PluginDescription(
        kind=kind,
        name=entry.name,
        label=entry.label,
        aliases=entry.aliases,
        summary=summary,
        text=text,
        paper=paper_of(text),
        options=options_of(entry.config),
        source=entry.origin.source if entry.origin else "",
        method=method_facts(entry) if kind == "method" else None,
        model=_architecture_facts(entry) if kind == "model" else None,
    )


def _architecture_facts(entry: Entry[Any]) -> ArchitectureFacts:
    from kdctl.assembly.assemble import count_parameters  # noqa: PLC0415
    from kdctl.engine.cost import count_multiply_adds  # noqa: PLC0415 - torch: for models only
    from kdctl.engine.device import shapes_only  # noqa: PLC0415

    try:
        with shapes_only():
            backbone = entry.item(NUM_CLASSES, INPUT_SIZE)
        return ArchitectureFacts(
            parameters=count_parameters(backbone),
            multiply_adds=count_multiply_adds(backbone, INPUT_SIZE),
            taps=dict(backbone.tap_shapes),
            stage_taps=backbone.stage_taps,
        )
    except KdctlError:
        raise
    except ANY_FAILURE as error:
        problem = f"{entry.name} cannot be built: {words_of(error)} ({place_of(error)})."
        raise KdctlError(problem, "mend the code it names.") from error


def preset(name: str) -> PresetDescription:
    """Return what a preset says.

    Raises:
        UsageError: there is no such preset.
    """
    text = preset_text(name)
    comment = _leading_comment(text)
    rest = text.splitlines()[len(comment.splitlines()) :]
    return PresetDescription(name=name, comment=comment, text="\n".join(rest))


def _recipe(path: Path, name: str) -> RecipeDescription:
    from kdctl.assembly.catalog import full_catalog, open_recipe  # noqa: PLC0415 - imports every room

    recipe = open_recipe(path)
    points = recipe.search.probes()[:1] if recipe.search else recipe.points
    catalog = full_catalog()
    trees = [recipe.tree_at(point, catalog) for point in points]
    return RecipeDescription(
        name=name,
        path=path,
        description=recipe.description,
        comment=_leading_comment(path.read_text(encoding="utf-8")),
        protocol=recipe.protocol,
        seeds=recipe.seeds,
        baseline_seeds=recipe.baseline_seeds,
        pairs=tuple(
            dict.fromkeys((_chosen(tree.get("student")), _chosen(tree.get("teacher"))) for tree in trees)
        ),
        methods=tuple(
            dict.fromkeys(_chosen(tree.get("method", default_name("method", tree))) for tree in trees)
        ),
        num_configurations=recipe.search.trials if recipe.search else len(recipe.points),
    )


def _chosen(section: Any) -> str:
    """Name what a section of a recipe chooses; an empty text for nothing."""
    if isinstance(section, list):
        return " + ".join(_chosen(item) for item in section)
    if isinstance(section, Mapping):
        named = next((section[key] for key in (NAME, "run", "checkpoint") if key in section), "")
        return str(named)
    return "" if section is None else str(section)


def _leading_comment(text: str) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def _names_like(name: str, catalog: Catalog) -> str:
    names = [known for registry in catalog.values() for known in registry.names()]
    names += [*preset_names(), *(recipe.name for recipe in shipped_recipes())]
    near = nearest_name(name, names)
    kinds = "methods, models, projectors, datasets, augmentations, presets or recipes"
    asked = f"did you mean '{near}'? " if near else ""
    return f"{asked}kdctl list {kinds} shows what there is."


def described_recipes() -> Iterator[tuple[str, str]]:
    """Yield name and description of each recipe that comes with kdctl."""
    for recipe in shipped_recipes():
        yield recipe.name, recipe.description
