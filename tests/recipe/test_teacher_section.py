from __future__ import annotations

import pytest

BASE = 'extends = "simkd"\nstudent = "resnet8x4"\n'
TRAINED = "0123456789abcdef"  # the run that the fake store has


def test_a_teacher_given_by_architecture_is_planned_with_ce(bench) -> None:
    plan = bench.plan(f'{BASE}teacher = "ResNet-32x4"')
    (teacher,) = plan.teachers
    assert teacher.name == "resnet32x4"
    assert teacher.plan is not None
    assert teacher.run == teacher.plan.key
    assert (teacher.plan.student.name, teacher.plan.method.name) == ("resnet32x4", "ce")
    assert (teacher.plan.seed, teacher.plan.teachers) == (0, ())
    assert (teacher.plan.data, teacher.plan.optimizer) == (plan.data, plan.optimizer)


def test_a_teachers_table_overlays_its_own_training(bench) -> None:
    text = f"""{BASE}
        [teacher]
        name = "resnet32x4"
        seed = 5
        schedule = {{ name = "cosine", epochs = 3 }}
        optimizer.learning_rate = 0.7
        engine.student_precision = "fp32"
    """
    plan = bench.plan(text)
    training = plan.teachers[0].plan
    assert (training.seed, training.schedule.name, training.epochs) == (5, "cosine", 3)
    assert (training.optimizer.options.learning_rate, training.optimizer.options.momentum) == (0.7, 0.9)
    assert (training.engine.student_precision, plan.engine.student_precision) == ("fp32", "bf16")
    assert (plan.epochs, plan.optimizer.options.learning_rate) == (240, 0.05)


def test_a_point_of_the_grid_does_not_reach_the_teacher(bench) -> None:
    text = f'{BASE}teacher = "resnet32x4"\n'
    (alone,) = bench.plan(text).teachers
    grid = """
        [grid]
        optimizer = [{ name = "adamw" }, { name = "sgd", learning_rate = 0.3 }]
        method = ["kd", "simkd"]
        schedule.epochs = [2, 4]
    """
    plans = bench.plans(text + grid, "engine.student_precision=bf16", "student=vgg8")
    assert len({plan.key for plan in plans}) == 8
    assert {plan.teachers for plan in plans} == {(alone,)}
    assert bench.plan(text, "student=vgg8").teachers == (alone,)


def test_an_override_says_of_both_what_it_says_in_a_recipe(bench) -> None:
    text = f'{BASE}teacher = "resnet32x4"\n'
    for word in ("schedule.epochs=3", "schedule.gamma=0.5", "optimizer.learning_rate=0.2", "schedule=cosine"):
        table, value = word.split("=")
        written = f"{value}" if value[0].isdigit() else f'"{value}"'
        recipe = bench.plan(f"{text}{table} = {written}\n")
        overridden = bench.plan(text, word)
        assert recipe.key == overridden.key
        assert recipe.teachers == overridden.teachers
    short = bench.plan(text, "schedule.epochs=3")
    assert (short.epochs, short.teachers[0].plan.epochs) == (3, 3)
    own = bench.plan(text, "schedule.epochs=3", "teacher.schedule.epochs=9")
    assert (own.epochs, own.teachers[0].plan.epochs) == (3, 9)
    assert bench.plan(f"{text}[grid]\nschedule.epochs = [5]\n").teachers[0].plan.epochs == 240


def test_overrides_of_the_teacher_reach_the_teacher_alone(bench) -> None:
    text = f'{BASE}[teacher]\nname = "resnet32x4"'
    plan = bench.plan(text, "teacher.schedule.epochs=2", "teacher.seed=3")
    assert (plan.teachers[0].plan.epochs, plan.teachers[0].plan.seed, plan.epochs) == (2, 3, 240)
    assert bench.plan(text, "teacher=wrn_40_2_post").teachers[0].name == "wrn_40_2_post"


def test_the_teacher_learns_from_the_students_data(bench) -> None:
    plan = bench.plan(f'{BASE}teacher = "resnet32x4"', "data.num_classes=20")
    assert plan.teachers[0].plan.data.options.num_classes == 20


def test_options_of_an_unnamed_method_do_not_reach_the_teachers_ce(bench) -> None:
    text = 'data = "cifar100"\nstudent = "resnet8x4"\nteacher = "resnet20"\nmethod.projector.reduction = 4'
    plan = bench.plan(text)
    assert plan.method.options.projector.options.reduction == 4
    assert plan.teachers[0].plan.method.tree() == {"name": "ce"}


