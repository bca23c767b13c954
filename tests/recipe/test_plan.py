from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdctl.recipe.component import Spec
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.plan import RunPlan, TeacherRef
from kdctl.recipe.recipe import make_recipe
from kdctl.registry import NoOptions, Origin, Registry, registering_from
from kdctl.serialization import canonical_json

BASE = 'extends = "simkd"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'


def key(bench, text: str, *overrides: str) -> str:
    return bench.plan(text, *overrides).key


@pytest.mark.parametrize(
    "same",
    [
        'teacher = "resnet32x4"\nstudent = "resnet8x4"\nextends = "simkd"',
        'extends = "simkd"\nstudent = "ResNet-8x4"\nteacher = "RESNET 32x4"',
        'extends = "simkd"\nstudent = { name = "resnet8X4" }\nteacher = { name = "resnet32x4", seed = 0 }',
        f"{BASE}method = 'SimKD'",
        f"{BASE}method.projector = 'bottleneck'",
        f"{BASE}method.projector = '1x1-3x3-1x1'",
        f"{BASE}method.projector = {{ reduction = 2 }}",
        f"{BASE}optimizer = {{ weight_decay = 0.0005, learning_rate = 5e-2 }}",
        f"{BASE}protocol = 'mine'\nname = 'other'\ndescription = 'words'",
        f"{BASE}report.rows = ['method']\nreported = [{{ match = {{ method = 'kd' }}, top1 = 75 }}]",
        f"{BASE}engine = {{}}",
    ],
)
def test_the_same_content_has_the_same_key(bench, same: str) -> None:
    assert key(bench, same) == key(bench, BASE)


def test_a_whole_number_is_the_same_as_its_float(bench) -> None:
    text = f"{BASE}method = {{ name = 'kd', temperature = %s }}"
    assert key(bench, text % "4") == key(bench, text % "4.0") == key(bench, text % "4e0")


def test_a_zero_has_no_sign(bench) -> None:
    text = f"{BASE}optimizer = {{ name = 'sgd', learning_rate = 0.1, weight_decay = %s }}"
    assert key(bench, text % "-0.0") == key(bench, text % "0.0") == key(bench, text % "0")


@pytest.mark.parametrize(
    "override",
    [
        *("data.batch_size=32", "data.padding=2", "data.augmentation='none'", "data.num_classes=10"),
        *("data.samples_per_class=5", "data.val_fraction=0.1", "data.split_seed=1", "data=cifar10"),
        *("student=resnet14x4", "teacher=resnet110", "teacher.seed=1", "teacher.schedule.epochs=100"),
        *("teacher.run=0123", "teacher.checkpoint=a.pt", "method=kd", "method=ce"),
        *("method.projector.reduction=4", "optimizer.learning_rate=0.1", "optimizer.momentum=0.8"),
        *("optimizer.weight_decay=0", "optimizer.nesterov=true", "optimizer=adamw", "schedule=cosine"),
        *("schedule.epochs=2", "schedule.milestones=[150, 180]", "schedule.gamma=0.2"),
        *(
            "schedule.warmup_epochs=1",
            "engine.student_precision=fp32",
            "engine.deterministic=false",
            "seeds=[1]",
            "engine.teacher_precision=fp32",
            "engine.fold_teacher=false",
        ),
    ],
)
def test_everything_that_can_change_the_numbers_changes_the_key(bench, override: str) -> None:
    assert key(bench, BASE, override) != key(bench, BASE)


def test_every_option_of_every_section_is_part_of_the_key(bench) -> None:
    """Through the tree of the plan, so that an option added later is covered, too."""
    plan = bench.plan(f"{BASE}method = 'kd'")
    for section in ("data", "student", "method", "optimizer", "schedule"):
        spec: Spec = getattr(plan, section)
        for item in dataclasses.fields(spec.options):
            other = dataclasses.replace(spec.options, **{item.name: "another value"})
            changed = dataclasses.replace(plan, **{section: dataclasses.replace(spec, options=other)})
            assert changed.key != plan.key, f"{section}.{item.name}"
    for item in dataclasses.fields(EngineOptions):
        engine = dataclasses.replace(plan.engine, **{item.name: "another value"})
        assert dataclasses.replace(plan, engine=engine).key != plan.key


def test_how_a_teacher_would_run_is_no_content_of_a_run_without_one(bench) -> None:
    text = f"{BASE}method = 'ce'"
    words = ("engine.teacher_precision=fp32", "engine.fold_teacher=false")
    assert bench.plan(text, *words) == bench.plan(text)
    assert key(bench, text, *words) == key(bench, text)
    assert key(bench, text, "engine.student_precision=fp32") != key(bench, text)


def test_how_an_average_would_be_kept_is_no_content_of_a_run_without_one(bench) -> None:
    assert bench.plan(BASE, "engine.average_buffers=false") == bench.plan(BASE)
    kept = "engine.average_decay=0.9"
    assert key(bench, BASE, kept, "engine.average_buffers=false") != key(bench, BASE, kept)


def test_the_content_of_the_data_is_part_of_the_key(bench) -> None:
    plan = bench.plan(BASE)
    assert dataclasses.replace(plan, data_fingerprint="other pixels").key != plan.key


