from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_trainings import CountSteps
from torch import Tensor, nn

from kdctl import workflows
from kdctl.assembly.run_context import RunContext
from kdctl.assembly.workspace import Workspace
from kdctl.engine.cost import count_multiply_adds
from kdctl.engine.device import Compute, shapes_only
from kdctl.execution.executor import Capacity, InProcessConfig
from kdctl.execution.scheduler import open_scheduler
from kdctl.losses.learned_generator import multiply_adds
from kdctl.protocols.backbone import models
from kdctl.records import RunState
from kdctl.workflows.compute_rate import measured_batch

RecipeWriter = Callable[..., Path]

GRID = "method = 'ce'\n[grid]\noptimizer.learning_rate = [0.05, 0.1]"


def seconds(path: Path, workspace: Workspace) -> tuple[float, str]:
    plan = workflows.plan_sweep(path, workspace)
    estimate = workflows.estimate_sweep(plan, workspace)
    assert estimate is not None
    return estimate.seconds, estimate.basis


def test_new_runs_are_estimated_by_their_operations(workspace: Workspace, recipe: RecipeWriter) -> None:
    took, basis = seconds(recipe(GRID, teacher=""), workspace)
    assert 0 < took < 600
    assert "operations" in basis


def test_a_step_that_other_programs_slow_down_is_said_to_be_measured_badly(
    workspace: Workspace, recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share, said in (
        (1.0, ""),
        (2.0, ""),
        (0.1, " (other programs use the cores: without them it takes less)"),
    ):
        monkeypatch.setattr(time, "process_time", lambda share=share: share * time.perf_counter())
        _, basis = seconds(recipe(GRID, teacher=""), workspace)
        assert basis == f"operations, at the rate of one measured step{said}"


def test_a_large_network_is_measured_on_few_images() -> None:
    small, regnet_y_160 = 3 * 2 * 12e6, 3 * 2 * 15.9e9  # ResNet-8 at 32 pixels, at 224
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [measured_batch(each, cpu) for each in (small, regnet_y_160, 1e15)] == [32, 2, 2]
    assert measured_batch(regnet_y_160, gpu) == 32


def test_a_network_measured_on_fewer_images_is_estimated_by_those(
    workspace: Workspace, recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def a_millisecond_for_each_image(_self: object, _plan: object, _sizes: object, batch: int) -> float:
        batches.append(batch)
        return 0.001 * batch

    step = "kdctl.workflows.compute_rate.CountedOperations._measured_step"
    monkeypatch.setattr(step, a_millisecond_for_each_image)
    path = recipe(GRID, teacher="")
    whole, _ = seconds(path, workspace)
    monkeypatch.setattr("kdctl.workflows.compute_rate._MEASURED_OPERATIONS", 2e7)  # eight images of ResNet-3
    part, _ = seconds(path, workspace)
    assert batches == [32, 8]
    assert part == pytest.approx(whole)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_step_is_measured_in_the_precision_of_the_students(
    precision: str,
    dtype: torch.dtype,
    workspace: Workspace,
    recipe: RecipeWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[torch.dtype] = []

    def one_second(model: nn.Module, images: Tensor, compute: Compute) -> float:
        with compute.arithmetic():
            measured.append(model(images).dtype)
        return 1.0

    monkeypatch.setattr("kdctl.workflows.compute_rate.step_seconds", one_second)
    body = f"method = 'ce'\nengine.student_precision = '{precision}'"
    seconds(recipe(body, teacher=""), workspace)
    assert measured == [dtype]


def test_a_large_network_in_bf16_is_measured_in_fp32_where_bf16_would_take_minutes(
    workspace: Workspace, recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def one_second(_model: nn.Module, _images: Tensor, compute: Compute) -> float:
        measured.append(compute.options.student_precision)
        return 1.0

    monkeypatch.setattr("kdctl.workflows.compute_rate.step_seconds", one_second)
    monkeypatch.setattr("kdctl.workflows.compute_rate.has_fast_bf16", lambda _device: False)
    monkeypatch.setattr("kdctl.workflows.compute_rate._MEASURED_OPERATIONS", 1.0)
    body = "method = 'ce'\nengine.student_precision = '{}'"
    plain, _ = seconds(recipe(body.format("fp32"), teacher=""), workspace)
    slow, basis = seconds(recipe(body.format("bf16"), teacher=""), workspace)
    assert measured == ["fp32", "fp32"]
    assert slow == pytest.approx(8 * plain)
    assert "one measured step in fp32, taken 8 times for bf16" in basis


def test_earlier_runs_say_how_long_their_like_takes(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.sweep(recipe(GRID, teacher=""), workspace)
    spent = [run.result.train_seconds / 2 for run in workspace.store.runs() if run.result]  # a gang of two
    schedule = "schedule = {name = 'constant', epochs = 50}"
    longer = recipe(GRID, teacher="", name="name = 'longer'", schedule=schedule)
    took, basis = seconds(longer, workspace)
    assert basis == "earlier runs"
    assert took == pytest.approx(2 * 50 * sum(spent) / 2)
    assert seconds(recipe(GRID, teacher=""), workspace) == (0.0, "nothing to do")


def test_runs_whose_gang_shrank_on_the_way_count_with_what_they_spent(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    schedule = "schedule = {name = 'constant', epochs = 4}"
    plans = workflows.plan_sweep(recipe(GRID, teacher="", schedule=schedule), workspace).runs
    with open_scheduler(workspace) as scheduler:
        scheduler.complete(plans, until=3)
        scheduler.complete(plans[:1])
        scheduler.complete(plans[1:])
    shares = [own for own, _ in workspace.store.seconds_of([plan.key for plan in plans]).values()]
    longer = "schedule = {name = 'constant', epochs = 50}"
    took, _ = seconds(recipe("method = 'ce'", teacher="", schedule=longer), workspace)
    assert took == pytest.approx(50 / (sum(4 / share for share in shares) / 2))


def test_epochs_that_are_done_are_not_counted_again(workspace: Workspace, recipe: RecipeWriter) -> None:
    long = recipe("method = 'ce'", teacher="", schedule="schedule = {name = 'constant', epochs = 4}")
    workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    whole, _ = seconds(long, workspace)
    count = CountSteps()
    (run,) = workflows.train(long, workspace, progress=count, stop=lambda: count.steps == 3)
    assert (run.state, run.epochs) == (RunState.INTERRUPTED, 1)
    rest, _ = seconds(long, workspace)
    assert rest == pytest.approx(whole * 3 / 4)


def test_a_search_counts_the_configurations_it_will_choose(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    body = "[search]\nmetric = 'test'\ntrials = {}\n[search.space]\noptimizer.learning_rate = {{}}"
    ten, _ = seconds(recipe(body.format(10), method="method = 'ce'", teacher=""), workspace)
    five, _ = seconds(recipe(body.format(5), method="method = 'ce'", teacher=""), workspace)
    assert ten == pytest.approx(2 * five)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnMachine(InProcessConfig):
    """An executor of any size, on a machine of any size."""

    slots: int
    unshared_slots: float
    queued: bool = False

    def capacity(self, context: RunContext) -> Capacity:
        return Capacity(
            slots=self.slots, unshared_slots=self.unshared_slots, num_threads=1, queued=self.queued
        )


def test_slots_share_the_work_as_far_as_there_are_devices(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    grid = "method = 'ce'\n[grid]\noptimizer.learning_rate = [0.1, 0.2, 0.3, 0.4]"
    plan = workflows.plan_sweep(recipe(grid, teacher="", name="name = 'four'"), workspace)
    alone, two, crowded = (
        workflows.estimate_sweep(plan, workspace, executor=OnMachine(slots=slots, unshared_slots=devices))
        for slots, devices in ((1, 1.0), (2, 2.0), (4, 1.0))
    )
    assert alone is not None
    assert two is not None
    assert crowded is not None
    assert two.seconds == pytest.approx(alone.seconds / 2)
    assert two.device_seconds == pytest.approx(alone.seconds)
    assert crowded.seconds == pytest.approx(alone.seconds)


def test_the_slots_of_this_machine_are_its_cores(workspace: Workspace) -> None:
    executor = workflows.choose_executor(slots=1000)
    assert executor.capacity(workspace).slots == 1000
    assert executor.capacity(workspace).unshared_slots <= 1000
    here = workflows.choose_executor().capacity(workspace)
    assert here == Capacity(slots=1, unshared_slots=1, num_threads=1)


def test_runs_that_trained_alone_say_what_a_gang_saves_by_sharing_its_teacher(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    taught = "method = 'kd'\n[grid]\nmethod.temperature = {}"
    workflows.sweep(recipe(taught.format([1]), name="name = 'one'"), workspace)
    plan = workflows.plan_sweep(recipe(taught.format([2, 3, 4, 5]), name="name = 'more'"), workspace)
    together = workflows.estimate_sweep(plan, workspace)
    apart = workflows.estimate_sweep(plan, workspace, gang_size=1)
    assert together is not None
    assert apart is not None
    (run,) = [run for run in workspace.store.runs(sweep="one") if run.plan["teachers"]]
    assert run.result is not None
    assert together.basis == apart.basis == "earlier runs"
    assert apart.seconds == pytest.approx(4 * run.result.train_seconds)
    paid = [sum(estimate.operations.values()) for estimate in (together, apart)]
    assert together.seconds / apart.seconds == pytest.approx(paid[0] / paid[1])
    assert paid[0] < paid[1]


def test_a_cluster_takes_what_runs_took_on_the_device_that_was_used_last(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    (run,) = workspace.store.runs()
    assert run.environment is not None
    workspace.store.record_environment(run.key, dataclasses.replace(run.environment, device="a fast GPU"))
    plan = workflows.plan_sweep(recipe(GRID, teacher=""), workspace)
    config = OnMachine(slots=2, unshared_slots=2.0, queued=True)
    cluster = workflows.estimate_sweep(plan, workspace, executor=config)
    assert cluster is not None
    assert cluster.basis == "earlier runs"


def test_a_cluster_where_nothing_ran_is_estimated_by_this_host_and_the_estimate_says_so(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    plan = workflows.plan_sweep(recipe(GRID, teacher=""), workspace)
    config = OnMachine(slots=2, unshared_slots=2.0, queued=True)
    cluster = workflows.estimate_sweep(plan, workspace, executor=config)
    assert cluster is not None
    assert "one measured step on this host, not on a node" in cluster.basis


def test_nobody_knows_without_the_data(workspace: Workspace, recipe: RecipeWriter) -> None:
    plan = workflows.plan_sweep(recipe(GRID, teacher=""), workspace)
    assert workflows.estimate_sweep(plan, workspace) is not None
    data = plan.runs[0].data
    gone = dataclasses.replace(data, options=dataclasses.replace(data.options, num_classes=99))
    runs = tuple(dataclasses.replace(run, data=gone) for run in plan.runs)
    assert workflows.estimate_sweep(dataclasses.replace(plan, runs=runs), workspace) is None


def test_runs_on_another_device_say_nothing(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    (run,) = workspace.store.runs()
    assert run.environment is not None
    workspace.store.record_environment(run.key, dataclasses.replace(run.environment, device="a fast GPU"))
    longer = recipe("method = 'ce'", teacher="", schedule="schedule = {name = 'constant', epochs = 5}")
    assert "operations" in seconds(longer, workspace)[1]


def test_data_that_everybody_has_alike_are_neither_read_nor_downloaded(
    workspace: Workspace, recipe: RecipeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    path = recipe(GRID, teacher="", data="data = {name = 'cifar100'}")
    estimate = workflows.estimate_sweep(workflows.plan_sweep(path, workspace), workspace)
    assert estimate is not None
    assert estimate.seconds > 0
    assert "downloading" not in caplog.text


def operations(path: Path, workspace: Workspace) -> float:
    estimate = workflows.estimate_sweep(workflows.plan_sweep(path, workspace), workspace)
    assert estimate is not None
    return sum(estimate.operations.values())


def test_a_run_is_three_passes_over_its_training_images_and_one_over_those_of_the_test(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    cifar = {"data": "data = {name = 'cifar100', num_classes = 10, samples_per_class = 100}"}
    student = operations(recipe("method = 'ce'", teacher="", **cifar), workspace)
    teacher = operations(
        recipe("method = 'ce'", teacher="", student="student = 'resnet4'", **cifar), workspace
    )
    assert operations(recipe("method = 'kd'", **cifar), workspace) == pytest.approx(
        teacher + student + 1000 * teacher / (3 * 1000 + 1000)
    )


def test_a_gang_pays_for_its_teacher_once(workspace: Workspace, recipe: RecipeWriter) -> None:
    estimate = workflows.estimate_sweep(
        workflows.plan_sweep(recipe("method = 'kd'\n[grid]\nmethod.temperature = [1, 2, 4]"), workspace),
        workspace,
    )
    assert estimate is not None
    _, first, second, third = estimate.operations.values()
    assert first > second == third


OWN_IMAGES = "name = 'zskt', batch_size = 8, steps_per_epoch = 2, noise_size = 4, attention_weight = 0"


def operations_of(method: str, workspace: Workspace, recipe: RecipeWriter) -> float:
    plan = workflows.plan_sweep(recipe(f"method = {{ {method} }}"), workspace)
    estimate = workflows.estimate_sweep(plan, workspace)
    assert estimate is not None
    return estimate.operations[plan.runs[0].key]


def test_a_run_that_makes_its_images_counts_its_own_steps_and_its_generator(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    once, twice, thrice = (
        operations_of(f"{OWN_IMAGES}, student_updates = {number}", workspace, recipe) for number in (1, 2, 3)
    )
    assert thrice - twice == pytest.approx(twice - once)
    plan = workflows.plan_sweep(recipe("method = 'ce'", teacher=""), workspace).runs[0]
    counts = workspace.library.counts(plan.data)
    with shapes_only():
        backbone = models.get(plan.student.name).item(counts.num_classes, counts.input_size)
    student = 2 * count_multiply_adds(backbone, counts.input_size)
    generator = 2 * multiply_adds(4, counts.input_size)
    images, evaluated = 16, counts.num_test  # an epoch of two steps of 8
    teacher = (twice - once) / images - 3 * student - generator
    assert teacher > 0
    assert once == pytest.approx(
        images * ((3 + 2) * student + (2 + 1) * teacher + (3 + 1) * generator) + evaluated * student
    )


def test_runs_that_make_their_images_are_not_estimated_by_others(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.train(recipe("method = 'kd'"), workspace)
    _, basis = seconds(recipe(f"method = {{ {OWN_IMAGES} }}"), workspace)
    assert basis.startswith("operations, at the rate of one measured step")


@pytest.mark.parametrize(
    ("method", "trained", "asked", "evaluated"),
    [
        ("name = 'dml', peers = ['student']", 6, 0, 2),
        ("name = 'dml', peers = ['student', 'student'], order = 'in_turn'", 9 + 3 * 2, 0, 3),
        ("name = 'mean_teacher'", 3, 1, 2),
    ],
)
def test_peers_count_with_all_that_learns_and_is_evaluated(
    workspace: Workspace, recipe: RecipeWriter, method: str, trained: int, asked: int, evaluated: int
) -> None:
    plan = workflows.plan_sweep(recipe(f"method = {{ {method} }}", teacher=""), workspace)
    counts = workspace.library.counts(plan.runs[0].data)
    with shapes_only():
        backbone = models.get(plan.runs[0].student.name).item(counts.num_classes, counts.input_size)
    passes = (trained + asked) * counts.num_train + evaluated * counts.num_test
    expected = 2.0 * count_multiply_adds(backbone, counts.input_size) * passes * plan.runs[0].epochs
    estimate = workflows.estimate_sweep(plan, workspace)
    assert estimate is not None
    assert estimate.operations[plan.runs[0].key] == pytest.approx(expected)


def test_runs_of_one_method_say_how_fast_another_is_and_not_how_long_it_takes(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    schedule = "schedule = {name = 'constant', epochs = 7}"
    alone, basis = seconds(recipe("method = 'ce'", teacher="", schedule=schedule), workspace)
    peers, again = seconds(recipe("method = 'dml'", teacher="", schedule=schedule), workspace)
    assert basis == again == "earlier runs"
    assert peers == pytest.approx(2 * alone, rel=1e-6)


def test_a_teacher_that_learns_counts_like_a_student(workspace: Workspace, recipe: RecipeWriter) -> None:
    plan = workflows.plan_sweep(recipe("method = 'atsc'"), workspace)
    kd = workflows.plan_sweep(recipe("method = 'kd'"), workspace)
    estimates = [workflows.estimate_sweep(each, workspace) for each in (plan, kd)]
    assert estimates[0] is not None
    assert estimates[1] is not None
    assert estimates[0].operations[plan.runs[0].key] > 2 * estimates[1].operations[kd.runs[0].key]


def test_the_epochs_of_all_runs_together_take_the_estimated_time(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    plan = workflows.plan_sweep(recipe(), workspace)
    estimate = workflows.estimate_sweep(plan, workspace)
    assert estimate is not None
    teacher, student = ((run.key, run.epochs * estimate.epoch_seconds[run.key]) for run in plan.to_do)
    assert estimate.seconds == pytest.approx(teacher[1] + student[1])
    operations = estimate.operations
    assert teacher[1] / student[1] == pytest.approx(operations[teacher[0]] / operations[student[0]])
