from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.assembly import memory
from kdctl.assembly.architecture import build_architecture
from kdctl.assembly.data import Sizes
from kdctl.assembly.failure import explain
from kdctl.assembly.memory import RunBytes, pass_bytes, require_room, run_bytes
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.engine.device import keep_freed_memory, shapes_computed
from kdctl.execution import gang_run, gang_split
from kdctl.execution.gang_split import fitting_parts, halves
from kdctl.execution.recorders import NOT_BEGUN
from kdctl.execution.scheduler import open_scheduler
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunResult, RunState, StoredRun

RecipeWriter = Callable[..., Path]

TINY = Sizes(num_classes=10, input_size=8)

HUNGRY = '''
import weakref
from dataclasses import dataclass
from torch.nn import functional
from kdctl.protocols.distiller import Distiller, Losses, methods

ALIVE = weakref.WeakSet()


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many of its kind may live."""

    most: int = {most}
    strength: int = 0


@methods.register("hungry")
class Hungry(Distiller):
    """Runs out of memory beside too many others."""

    Config = Config
    num_teachers = (0, 0)

    def __init__(self, config, setup):
        super().__init__(config, setup)
        if not next(setup.student.parameters()).is_meta:  # built to be trained, not to be planned with
            ALIVE.add(self)

    def losses(self, step):
        if len(ALIVE) > self.config.most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        logits = step.student.require_logits()
        return Losses(task=functional.cross_entropy(logits, step.batch.labels), logits=logits)
'''


def gang(recipe: RecipeWriter, workspace: Workspace, number: int = 5) -> Sequence[RunPlan]:
    rates = [0.01 * (place + 1) for place in range(number)]
    path = recipe(f"method = 'ce'\n[grid]\noptimizer.learning_rate = {rates}", teacher="")
    return workflows.plan_sweep(path, workspace).runs


def needs(plan: RunPlan, weights: float, activations: float) -> int:
    """Return the free memory in which so many weights and activations of the tiny student just fit."""
    one = run_bytes(plan, TINY, 50)
    count = weights * one.weights + activations * one.activations
    return int(1.001 * count * gang_split.OVERHEAD / gang_split.SHARE_OF_MEMORY)


@pytest.mark.parametrize(
    ("model", "megabytes"), [("resnet8x4", 2.57), ("resnet110", 8.45), ("mobilenetv2", 1.71), ("vgg8", 1.41)]
)
def test_what_a_pass_keeps_is_what_was_counted_by_hand(model: str, megabytes: float) -> None:
    """Inputs of convolutions and batch norms, results of ReLUs: per image of 32x32 pixels, in fp32."""
    sizes = Sizes(num_classes=100, input_size=32)
    with shapes_computed(batch_norms=True):
        kept = pass_bytes(build_architecture(model, sizes), 64)
    assert kept / 64 / 1e6 == pytest.approx(megabytes, rel=0.01)


SIZES = Sizes(num_classes=10, input_size=16)
PAIR = {"student": "student = 'resnet8'", "teacher": "teacher = 'resnet14'", "data": "data = 'digits'"}

NUMERICAL = """
from kdctl.losses.supervision import label_loss
from kdctl.protocols.distiller import Distiller, Losses, methods

@methods.register("numerical")
class Numerical(Distiller):
    num_teachers = (0, 0)
    def __init__(self, config, setup):
        super().__init__(config, setup)
        self.scale = next(setup.student.parameters()).sum().item()
    def losses(self, step):
        logits = step.student.require_logits()
        return Losses(task=self.scale * label_loss(logits, step.batch), logits=logits)
"""


@pytest.fixture
def counted(recipe: RecipeWriter, workspace: Workspace) -> Callable[..., RunBytes]:
    def count(method: str, **lines: str) -> RunBytes:
        path = recipe(f"method = {method}", **{**PAIR, **lines})
        return run_bytes(workflows.plan_training(path, workspace).runs[0], SIZES, 50)

    return count


