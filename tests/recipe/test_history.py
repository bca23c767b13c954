"""A later version of kdctl with more, fewer and renamed options has the keys that the first one had."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
from annotated_types import Gt

from kdctl.errors import RecipeError
from kdctl.recipe import plan as plan_module
from kdctl.recipe import recipe as recipe_module
from kdctl.recipe import stored as stored_module
from kdctl.recipe.component import Spec, component, content_of, option, tunable
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.history import HEADING, align
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.stored import read_component, read_plan

BASE = 'data = "cifar100"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\nmethod = "kd"\n'


@dataclass(frozen=True, kw_only=True)
class FirstKd:
    """Options of `kd` in the first version."""

    temperature: Annotated[float, Gt(0)] = 4.0
    """What logits are divided by."""
    kd_weight: float = 1.0
    """Of the teacher's term."""
    ce_weight: float = 1.0
    """Of the cross-entropy."""


@dataclass(frozen=True, kw_only=True)
class LaterKd:
    """Options of `kd`, one renamed, one gone, and three more."""

    softening: Annotated[float, Gt(0)] = tunable(4.0, 1.0, 20.0, formerly="temperature")
    """What logits are divided by."""
    kd_weight: float = 1.0
    """Of the teacher's term."""
    centred: bool = option(False, since="0.2.0")
    """Whether logits are centred first."""
    warmup: int = option(5, since="0.2.0", before=0)
    """Epochs; runs before that had none, and the default was changed since."""
    projector: Spec = component("projector", "linear", since="0.3.0")
    """A component that came later."""
    removed: ClassVar[dict[str, Any]] = {"ce_weight": 1.0}


@dataclass(frozen=True, kw_only=True)
class LaterEngine(EngineOptions):
    """Options of the engine with one more, and one that is gone."""

    tf32: bool = option(False, since="0.2.0")
    """An option of a student."""
    removed: ClassVar[dict[str, Any]] = {"given_up": 1}


@dataclass(frozen=True, kw_only=True)
class FirstEngine(EngineOptions):
    """Options of the engine before one of them was given up."""

    given_up: int = 1


OLD_WORDS = ("method.temperature=3",)
NEW_WORDS = ("method.softening=3", "method.warmup=0")