def test_a_finished_run_may_teach(bench) -> None:
    (teacher,) = bench.plan(f'{BASE}teacher.run = "0123"').teachers
    assert (teacher.name, teacher.run, teacher.plan) == ("resnet110", TRAINED, None)


def test_a_checkpoint_may_teach_wherever_it_lies(bench) -> None:
    here, there = (bench.plan(f"{BASE}teacher.checkpoint = '{place}/last.pt'") for place in ("here", "there"))
    assert here.teachers[0].checkpoint == "here/last.pt"
    assert here.teachers == there.teachers
    assert here.key == there.key


def test_a_run_on_the_command_line_replaces_a_teacher_by_name(bench) -> None:
    text = f'{BASE}[teacher]\nname = "resnet32x4"\nschedule.epochs = 3'
    assert bench.plan(text, "teacher.run=0123").teachers[0].run == TRAINED


def test_as_many_teachers_as_the_method_takes(bench) -> None:
    assert "method 'simkd' wants 1 teacher, the recipe names 0." in bench.mistake(f"{BASE}teacher = []")
    assert "the recipe names 0. // name one with [teacher]" in bench.mistake(f'{BASE}method = "kd"')
    both = f'{BASE}[[teacher]]\nname = "resnet32x4"\n[[teacher]]\nrun = "0123"'
    assert "wants 1 teacher, the recipe names 2." in bench.mistake(both)


def test_several_teachers_are_kept_in_order(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kd = bench.context.catalog["method"].get("kd").item
    monkeypatch.setattr(kd, "num_teachers", (1, None))
    text = f'{BASE}method = "kd"\n[[teacher]]\nname = "resnet32x4"\n[[teacher]]\nrun = "0123"'
    assert [teacher.name for teacher in bench.plan(text).teachers] == ["resnet32x4", "resnet110"]
    names = bench.plan(f'{BASE}method = "kd"\nteacher = ["ResNet-20", "resnet110"]').teachers
    assert [teacher.name for teacher in names] == ["resnet20", "resnet110"]


def test_a_method_without_a_teacher_may_stand_in_the_grid(bench) -> None:
    plans = bench.plans(f'{BASE}teacher = "resnet32x4"\ngrid.method = ["ce", "kd"]')
    assert [len(plan.teachers) for plan in plans] == [0, 1]
    alone = bench.plan(f'{BASE}method = "ce"')
    assert plans[0].key == alone.key


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            'teacher = "resnet33x4"',
            "x.toml: [teacher] there is no model 'resnet33x4'. // did you mean 'resnet32x4'",
        ),
        (
            "teacher = 'old/last.pt'",
            "name = 'old/last.pt' is no architecture. // write teacher = { checkpoint = 'old/last.pt' }.",
        ),
        ("teacher = 'last.PTH'", "// write teacher = { checkpoint = 'last.PTH' }."),
        ("teacher = '3f9c0c52'", "// write teacher = { run = '3f9c0c52' }."),
        ("teacher = 3", "x.toml: teacher = 3 is not a table or a name."),
        ("teacher = [3]", "x.toml: teacher = 3 is not a table or a name."),
        (
            "[teacher]\nnmae = 'vgg8'\nname = 'vgg8'",
            "[teacher] has no option 'nmae'. // did you mean 'name'?",
        ),
        ("[teacher]", "[teacher] needs exactly one of name, run and checkpoint."),
        (
            "[teacher]\nname = 'vgg8'\nrun = '0123'",
            "[teacher] needs exactly one of name, run and checkpoint.",
        ),
        ("teacher.run = 123", "[teacher] run = 123: should be a valid string"),
        ("teacher.run = 'beef'", "x.toml: [teacher] there is no run 'beef'. // see: kdctl list runs"),
        ("teacher.checkpoint = 'a.txt'", "x.toml: [teacher] a.txt is no checkpoint."),
        ("[teacher]\nname = 'vgg8'\nseed = -1", "[teacher] seed = -1: should be greater than or equal to 0"),
        ("[teacher]\nname = 'vgg8'\nseed = 'a'", '[teacher] seed = "a": should be a valid integer'),
        ("[teacher]\nname = 'vgg8'\nseed = true", "[teacher] seed = true: should be a valid integer"),
        (
            "[teacher]\nname = 'vgg8'\nschedule.epoch = 3",
            "x.toml [teacher]: [schedule] has no option 'epoch'",
        ),
        (
            "[teacher]\nname = 'vgg8'\nschedule = 3",
            "x.toml [teacher]: schedule = 3 is not a table or a name. // write teacher.schedule = '...'.",
        ),
        (
            "[teacher]\nname = 'vgg8'\noptimizer.name = ['sgd', 'adam']",
            """lists belong into [grid]: write teacher.optimizer = ["sgd", "adam"] there.""",
        ),
        ("[teacher]\nrun = '0123'\nseed = 3", "[teacher] seed has no effect beside 'run'"),
        ("[teacher]\nrun = '0123'\nschedule.epochs = 3", "[teacher] schedule has no effect beside 'run'"),
    ],
)
def test_a_teacher_that_cannot_be_found_or_trained_is_refused(bench, table: str, said: str) -> None:
    assert said in bench.mistake(BASE + table)


