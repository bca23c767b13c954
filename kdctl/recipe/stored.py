"""Stored plans, read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from kdctl.errors import UsageError
from kdctl.recipe.component import PLUGIN_NUMERICS, PLUGIN_SHA256, Spec
from kdctl.recipe.layers import NAME, Merged
from kdctl.recipe.plan import NUMERICS, SCHEMA, EngineOptions, RunPlan, TeacherRef
from kdctl.recipe.resolve import Resolver
from kdctl.recipe.sections import Catalog


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
    resolver.finish()
    return RunPlan(
        protocol=tree["protocol"],
        data_fingerprint=tree["data_fingerprint"],
        teachers=tuple(TeacherRef(**teacher) for teacher in tree["teachers"]),
        engine=cast(EngineOptions, engine),
        seed=tree["seed"],
        **cast(dict[str, Spec], sections),
    )


def read_component(kind: str, table: Mapping[str, Any], catalog: Catalog) -> Spec:
    """Turn one plug-in's table in a stored plan back into its spec, with any version of the plug-in.

    Raises:
        RecipeError: it names plug-ins or options that are not there.
    """
    resolver = Resolver(Merged(tree={}), catalog, "stored plan", stored=True)
    options = {key: value for key, value in table.items() if key not in (PLUGIN_SHA256, PLUGIN_NUMERICS)}
    entry = catalog[kind].find(str(table[NAME]))
    version = {PLUGIN_NUMERICS: entry.numerics} if entry else {}
    spec = resolver.component(kind, {**options, **version}, kind)
    resolver.finish()
    return cast(Spec, spec)