@pytest.mark.extended
def test_whatever_learns_with_the_student_is_counted(counted: Callable[..., RunBytes]) -> None:
    alone = counted("'ce'", teacher="")
    three = counted("{ name = 'dml', peers = ['student', 'student'] }", teacher="")
    assert three.weights == pytest.approx(3 * alone.weights, rel=0.01)
    assert three.activations == pytest.approx(3 * alone.activations, rel=0.02)
    taught = counted("'kd'")
    assert taught.weights == alone.weights
    assert taught.activations == pytest.approx(alone.activations, rel=0.01)
    bank = 2 * 50 * 128 * 4  # student's and teacher's, 128 numbers of each of 50 images
    assert counted("'crd'").weights > alone.weights + bank


def test_a_method_that_makes_its_images_is_counted_with_its_own_batch(
    counted: Callable[..., RunBytes],
) -> None:
    few, many = (counted(f"{{ name = 'dafl', batch_size = {size} }}") for size in (16, 64))
    assert many.activations == pytest.approx(4 * few.activations, rel=0.02)


def test_an_average_is_kept_beside_the_student(counted: Callable[..., RunBytes]) -> None:
    alone = counted("'ce'", teacher="")
    averaged = counted("'ce'\n[engine]\naverage_decay = 0.9", teacher="")
    assert averaged.weights == pytest.approx(4 / 3 * alone.weights, rel=0.01)


def test_what_needs_numbers_counts_like_its_student(counted: Callable[..., RunBytes], tmp_path: Path) -> None:
    alone = counted("'ce'", teacher="")
    (tmp_path / "numerical.py").write_text(NUMERICAL)
    odd = counted("'numerical'", teacher="", plugins="plugins = ['numerical.py']")
    assert odd.activations == pytest.approx(alone.activations, rel=0.01)
    assert odd.weights == pytest.approx(alone.weights, rel=0.02)  # without the statistics of batch norms


