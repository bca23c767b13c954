from __future__ import annotations

import pytest

PAIR = 'teacher = "resnet32x4"\nstudent = "mobilenetv2x2"\n'


def test_simkd_trains_as_the_paper_says(bench) -> None:
    plan = bench.plan('extends = "simkd"\nstudent = "resnet8x4"\nteacher = "resnet32x4"')
    assert plan.protocol == "simkd"
    assert plan.method.name == "simkd"
    assert plan.method.options.projector.tree() == {"name": "bottleneck", "reduction": 2}
    assert plan.optimizer.tree() == {
        "name": "sgd",
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "nesterov": False,
        "decay_norms_and_biases": True,
        "max_gradient_norm": 0.0,
    }
    assert (plan.epochs, plan.schedule.options.milestones, plan.data.options.batch_size) == (
        240,
        (150, 180, 210),
        64,
    )


@pytest.mark.parametrize(
    "student",
    [
        *("mobilenetv2", "MobileNetV2", "mobile_half", "mobilenetv2x2", "mobile_half_double"),
        *("shufflenetv1", "ShuffleV1", "shufflenetv2", "ShuffleV2", "shufflenetv2x1_5", "ShuffleNetV2x1.5"),
    ],
)
def test_light_students_learn_slower_however_their_name_is_spelt(bench, student: str) -> None:
    plan = bench.plan(f'extends = "simkd"\nstudent = "{student}"\nteacher = "resnet32x4"')
    assert plan.optimizer.options.learning_rate == 0.01


@pytest.mark.parametrize("protocol", ["simkd", "crd"])
@pytest.mark.parametrize("student", ["resnet8x4", "mobilenetv2"])
def test_whatever_the_student_it_trains_in_bf16(bench, protocol: str, student: str) -> None:
    plan = bench.plan(f'extends = "{protocol}"\nteacher = "resnet32x4"\nstudent = "{student}"')
    assert (plan.engine.student_precision, plan.engine.teacher_precision) == ("bf16", "bf16")
    assert plan.teachers[0].plan.engine.student_precision == "bf16"


def test_whatever_is_explicit_wins_over_the_papers_rate(bench) -> None:
    base = f'extends = "simkd"\n{PAIR}'
    assert bench.plan(base).optimizer.options.learning_rate == 0.01
    assert bench.plan(f"{base}optimizer.learning_rate = 0.2").optimizer.options.learning_rate == 0.2
    assert bench.plan(base, "optimizer.learning_rate=0.3").optimizer.options.learning_rate == 0.3
    (plan,) = bench.plans(f"{base}grid.optimizer.learning_rate = [0.05]")
    assert plan.optimizer.options.learning_rate == 0.05


def test_a_student_on_the_grid_or_the_command_line_meets_its_rate(bench) -> None:
    base = 'extends = "simkd"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'
    assert bench.plan(base, "student=ShuffleV1").optimizer.options.learning_rate == 0.01
    plans = bench.plans(f"{base}grid.student = ['resnet8x4', 'ShuffleV2', {{ name = 'mobile_half' }}]")
    assert [plan.optimizer.options.learning_rate for plan in plans] == [0.05, 0.01, 0.01]


def test_a_light_teacher_learns_slower_too(bench) -> None:
    plan = bench.plan('extends = "simkd"\nstudent = "resnet8x4"\nteacher = "ShuffleV1"')
    assert plan.optimizer.options.learning_rate == 0.05
    assert plan.teachers[0].plan.optimizer.options.learning_rate == 0.01


@pytest.mark.parametrize(("preset", "weights"), [("simkd", (1.0, 1.0)), ("crd", (0.1, 0.9))])
def test_plain_distillation_is_weighted_by_the_protocol(
    bench, preset: str, weights: tuple[float, ...]
) -> None:
    plan = bench.plan(f'extends = "{preset}"\n{PAIR}method = "kd"')
    assert (plan.protocol, plan.method.options.temperature) == (preset, 4.0)
    assert (plan.method.options.ce_weight, plan.method.options.kd_weight) == weights
    said_otherwise = bench.plan(f'extends = "{preset}"\n{PAIR}method = {{ name = "kd", kd_weight = 0.5 }}')
    assert (said_otherwise.method.options.ce_weight, said_otherwise.method.options.kd_weight) == (
        weights[0],
        0.5,
    )


