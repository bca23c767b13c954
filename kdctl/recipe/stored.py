"""Stored plans, read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from kdctl.errors import UsageError
from kdctl.recipe.component import PLUGIN_NUMERICS, PLUGIN_SHA256, Spec
from kdctl.recipe.imported import ImportedPlan, is_imported, read_imported
from kdctl.recipe.layers import NAME, Merged
from kdctl.recipe.plan import (
    MODEL,
    NUMERICS,
    PART,
    SCHEMA,
    EngineOptions,
    InitialWeights,
    RunPlan,
    ShippedModel,
    TeacherRef,
)
from kdctl.recipe.resolve import Resolver
from kdctl.recipe.sections import PLUGIN_SECTIONS, STUDENT_WEIGHTS, Catalog

_KINDS: dict[str, Any] = {
    "schema": int,
    "numerics": int,
    "protocol": str,
    "data_fingerprint": str,
    "teachers": (list, tuple),
    "engine": Mapping,
    "seed": int,
    **dict.fromkeys(PLUGIN_SECTIONS, Mapping),
}
"""Parts of a stored plan, and what they are."""


def is_plan(tree: object) -> bool:
    """Return whether something has the form of a stored plan: its parts are there, each of the right kind.

    What a file from elsewhere holds is asked this before anything is looked up in it.
    """
    if not isinstance(tree, Mapping) or not tree.keys() >= _KINDS.keys():
        return False
    return (
        all(isinstance(tree[name], kind) for name, kind in _KINDS.items())
        and not isinstance(tree["seed"], bool)
        and all(isinstance(tree[name].get(NAME), str) for name in PLUGIN_SECTIONS)
        and all(_is_teacher(teacher) for teacher in tree["teachers"])
        and (not is_imported(tree) or _is_import(tree["method"]))
    )


def read_plan(tree: Mapping[str, Any], catalog: Catalog) -> RunPlan:
    """Turn a plan's tree, as a run folder or a checkpoint holds it, back into the plan.

    Raises:
        RecipeError: it names plug-ins or options that are not there, or another version of a plug-in.
        UsageError: it was written in a format this version does not know.
    """
    if tree.get("schema") != SCHEMA or tree.get("numerics") != NUMERICS:
        raise UsageError(
            f"the plan has format {tree.get('schema')}.{tree.get('numerics')}, "
            f"this kdctl reads {SCHEMA}.{NUMERICS}.",
            "use the version of kdctl that its environment.json names.",
        )
    resolver = Resolver(Merged(tree=dict(tree)), catalog, "stored plan", stored=True)
    sections = resolver.sections()
    engine = resolver.record(EngineOptions, tree.get("engine"), "engine")
    weights = resolver.weights()
    resolver.finish()
    return RunPlan(
        protocol=tree["protocol"],
        data_fingerprint=tree["data_fingerprint"],
        weights=InitialWeights.named(weights) if weights else None,
        teachers=tuple(read_teacher(teacher, catalog) for teacher in tree["teachers"]),
        engine=cast(EngineOptions, engine),
        seed=tree["seed"],
        **cast(dict[str, Spec], sections),
    )


def read_any(tree: Mapping[str, Any], catalog: Catalog) -> RunPlan | ImportedPlan | None:
    """Turn the tree of a plan, or of one that was imported, back into it; None if that cannot be done here.

    It cannot for plans of other versions of kdctl or of a plug-in, and for plug-ins that are not loaded.
    """
    try:
        return (read_imported if is_imported(tree) else read_plan)(tree, catalog)
    except UsageError:
        return None


def read_teacher(table: Mapping[str, Any], catalog: Catalog) -> TeacherRef:
    """Turn a teacher's table in a stored plan back into the teacher.

    Raises:
        RecipeError: its model is put together of plug-ins or options that are not there.
    """
    own = {key: value for key, value in table.items() if key not in (MODEL, PART)}
    model = read_shipped(table[MODEL], catalog) if MODEL in table else None
    return TeacherRef(**own, model=model)


def read_shipped(tree: Mapping[str, Any], catalog: Catalog) -> ShippedModel:
    """Return how the model is put together that a stored plan's run ships, with any version of the plug-ins.

    Raises:
        RecipeError: it names plug-ins or options that are not there.
    """
    return ShippedModel(
        student=read_component("model", tree["student"], catalog),
        method=read_component("method", tree["method"], catalog),
        teachers=tuple(read_teacher(teacher, catalog) for teacher in tree["teachers"]),
        part=tree.get(PART, ""),
    )


def read_component(
    kind: str, table: Mapping[str, Any], catalog: Catalog, source: str = "stored plan"
) -> Spec:
    """Turn one plug-in's table in a stored plan back into its spec, with any version of the plug-in.

    Mistakes begin with `source`, where the table stands.

    Raises:
        RecipeError: it names plug-ins or options that are not there.
    """
    resolver = Resolver(Merged(tree={}), catalog, source, stored=True)
    options = {key: value for key, value in table.items() if key not in (PLUGIN_SHA256, PLUGIN_NUMERICS)}
    if kind == "model":
        options.pop(STUDENT_WEIGHTS, None)
    entry = catalog[kind].find(str(table[NAME]))
    version = {PLUGIN_NUMERICS: entry.numerics} if entry else {}
    spec = resolver.component(kind, {**options, **version}, kind)
    resolver.finish()
    return cast(Spec, spec)


def _is_teacher(table: object) -> bool:
    kinds: dict[str, Any] = dict.fromkeys((NAME, "run", "checkpoint_sha256", "checkpoint", PART), str)
    kinds |= {PLUGIN_NUMERICS: int, MODEL: Mapping}
    return (
        isinstance(table, Mapping)
        and NAME in table
        and table.keys() <= kinds.keys()
        and all(isinstance(value, kinds[name]) for name, value in table.items())
        and (MODEL not in table or _is_model(table[MODEL]))
    )


def _is_model(tree: Mapping[str, Any]) -> bool:
    parts = tree.get("student"), tree.get("method")
    teachers: Any = tree.get("teachers")
    return (
        all(isinstance(part, Mapping) and isinstance(part.get(NAME), str) for part in parts)
        and isinstance(teachers, (list, tuple))
        and isinstance(tree.get(PART, ""), str)
        and all(_is_teacher(teacher) for teacher in teachers)
    )


def _is_import(method: Mapping[str, Any]) -> bool:
    shown = method.get("normalisation")
    texts = all(isinstance(method.get(name), str) for name in ("weights_sha256", "source"))
    return texts and (shown is None or _is_normalisation(shown))


def _is_normalisation(table: object) -> bool:
    if not isinstance(table, Mapping) or set(table) != {"mean", "std"}:
        return False
    triples: list[Any] = list(table.values())
    return all(
        isinstance(triple, (list, tuple))
        and len(triple) == 3
        and all(isinstance(number, (int, float)) and math.isfinite(number) for number in triple)
        for triple in triples
    )