@pytest.fixture
def old(bench, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    use_engine(FirstEngine, monkeypatch)
    use_kd(bench, FirstKd, monkeypatch)
    return bench.plan(BASE, *OLD_WORDS)


@pytest.fixture
def upgrade(bench, old: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on with the later version, after the old plan was made."""
    use_engine(LaterEngine, monkeypatch)
    use_kd(bench, LaterKd, monkeypatch)
    bench.context.trained_teachers.clear()


def use_kd(bench, config: type, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = bench.context.catalog["method"]
    monkeypatch.setitem(methods._entries, "kd", dataclasses.replace(methods.get("kd"), config=config))


def use_engine(options: type[EngineOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plan_module, recipe_module, stored_module):
        monkeypatch.setattr(module, "EngineOptions", options)


@pytest.mark.usefixtures("upgrade")
def test_later_options_at_what_runs_did_before_leave_the_key_alone(bench, old: RunPlan) -> None:
    new = bench.plan(BASE, *NEW_WORDS)
    assert (new.key, new.configuration) == (old.key, old.configuration)
    assert new.teachers[0].run == old.teachers[0].run
    assert new.tree()["engine"]["tf32"] is False
    assert bench.plan(BASE, *NEW_WORDS, "engine.tf32=false", "method.projector.name=linear").key == old.key


@pytest.mark.usefixtures("upgrade")
@pytest.mark.parametrize(
    "word",
    [
        *("method.centred=true", "method.warmup=5", "method.projector=pointwise", "method.softening=4"),
        *("engine.tf32=true",),
    ],
)
def test_at_another_value_they_change_it(bench, old: RunPlan, word: str) -> None:
    assert bench.plan(BASE, *NEW_WORDS, word).key != old.key


@pytest.mark.usefixtures("upgrade")
def test_a_default_that_changed_after_the_option_came_is_content(bench, old: RunPlan) -> None:
    assert bench.plan(BASE, "method.softening=3").key != old.key


@pytest.mark.usefixtures("upgrade")
def test_an_old_plan_is_read_with_what_its_silence_means_and_keeps_its_key(bench, old: RunPlan) -> None:
    back = read_plan(json.loads(json.dumps(old.tree())), bench.context.catalog)
    assert back.key == old.key
    assert back == bench.plan(BASE, *NEW_WORDS)
    options = back.method.options
    assert (options.softening, options.centred, options.warmup) == (3.0, False, 0)
    assert options.projector.name == "linear"
    assert read_component("method", old.tree()["method"], bench.context.catalog) == back.method


@pytest.mark.usefixtures("upgrade")
def test_a_new_plan_survives_its_trip_through_json(bench) -> None:
    plan = bench.plan(BASE, "method.centred=true", "engine.tf32=true")
    back = read_plan(json.loads(json.dumps(plan.planned().plan)), bench.context.catalog)
    assert (back, back.key) == (plan, plan.key)


@pytest.mark.usefixtures("upgrade")
def test_what_an_option_that_is_gone_can_do_no_more_is_refused(bench, old: RunPlan) -> None:
    tree = old.tree()
    tree["method"]["ce_weight"] = 0.5
    with pytest.raises(RecipeError) as caught:
        read_plan(tree, bench.context.catalog)
    (mistake,) = caught.value.mistakes
    assert mistake.problem == "stored plan: [method] has no option 'ce_weight' for 'kd'."
    assert mistake.hint == "it is gone: all runs do what ce_weight = 1.0 meant."


@pytest.mark.usefixtures("upgrade")
def test_a_recipe_is_told_how_an_option_is_called_now(bench) -> None:
    assert bench.mistake(BASE, "method.temperature=3") == (
        "-o: [method] has no option 'temperature' for 'kd'. // it is called 'softening' now."
    )
    assert bench.mistake(BASE, "engine.given_up=2").endswith(
        "[engine] has no option 'given_up'. // it is gone: all runs do what given_up = 1 meant."
    )


@pytest.mark.usefixtures("upgrade")
def test_plans_of_both_versions_look_alike_beside_each_other(bench, old: RunPlan) -> None:
    first, same, other = copy.deepcopy(
        [dict(old.planned().plan)]
        + [dict(bench.plan(BASE, *NEW_WORDS, *more).planned().plan) for more in ((), ("seeds=[1]",))]
    )
    assert not [name for name in first[HEADING]["added"] if name.startswith("method")]
    assert same[HEADING]["added"]["method.warmup"] == 0
    assert same[HEADING]["renamed"] == {"method.softening": "temperature"}
    del first["method"]["ce_weight"], first["engine"]["given_up"]  # nobody tells of what is gone
    align([first, same, other])
    assert first == same
    assert (other["seed"], HEADING in other) == (1, False)


@pytest.mark.usefixtures("upgrade")
def test_what_one_plugin_tells_of_its_options_is_true_of_no_other(bench, old: RunPlan) -> None:
    new = dict(bench.plan(BASE, *NEW_WORDS).planned().plan)
    other = copy.deepcopy(dict(old.planned().plan))
    other["method"] = {"name": "dkd", "temperature": 4.0}
    align([new, other])
    assert other["method"] == {"name": "dkd", "temperature": 4.0}
    assert other["engine"]["tf32"] is False


def test_a_component_that_came_later_is_content_once_one_of_its_options_is_set(bench) -> None:
    spec = bench.plan(BASE, "method=simkd").method.options.projector
    assert spec.name == "bottleneck"

    @dataclass(frozen=True, kw_only=True)
    class Later:
        projector: Spec = component("projector", "bottleneck", since="0.2.0")

    other = dataclasses.replace(spec, options=dataclasses.replace(spec.options, reduction=4))
    assert content_of(Later(projector=spec)) == {}
    assert content_of(Later(projector=other)) == {"projector": {"name": "bottleneck", "reduction": 4}}
    foreign = dataclasses.replace(spec, plugin_sha256="abc")
    assert content_of(Later(projector=foreign))["projector"]["plugin_sha256"] == "abc"


def test_an_option_that_came_later_says_what_runs_did_before() -> None:
    with pytest.raises(ValueError, match="came later needs a default"):
        option(since="0.2.0")
    assert option(formerly="old").default is dataclasses.MISSING


@pytest.mark.parametrize(
    ("kind", "name", "section"), [("method", "kd", "method"), ("model", "resnet8x4", "student")]
)
def test_a_plugin_that_gives_other_numbers_changes_its_own_keys_only(
    bench, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, section: str
) -> None:
    others = [("method=dkd", "student=resnet14x4"), ()]
    before = [bench.plan(BASE, *words) for words in others]
    registry = bench.context.catalog[kind]
    changed = dataclasses.replace(registry.get(name), numerics=2)
    monkeypatch.setitem(registry._entries, name, changed)
    after = [bench.plan(BASE, *words) for words in others]
    assert after[0].key == before[0].key
    assert after[1].key != before[1].key
    assert after[1].tree()[section]["numerics"] == 2
    assert read_plan(after[1].tree(), bench.context.catalog) == after[1]
    with pytest.raises(RecipeError, match=f"'{name}' gives other numbers now .its numerics: 1, now 2"):
        read_plan(before[1].tree(), bench.context.catalog)
    assert read_component(kind, before[1].tree()[section], bench.context.catalog).name == name


def test_a_teachers_architecture_that_gives_other_numbers_changes_the_students_key(
    bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.plan(BASE)
    models = bench.context.catalog["model"]
    monkeypatch.setitem(
        models._entries, "resnet32x4", dataclasses.replace(models.get("resnet32x4"), numerics=2)
    )
    bench.context.trained_teachers.clear()
    after = bench.plan(BASE)
    assert after.key != before.key
    assert after.tree()["teachers"] == [{"name": "resnet32x4", "run": after.teachers[0].run, "numerics": 2}]
    assert read_plan(after.tree(), bench.context.catalog) == after
