"""Mistakes in the sections of a run: all at once, each with file, key, value and the nearest name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kdctl.errors import RecipeError
from kdctl.recipe.component import component
from kdctl.recipe.layers import Merged
from kdctl.recipe.resolve import Resolver
from kdctl.registry import NoOptions, Origin, Registry, registering_from

BASE = 'data = "cifar100"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'


def test_all_mistakes_of_all_sections_are_told_at_once(bench) -> None:
    said = bench.mistakes(
        """
        data = { name = "cifar100", batch_sise = 32, augmentation = "flipp" }
        student = "resnet9"
        teacher = { name = "resnet32x5", seeed = 1 }
        method = { name = "simkd", projector = { name = "botleneck" }, temprature = 3 }
        optimizer = { name = "sgd", learning_rate = -1, momentun = 0.9 }
        schedule = { name = "step", epochs = 2.5 }
        engine = { student_precision = "fp16", determinstic = true }
        """
    )
    wanted = [
        ("[data] has no option 'batch_sise' for 'cifar100'.", "did you mean 'batch_size'?"),
        ("[data.augmentation] there is no augmentation 'flipp'.", "Augmentations: crop, crop-flip, none"),
        ("[student] there is no model 'resnet9'.", "did you mean 'resnet"),
        ("[method] has no option 'temprature' for 'simkd'.", "Options: "),
        ("[method.projector] there is no projector 'botleneck'.", "did you mean 'bottleneck'?"),
        ("[optimizer] has no option 'momentun' for 'sgd'.", "did you mean 'momentum'?"),
        ("[optimizer] learning_rate = -1: should be greater than 0.", "change optimizer.learning_rate."),
        ("[schedule] epochs = 2.5: should be a valid integer", "change schedule.epochs."),
        ("[engine] has no option 'determinstic'.", "did you mean 'deterministic'?"),
        (
            "[engine] student_precision = \"fp16\": should be 'fp32' or 'bf16'.",
            "change engine.student_precision.",
        ),
        ("[teacher] has no option 'seeed'.", "did you mean 'seed'?"),
        ("[teacher] there is no model 'resnet32x5'.", "did you mean 'resnet32x4'?"),
    ]
    assert len(said) == len(wanted)
    for mistake, (problem, hint) in zip(said, wanted, strict=True):
        assert mistake.startswith(f"x.toml: {problem}")
        assert hint in mistake.partition(" // ")[2]


def test_mistakes_in_headings_do_not_hide_those_in_sections(bench) -> None:
    said = bench.mistakes(f"{BASE}seeds = -1\nnmae = 'x'\nprotocol = 3\noptimizer.lr = 1")
    assert len(said) == 4
    for word in ("'nmae'", "protocol = 3", "seeds = -1", "'lr'"):
        assert sum(word in mistake for mistake in said) == 1, word


def test_a_silent_recipe_is_asked_for_data_and_student(bench) -> None:
    said = bench.mistakes('extends = "simkd"\ndata = {}\n[teacher]\nname = "resnet20"')
    assert said == [said[0]]
    assert said[0].startswith(
        "x.toml: [student] does not say which model. // add a line: name = '...'. Models: "
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("optimizer.learning_rate = '0.1'", 'learning_rate = "0.1": should be a valid number'),
        ("optimizer.learning_rate = true", "learning_rate = true: should be a valid number"),
        ("optimizer.learning_rate = [0.1, 0.2]", "learning_rate = [0.1, 0.2]: should be a valid number"),
        ("engine.student_precision = 'für alle'", "student_precision = \"für alle\": should be 'fp32' or"),
        ("optimizer.learning_rate = inf", "learning_rate = inf: should be a finite number"),
        ("optimizer.learning_rate = nan", "learning_rate = nan: should be a finite number"),
        ("optimizer.learning_rate = 2022-06-01", "learning_rate = 2022-06-01: is a date or a time"),
        ("optimizer.nesterov = 1", "nesterov = 1: should be a valid boolean"),
        ("optimizer.momentum = 1", "momentum = 1: should be less than 1"),
        ("schedule.epochs = 4.0", "epochs = 4.0: should be a valid integer"),
        ("schedule.epochs = true", "epochs = true: should be a valid integer"),
        ("schedule.epochs = '4'", 'epochs = "4": should be a valid integer'),
        ("schedule.epochs = 0", "epochs = 0: should be greater than 0"),
        ("schedule.milestones = 150", "milestones = 150: should be a valid"),
        ("schedule.milestones = [150, 'a', 'b']", 'milestones = [150, "a", "b"]: should be a valid integer'),
        ("schedule.milestones = [150, inf]", "milestones = inf: should be a finite number"),
        (
            "data = { name = 'cifar100', augmentation = 3 }",
            "data.augmentation = 3 is not a table or a name.",
        ),
        ("method.projector.reduction = 0", "[method.projector] reduction = 0: should be greater than or"),
        ("method.projector = 3", "method.projector = 3 is not a table or a name."),
        ("engine = 'bf16'", "engine = 'bf16' is not a table."),
        ("schedule = 240", "schedule = 240 is not a table or a name."),
        ("schedule.name = 3", "[schedule] name = 3 is not text."),
        ("schedule = true", "schedule = true is not a table or a name."),
        ("schedule = 2026-01-31", "schedule = 2026-01-31 is not a table or a name."),
        ("optimizer.nesterov = 1e-320", "should be a valid boolean"),
        ("schedule = nan", "schedule = nan is not a table or a name."),
    ],
)
def test_a_value_of_the_wrong_type_is_one_mistake(bench, line: str, problem: str) -> None:
    section = line.partition(" ")[0]
    others = [other for other in BASE.splitlines() if other.partition(" ")[0] != section]
    assert problem in bench.mistake("\n".join([*others, line]))


def test_a_whole_number_will_do_for_a_number(bench) -> None:
    assert bench.plan(f"{BASE}optimizer.learning_rate = 1").optimizer.options.learning_rate == 1.0


def test_a_required_option_that_is_missing_is_asked_for(bench) -> None:
    said = bench.mistake(BASE.replace('"cifar100"', '"imagefolder"'))
    hint = "add a line: path = ...; on the command line: -o data.path=..."
    assert said == f"x.toml: [data] lacks the option 'path'. // {hint}"


def test_a_required_option_that_is_unfit_is_not_said_to_be_missing(bench) -> None:
    said = bench.mistake(BASE.replace('"cifar100"', '{ name = "imagefolder", path = 2022-06-01 }'))
    assert "[data] path = 2022-06-01: is a date or a time" in said


def test_the_layer_that_set_a_value_is_named(bench) -> None:
    bench.write("optimizer.momentum = 2", "parent.toml")
    said = bench.mistakes(f'extends = "parent.toml"\n{BASE}optimizer.weight_decay = -1', "schedule.epochs=0")
    assert {mistake.partition(":")[0] for mistake in said} == {"x.toml", "parent.toml", "-o"}


@dataclass(frozen=True, kw_only=True)
class Together:
    low: int = 0
    high: int = 1
    inner: object = component("inner", "plain")

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


def resolver(tree: dict[str, object], origin: Origin | None = None) -> Resolver:
    outer: Registry[type] = Registry("outer", "kdctl.losses")
    inner: Registry[type] = Registry("inner", "kdctl.losses")
    for registry, name, config in ((outer, "together", Together), (inner, "plain", NoOptions)):
        if origin:
            with registering_from(origin):
                registry.register(name, config=config)(type(name, (), {}))
        else:
            registry.register(name, config=config)(type(name, (), {}))
    return Resolver(Merged(tree=tree), {"outer": outer, "inner": inner}, "here")


def test_a_config_may_check_its_fields_together() -> None:
    asked = resolver({})
    assert asked.component("outer", {"name": "together", "low": 3}, "method") is None
    assert [mistake.problem for mistake in asked.mistakes] == ["here: [method] low is above high."]
    with pytest.raises(RecipeError):
        asked.finish()


def test_a_nested_plugin_gets_its_default() -> None:
    spec = resolver({}).component("outer", "together", "method")
    assert spec is not None
    assert spec.tree() == {"name": "together", "low": 0, "high": 1, "inner": {"name": "plain"}}


def test_a_recipe_may_pin_the_version_of_a_plugin() -> None:
    asked = resolver({}, Origin(source="mine.py", sha256="aaa"))
    spec = asked.component("outer", {"name": "together", "plugin_sha256": "aaa"}, "method")
    assert spec is not None
    assert spec.tree()["plugin_sha256"] == "aaa"
    asked.component("outer", {"name": "together", "plugin_sha256": "bbb"}, "method")
    assert [mistake.problem for mistake in asked.mistakes] == [
        "here: [method] wants another version of the plug-in that brings 'together'."
    ]


def test_a_number_where_text_is_wanted_is_to_stand_in_quotes(bench) -> None:
    said = bench.mistake("data = 'cifar100'\nstudent = 'resnet8x4'\nteacher = { run = 12345678 }\n")
    assert said.endswith("// text stands in quotes: run = '12345678'.")


def test_digits_of_other_scripts_are_no_number_that_is_meant(bench) -> None:
    assert "// change schedule.epochs." in bench.mistake(BASE, "schedule.epochs=١٢")


def test_a_hint_can_be_followed(bench) -> None:
    """Lists belong into grids only where grids reach; what a list of text holds stands in quotes."""
    grid = "[[grid]]\nmethod = ['ce', 'kd']\n"
    for line in ("[search]\ntrials = [3]", "[budget]\nmax_runs = [3]", "[report]\nselect = ['last']"):
        found = bench.mistakes(f"{BASE}{'' if 'search' in line else grid}{line}")
        assert not any("belong into [grid]" in mistake for mistake in found)
    assert 'write report.rows = ["3"];' in bench.mistake(f"{BASE}{grid}[report]\nrows = 3")
    assert "write schedule.milestones = [150];" in bench.mistake(f"{BASE}schedule.milestones = 150\n")
    table = "[[reported]]\nrows.method.ce = [70]\n"
    assert "// change reported.1.columns." in bench.mistake(f"{BASE}{table}columns = 3")
    assert "columns = []: should have at least 1 item. //" in bench.mistake(f"{BASE}{table}columns = []")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("low = ''", 'low = "": should be a valid number. // change search.space.method.temperature.low.'),
        ("low = '1'", 'low = "1": should be a valid number. // write low = 1.'),
        ("low = inf", "finite number. // change search.space.method.temperature.low."),
        ("log = '1'", 'log = "1": should be a valid boolean. // change search.space.method.temperature.log.'),
        ("log = nan", "log = nan: should be a valid boolean."),
        ("log = 1e308", "log = 1e+308: should be a valid boolean."),
    ],
)
def test_a_value_of_a_wrong_type_is_told_of_by_the_type_and_the_place(bench, line: str, said: str) -> None:
    ends = {"low": 1, "high": 3}
    others = ", ".join(f"{name} = {end}" for name, end in ends.items() if not line.startswith(name))
    assert said in bench.mistake(f"{BASE}[search.space]\nmethod.temperature = {{ {line}, {others} }}")


def test_a_field_without_a_name_is_no_field_of_any_plug_in(bench) -> None:
    assert "is not a field of a run. // fields start with" in bench.mistake(f"{BASE}[search.space]\n'' = 3")