def test_mistakes_that_teacher_and_student_share_are_told_once(bench) -> None:
    said = bench.mistakes(f"{BASE}optimizer.momentum = 2\nteacher = {{ name = 'vgg8', schedule.epochs = 0 }}")
    assert len(said) == 2
    assert "x.toml: [optimizer] momentum = 2" in said[0]
    assert "x.toml [teacher]: [schedule] epochs = 0" in said[1]
    assert "// change teacher.schedule.epochs." in said[1]


def test_mistakes_of_the_teacher_are_told_although_this_method_has_none(bench) -> None:
    assert "no model 'vgg88'" in bench.mistake(f'{BASE}method = "ce"\nteacher = "vgg88"')


def test_a_grid_resolves_its_teacher_once(bench) -> None:
    plans = bench.plans(f'{BASE}seeds = 3\nteacher = "resnet32x4"\ngrid.optimizer.learning_rate = [0.1, 0.2]')
    assert len(plans) == 6
    assert len({id(plan.teachers[0].plan) for plan in plans}) == 1


def test_options_of_the_teacher_reach_each_of_several(bench) -> None:
    text = f'{BASE}method = "aver"\nteacher = ["resnet20", {{ name = "resnet56", schedule.epochs = 9 }}]'
    plan = bench.plan(text, "teacher.schedule.epochs=2", "teacher.optimizer.learning_rate=0.2")
    assert [teacher.name for teacher in plan.teachers] == ["resnet20", "resnet56"]
    assert [teacher.plan.epochs for teacher in plan.teachers] == [2, 2]
    assert [teacher.plan.optimizer.options.learning_rate for teacher in plan.teachers] == [0.2, 0.2]
    assert [teacher.plan.epochs for teacher in bench.plan(text).teachers] == [240, 9]
    assert [teacher.name for teacher in bench.plan(text, "method=kd", "teacher=vgg8").teachers] == ["vgg8"]


def test_a_method_for_one_teacher_names_those_that_take_several(bench) -> None:
    said = bench.mistake(f'{BASE}method = "kd"\nteacher = ["resnet20", "resnet56"]')
    assert "method 'kd' wants 1 teacher, the recipe names 2. // choose a method that takes 2: aekd," in said
    assert "simkd_v" in said
    said = bench.mistake(f'{BASE}method = "aver"\nteacher = "resnet20"')
    assert "method 'aver' wants 2 or more teachers, the recipe names 1. // repeat --teacher" in said
    many = [{"name": "resnet20", "seed": seed} for seed in range(9)]
    tables = ", ".join(f'{{ name = "{one["name"]}", seed = {one["seed"]} }}' for one in many)
    said = bench.mistake(f'{BASE}method = "aekd"\nteacher = [{tables}]')
    assert (
        "method 'aekd' wants 2 to 8 teachers, the recipe names 9. // choose a method that takes 9: atsc,"
        in said
    )


def test_the_same_teacher_twice_is_refused(bench) -> None:
    twice = f'{BASE}method = "aver"\nteacher = ["resnet20", "ResNet-20"]'
    assert "[teacher] names 'resnet20' twice with the same weights. // give each a seed" in bench.mistake(
        twice
    )
    seeds = '[{ name = "resnet20" }, { name = "resnet20", seed = 1 }]'
    plan = bench.plan(f'{BASE}method = "aver"\nteacher = {seeds}')
    assert len({teacher.run for teacher in plan.teachers}) == 2


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_teacher_that_nothing_holds_is_refused(bench, alpha: float) -> None:
    said = bench.mistake(f'{BASE}method = {{name = "atsc", alpha = {alpha}}}\nteacher = "resnet20"')
    assert "alpha" in said
    assert "greater than 0" in said


def test_a_model_is_named_of_a_run_only(bench) -> None:
    said = bench.mistake(f'{BASE}method = "kd"\nteacher = {{name = "resnet20", model = "teacher"}}')
    assert "model has no effect beside 'name'" in said