@pytest.mark.parametrize(
    ("teacher", "student", "beta", "review_weight"),
    [
        ("resnet32x4", "resnet8x4", 8.0, 5.0),
        ("resnet32x4", "ShuffleV1", 8.0, 5.0),
        ("resnet32x4", "ShuffleV2", 8.0, 8.0),
        ("wrn_40_2", "wrn_16_2", 6.0, 5.0),
        ("wrn_40_2", "ShuffleV1", 8.0, 5.0),
        ("vgg13", "mobilenetv2", 6.0, 5.0),
        ("resnet50", "MobileNetV2", 8.0, 30.0),
        ("resnet56", "resnet20", 2.0, 0.6),
        ("resnet110", "resnet32", 2.0, 1.0),
    ],
)
def test_dkd_and_reviewkd_are_weighted_by_the_pair(
    bench, teacher: str, student: str, beta: float, review_weight: float
) -> None:
    pair = f'extends = "crd"\nteacher = "{teacher}"\nstudent = "{student}"\n'
    assert bench.plan(f'{pair}method = "dkd"').method.options.beta == beta
    assert bench.plan(f'{pair}method = "reviewkd"').method.options.review_weight == review_weight
    assert bench.plan(f'{pair}method = {{ name = "dkd", beta = 3 }}').method.options.beta == 3.0


@pytest.mark.parametrize(
    ("teacher", "student", "weight", "size", "normalise"),
    [
        ("resnet32x4", "resnet8x4", 15.0, 2, False),
        ("wrn_40_2", "wrn_40_1", 1.5, 2, False),
        ("wrn_40_2", "wrn_16_2", 12.0, 2, False),
        ("resnet56", "resnet20", 0.7, 2, False),
        ("resnet32x4", "ShuffleV1", 600.0, 4, True),
        ("wrn_40_2", "ShuffleV1", 80.0, 4, True),
        ("resnet110", "resnet32", 1.8, 2, False),
        ("vgg13", "vgg8", 4.5, 2, False),
        ("vgg13", "MobileNetV2", 15.0, 2, True),
        ("resnet50", "MobileNetV2", 40.0, 2, True),
    ],
)
def test_cat_kd_is_weighted_by_the_pair(
    bench, teacher: str, student: str, weight: float, size: int, *, normalise: bool
) -> None:
    pair = f'extends = "crd"\nteacher = "{teacher}"\nstudent = "{student}"\nmethod = "cat_kd"'
    options = bench.plan(pair).method.options
    assert (options.cat_weight, options.cat_size, options.normalise) == (weight, size, normalise)


@pytest.mark.parametrize("method", ["fitnet", "at", "sp", "nst", "vid", "ft", "fsp"])
def test_wide_resnets_are_read_raw_under_crd_alone(bench, method: str) -> None:
    def maps(preset: str, teacher: str, student: str) -> str:
        pair = f'extends = "{preset}"\nteacher = "{teacher}"\nstudent = "{student}"\nmethod = "{method}"'
        return bench.plan(pair).method.options.maps

    assert maps("crd", "wrn_40_2", "wrn_16_2") == "raw"
    assert maps("crd", "WRN-40-2", "ShuffleV1") == "raw"
    assert maps("crd", "resnet32x4", "wrn_16_2") == "raw"
    assert maps("crd", "resnet32x4", "resnet8x4") == "activated"
    assert maps("simkd", "wrn_40_2_post", "wrn_40_1_post") == "activated"
    assert maps("simkd", "wrn_40_2", "wrn_16_2") == "activated"


def test_reviewkd_reads_a_wide_student_raw_under_crd(bench) -> None:
    pair = 'extends = "crd"\nteacher = "wrn_40_2"\nmethod = "reviewkd"\nstudent = '
    assert bench.plan(f'{pair}"wrn_16_2"').method.options.maps == "raw"
    assert bench.plan(f'{pair}"shufflenetv1"').method.options.maps == "activated"


def test_nst_sums_over_stages_under_crd(bench) -> None:
    options = bench.plan(f'extends = "crd"\n{PAIR}method = "nst"').method.options
    assert (options.over_stages, options.nst_weight) == ("sum", 50.0)
    assert bench.plan(f'extends = "simkd"\n{PAIR}method = "nst"').method.options.over_stages == "mean"


def test_factors_of_the_crd_protocol_are_attention_maps(bench) -> None:
    options = bench.plan(f'extends = "crd"\n{PAIR}method = "ft"').method.options
    assert (options.form, options.ft_weight, options.kd_weight) == ("attention", 200.0, 0.0)
    assert bench.plan(f'extends = "crd"\n{PAIR}method = "ickd"').method.options.kd_weight == 0.0


def test_the_weights_of_kd_do_not_reach_another_method(bench) -> None:
    plan = bench.plan(f'extends = "crd"\n{PAIR}method = "simkd"')
    assert plan.method == bench.plan(f'extends = "simkd"\n{PAIR}').method


def test_another_optimizer_does_not_inherit_the_rate_of_the_first(bench) -> None:
    plan = bench.plan(f'extends = "simkd"\n{PAIR}', "student=resnet8x4", "optimizer=adamw")
    assert plan.optimizer.tree() == {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "beta1": 0.9,
        "beta2": 0.999,
        "decay_norms_and_biases": True,
        "max_gradient_norm": 0.0,
    }