def test_members_on_a_cpu_share_the_memory_of_activations(
    recipe: RecipeWriter,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plans = gang(recipe, workspace)
    for free, expected in (
        (needs(plans[0], 5, 1), [5]),
        (needs(plans[0], 4, 1), [4, 1]),
        (needs(plans[0], 2, 1), [2, 2, 1]),
        (10, [1, 1, 1, 1, 1]),
    ):
        monkeypatch.setattr(gang_split, "available_bytes", lambda _device, free=free: free)
        caplog.clear()
        parts = fitting_parts(plans, workspace)
        assert [len(part) for part in parts] == expected
        assert [plan for part in parts for plan in part] == list(plans)
        said = f"they train in gangs of {', '.join(map(str, expected))}"
        assert (said in caplog.text) is (len(expected) > 1)


def test_where_the_system_does_not_tell_nothing_is_cut(
    recipe: RecipeWriter, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang_split, "available_bytes", lambda _device: None)
    plans = gang(recipe, workspace)
    assert fitting_parts(plans, workspace) == [list(plans)]


@pytest.mark.parametrize(("number", "sizes"), [(8, [4, 4]), (5, [3, 2]), (2, [1, 1]), (1, [1])])
def test_halves_keep_the_order(
    recipe: RecipeWriter, workspace: Workspace, number: int, sizes: list[int]
) -> None:
    plans = list(gang(recipe, workspace, number))
    parts = halves(plans)
    assert [len(part) for part in parts] == sizes
    assert [plan for part in parts for plan in part] == plans


def sweep_hungry(
    recipe: RecipeWriter, workspace: Workspace, folder: Path, most: int
) -> tuple[StoredRun, ...]:
    (folder / "hungry.py").write_text(HUNGRY.replace("{most}", str(most)))
    path = recipe(
        "method = 'hungry'\n[grid]\nmethod.strength = [1, 2, 3, 4, 5]",
        teacher="",
        plugins="plugins = ['hungry.py']",
    )
    return tuple(workflows.sweep(path, workspace, gang_size=5).runs)


@pytest.mark.extended
def test_a_gang_that_runs_out_of_memory_goes_on_in_halves_and_says_so(
    recipe: RecipeWriter, workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = sweep_hungry(recipe, workspace, tmp_path, most=3)
    assert {run.state for run in runs} == {RunState.FINISHED}
    environments = [run.environment for run in runs if run.environment is not None]
    assert [environment.reduced for environment in environments] == ["out of memory in a gang of 5"] * 5
    assert [len(environment.gang.split()) for environment in environments] == [3, 3, 3, 2, 2]
    assert caplog.text.count("go on in gangs of half the size") == 1


class Steps(Silent):
    """Counts steps, and keeps which runs began together and how runs ended."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.began: list[int] = []
        self.ends: list[tuple[RunState, str]] = []

    def started(self, plans: Sequence[RunPlan]) -> None:
        self.began.append(len(plans))

    def stepped(self, key: str, position: float) -> None:
        self.num_steps += 1

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        self.ends.append((state, reason))


def test_parts_of_a_gang_that_have_not_begun_are_not_built_after_a_wish_to_stop(
    recipe: RecipeWriter, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang_run, "fitting_parts", lambda plans, _context: [plans[:2], plans[2:4], plans[4:]])
    plans, steps = gang(recipe, workspace), Steps()
    with open_scheduler(workspace, progress=steps, stop=lambda: steps.num_steps > 0) as scheduler:
        scheduler.complete(plans)
    assert steps.began == [2]
    stopped = (RunState.INTERRUPTED, "stopped in epoch 1; its state is saved")
    assert sorted(steps.ends) == sorted([stopped] * 2 + [(RunState.INTERRUPTED, NOT_BEGUN)] * 3)
    keys = [plan.key for plan in plans]
    assert set(workspace.store.states(keys).values()) == {RunState.INTERRUPTED}
    assert [workspace.folder(key).lease() for key in keys] == [None] * 5
    with open_scheduler(workspace) as scheduler:
        scheduler.complete(plans)
    assert set(workspace.store.states(keys).values()) == {RunState.FINISHED}


@pytest.mark.extended
def test_a_run_that_is_too_large_alone_fails_with_a_hint(
    recipe: RecipeWriter, workspace: Workspace, tmp_path: Path
) -> None:
    runs = sweep_hungry(recipe, workspace, tmp_path, most=0)
    assert {run.state for run in runs} == {RunState.FAILED}
    assert all(run.reason.startswith("out of memory on cpu: [enforce fail") for run in runs)


@pytest.mark.extended
def test_a_gang_whose_gradients_would_not_fit_goes_on_in_halves_before_the_system_kills_it(
    recipe: RecipeWriter, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(
        "method = 'ce'\n[grid]\noptimizer.learning_rate = [0.01, 0.02, 0.03, 0.04, 0.05]", teacher=""
    )
    model = build_architecture(workflows.plan_sweep(path, workspace).runs[0].student.name, TINY)
    free = 3 * 3 * sum(4 * weight.numel() for weight in model.parameters())
    monkeypatch.setattr(memory, "available_bytes", lambda _device: free)
    runs = workflows.sweep(path, workspace, gang_size=5).runs
    assert {run.state for run in runs} == {RunState.FINISHED}
    environments = [run.environment for run in runs if run.environment is not None]
    assert [environment.reduced for environment in environments] == ["out of memory in a gang of 5"] * 5
    assert [len(environment.gang.split()) for environment in environments] == [3, 3, 3, 2, 2]


def test_memory_that_a_gang_has_freed_is_there_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a rule the system has it back at once; here the process keeps it, and the system calls it taken."""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("this C library does not tell what it keeps")
    keep_freed_memory()
    monkeypatch.setattr(memory, "_available_to_system", lambda: 1000)
    monkeypatch.setattr(memory, "_available_to_container", lambda: None)
    held = [torch.ones(2**22) for _ in range(8)]  # of 16 MiB each
    before = memory.available_bytes(torch.device("cpu"))
    held.clear()
    after = memory.available_bytes(torch.device("cpu"))
    assert before is not None
    assert after is not None
    assert after - before >= 7 * 2**24


def test_a_run_whose_gradients_alone_would_not_fit_fails_with_the_numbers() -> None:
    weights = [torch.empty(2**40, device="meta", requires_grad=True), torch.empty(2**50, device="meta")]
    with pytest.raises(MemoryError) as caught:
        require_room(weights, torch.device("cpu"))
    failure = explain(caught.value, "auto")
    assert failure.out_of_memory
    words = "out of memory on cpu: gradients and saved states need 12,288.0 GiB beside weights and momenta, "
    assert failure.problem.startswith(words)
    require_room(weights, torch.device("cuda"))  # which refuses by itself