def test_the_place_of_the_data_is_not(bench) -> None:
    here, there = (
        bench.plan(f'student = "resnet8"\ndata = {{ name = "imagefolder", path = "{path}" }}')
        for path in ("here", "there")
    )
    assert here.key == there.key
    assert here.tree()["data"]["path"] == "here"
    smaller = dataclasses.replace(here.data.options, size=16)
    assert dataclasses.replace(here, data=dataclasses.replace(here.data, options=smaller)).key != here.key


def test_replicates_share_a_configuration_and_nothing_else_does(bench) -> None:
    zero, one = bench.plans(f"seeds = 2\n{BASE}")
    assert zero.configuration == one.configuration
    assert zero.key != one.key
    assert bench.plan(BASE, "schedule.epochs=2").configuration != zero.configuration


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), epochs=st.integers(1, 10**6))
def test_keys_are_16_hexadecimal_digits(bench, seed: int, epochs: int) -> None:
    plan = bench.plan(f"seeds = [{seed}]\n{BASE}", f"schedule.epochs={epochs}")
    assert len(plan.key) == 16
    assert int(plan.key, 16) >= 0


def test_the_version_of_a_plugin_is_part_of_the_key(bench) -> None:
    keys = set()
    for sha256 in ("aaa", "bbb"):
        optimizers: Registry[type] = Registry("optimizer", "kdctl.losses")
        with registering_from(Origin(source="mine.py", sha256=sha256)):
            optimizers.register("mine")(type("Mine", (), {"__doc__": "An optimizer."}))
        context = dataclasses.replace(
            bench.context, catalog={**bench.context.catalog, "optimizer": optimizers}, trained_teachers={}
        )
        layers = bench.recipe(f"{BASE}optimizer = 'sgd'").layers
        (top,) = bench.recipe("description = ''\ndata = 'cifar100'").layers
        mine = dataclasses.replace(top, values={"optimizer": "mine", "method": "ce"})
        recipe = make_recipe([*layers, mine], context.catalog)
        plan = recipe.plan(recipe.points[0], 0, context)
        assert plan.tree()["optimizer"] == {"name": "mine", "plugin_sha256": sha256}
        keys.add(plan.key)
    assert len(keys) == 2


def test_keys_are_made_as_ever() -> None:
    """A change here makes every result that people have look new: raise NUMERICS if numbers change."""
    nothing = NoOptions()
    data, student, method, optimizer = (
        Spec(kind=kind, name=name, options=nothing)
        for kind, name in (("dataset", "d"), ("model", "s"), ("method", "m"), ("optimizer", "o"))
    )
    plan = RunPlan(
        protocol="any",
        data=data,
        data_fingerprint="f",
        student=student,
        teachers=(TeacherRef(name="t", run="0123"), TeacherRef(name="u", checkpoint_sha256="c")),
        method=method,
        optimizer=optimizer,
        schedule=Spec(kind="schedule", name="constant", options=nothing, plugin_sha256="abc"),
        engine=EngineOptions().as_used(with_teachers=True),
        seed=3,
    )
    assert plan.configuration == "41b7ef9a8fef428b"
    assert plan.key == "a23220fcf80bd1fb"


def test_a_plan_is_stored_with_every_value_explicit(bench) -> None:
    plan: RunPlan = bench.plan(BASE)
    planned = plan.planned()
    assert (planned.key, planned.configuration, planned.seed) == (plan.key, plan.configuration, 0)
    assert planned.plan["protocol"] == "simkd"
    assert planned.plan["teachers"] == [{"name": "resnet32x4", "run": plan.teachers[0].run}]
    assert planned.plan["optimizer"]["momentum"] == 0.9
    canonical_json(planned.plan)


@pytest.mark.parametrize(
    ("method", "student", "teacher", "words"),
    [
        ("kd", "fp32", "fp32", "fp32"),
        ("kd", "bf16", "bf16", "bf16"),
        ("kd", "fp32", "fp16", "fp32, teacher fp16"),
        ("ce", "bf16", "fp32", "bf16"),
    ],
)
def test_a_plan_says_its_precision_in_words(
    bench, method: str, student: str, teacher: str, words: str
) -> None:
    engine = f"engine = {{ student_precision = '{student}', teacher_precision = '{teacher}' }}"
    assert bench.plan(f"{BASE}method = '{method}'\n{engine}").precision() == words


def test_a_title_says_who_learns_from_whom(bench) -> None:
    assert bench.plan(BASE).title() == "resnet8x4 <- resnet32x4 · simkd · seed 0"
    assert bench.plan(f"{BASE}method = 'ce'").title() == "resnet8x4 · ce · seed 0"


def test_a_plan_with_another_seed_is_the_plan_that_the_recipe_gives_for_it(bench) -> None:
    first, second = (
        bench.plan(BASE, "seeds=[0]"),
        bench.plan(BASE, "seeds=[1]"),
    )
    twin = first.with_seed(1)
    assert twin == second
    assert (twin.key, twin.configuration, twin.tree()) == (second.key, second.configuration, second.tree())
    assert twin.key != first.key
