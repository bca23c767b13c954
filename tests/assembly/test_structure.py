"""What a method reads, adds and ships, known without weights; and what does not fit, before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.structure import Structure
from kdctl.assembly.workspace import Workspace
from kdctl.errors import RecipeError

RecipeWriter = Callable[..., Path]
Plan = Callable[..., Structure]

BROKEN = """
from kdctl.protocols.distiller import Distiller, methods


@methods.register("broken")
class Broken(Distiller):
    def __init__(self, config, setup):
        super().__init__(config, setup)
        self.share = 1 / 0
"""

PLUGIN = """
import torch
from torch import nn
from kdctl.losses.supervision import label_loss
from kdctl.protocols.distiller import Distiller, Losses, methods
from kdctl.protocols.projector import Projector, projectors

@projectors.register("halved")
class Halved(Projector):
    '''Half as wide as it should be.'''
    def __init__(self, config, source, target):
        super().__init__(config, source, target)
        self.layer = nn.Conv2d(source[0], target[0] // 2, 1)
    def forward(self, features):
        return self.layer(features)

@projectors.register("greedy")
class Greedy(Projector):
    '''Wants more channels than there are.'''
    def __init__(self, config, source, target):
        super().__init__(config, source, target)
        self.layer = nn.Conv2d(source[0] + 1, target[0], 1)
    def forward(self, features):
        return self.layer(features)

@methods.register("numerical")
class Numerical(Distiller):
    '''Looks at weights while it is built.'''
    def __init__(self, config, setup):
        super().__init__(config, setup)
        self.scale = next(setup.student.parameters()).sum().item()
    def losses(self, step):
        logits = step.student.require_logits()
        return Losses(task=self.scale * label_loss(logits, step.batch), logits=logits)
"""


LARGER = {"student": "student = 'resnet8'", "teacher": "teacher = 'resnet14'", "data": "data = 'digits'"}
"""Models with three stages: those of the tiny study have one."""


@pytest.fixture
def plan(workspace: Workspace, recipe: RecipeWriter) -> Plan:
    """Plan a training and return its structure."""

    def build(method: str, **lines: str) -> Structure:
        path = recipe(f"method = {method}", **{**LARGER, **lines})
        structure = workflows.plan_training(path, workspace).structure
        assert structure is not None
        return structure

    return build


def pairs(structure: Structure) -> list[tuple[str, str, float | None]]:
    return [(match.student, match.teacher, match.weight) for match in structure.phases[0].matches]


def test_every_stage_of_both_is_named_with_shapes_and_weights(plan: Plan) -> None:
    structure = plan("{name = 'simkd', taps = 'biased'}", student="student = 'vgg8'")
    assert pairs(structure) == [
        ("stage3", "stage2", pytest.approx(1 / 3)),
        ("stage4", "stage3", pytest.approx(2 / 3)),
    ]
    (match, _), (phase,) = structure.phases[0].matches, structure.phases
    assert (match.student_shape, match.teacher_shape) == ((512, 2, 2), (32, 8, 8))
    assert (phase.name, phase.epochs, phase.untrained) == ("", 1, ("pooled", "classifier"))
    assert list(structure.added) == ["projector", "extra_projectors"]
    assert structure.facts.projector_parameters == sum(structure.added.values())


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("'kd'", []),
        ("'at'", [("stage1", "stage1", 1.0), ("stage2", "stage2", 1.0), ("stage3", "stage3", 1.0)]),
        (
            "'ofd'",
            [
                ("stage1_pre", "stage1_pre", 0.25),
                ("stage2_pre", "stage2_pre", 0.5),
                ("stage3_pre", "stage3_pre", 1.0),
            ],
        ),
        ("{name = 'fitnet', stage = 2}", [("stage2", "stage2", None)]),
        (
            "{name = 'simkd', reuse_from = 'stage2', loss_at = 'both'}",
            [("stage2", "stage2", 0.5), ("stage2", "stage3", 0.5)],
        ),
        ("'srrl'", [("pooled", "pooled", None)]),
    ],
)
def test_what_is_held_against_what(
    plan: Plan, method: str, expected: list[tuple[str, str, float | None]]
) -> None:
    assert pairs(plan(method)) == expected


def test_each_phase_tells_its_epochs_and_what_it_leaves_untrained(plan: Plan) -> None:
    structure = plan("{name = 'fitnet', hint_share = 0.3}", schedule="schedule.epochs = 10")
    hint, prediction = structure.phases
    assert (hint.name, hint.epochs, prediction.name, prediction.epochs) == ("hint", 3, "prediction", 7)
    assert hint.untrained[-1] == "classifier"
    assert prediction.untrained == ("connector",)
    assert (hint.reads_teacher_logits, prediction.reads_teacher_logits) == (False, True)
    assert structure.facts.untrained == ()


def test_what_does_not_fit_is_told_with_recipe_pair_and_method(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe("method = {name = 'fitnet', stage = 4}", **LARGER)
    with pytest.raises(RecipeError) as caught:
        workflows.plan_training(path, workspace)
    assert caught.value.problem == (
        f"{path}: resnet8 <- resnet14 · fitnet: [method] stage = 4: these models have 3 pairs of stages."
    )
    assert caught.value.hint == "set method.stage to a number from 1 to 3."
    assert not workspace.store.runs()


def test_all_configurations_that_do_not_fit_are_told_at_once(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe(
        "[[grid]]\nmethod = ['kd', {name = 'simkd', reuse_from = 'stage7'}, {name = 'fitnet', stage = 9}]\n"
        "[[grid]]\nmethod = ['sequential']\noptimizer.learning_rate = [0.1, 0.2]",
        **LARGER,
    )
    with pytest.raises(RecipeError) as caught:
        workflows.plan_sweep(path, workspace)
    assert [mistake.problem.partition(" · ")[2] for mistake in caught.value.mistakes] == [
        "simkd: the teacher has no stage 'stage7'.",
        "fitnet: [method] stage = 9: these models have 3 pairs of stages.",
        "sequential: schedule.epochs = 1 is too short for the phases features, classifier.",
    ]


@pytest.mark.parametrize(
    ("projector", "problem"),
    [
        ("halved", "the student has features [128, 2, 2], and it makes [48, 2, 2] of them, the teacher has"),
        ("greedy", "the student has features [128, 2, 2], and it fails on them"),
    ],
)
def test_a_projector_that_does_not_reach_the_teacher_is_refused(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path, projector: str, problem: str
) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    method = f"{{name = 'simkd', projector = '{projector}'}}"
    path = recipe(f"plugins = ['plugin.py']\nmethod = {method}")
    with pytest.raises(RecipeError) as caught:
        workflows.plan_training(path, workspace)
    assert f"projector '{projector}' does not fit: {problem}" in caught.value.problem
    assert "kdctl list projectors" in caught.value.hint


def test_a_method_that_needs_numbers_to_be_built_is_built_with_numbers(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    path = recipe("plugins = ['plugin.py']\nmethod = 'numerical'")
    (phase,) = workflows.plan_training(path, workspace).structure.phases
    assert phase.groups == ("all",)


def test_an_error_in_the_code_of_a_plugin_is_told_with_its_place(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "plugin.py").write_text(BROKEN)
    path = recipe("plugins = ['plugin.py']\nmethod = 'broken'")
    with pytest.raises(RecipeError, match=r"it cannot be built: ZeroDivisionError: .*plugin\.py, line \d+"):
        workflows.plan_training(path, workspace)


def test_more_classes_than_there_are_is_a_mistake_of_the_recipe(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe("[[grid]]\nmethod = ['ce', 'kd']", data="data = {name = 'digits', num_classes = 11}")
    with pytest.raises(RecipeError) as caught:
        workflows.plan_sweep(path, workspace)
    (mistake,) = caught.value.mistakes
    assert mistake.problem == f"{path}: [data] num_classes = 11, but the data set has 10 classes."


STEPS = """
import torch
from kdctl.losses.supervision import label_loss
from kdctl.protocols.distiller import Distiller, Losses, methods

class Own(Distiller):
    def losses(self, step):
        logits = step.student.require_logits()
        return Losses(task=label_loss(logits, step.batch), transfer=self.terms(step), logits=logits)

@methods.register("bare")
class Bare(Own):
    def losses(self, step):
        return step.student.require_logits().mean()

@methods.register("unreduced")
class Unreduced(Own):
    def terms(self, step):
        return {"own": step.student.require_logits().sum(dim=1)}

@methods.register("unnamed")
class Unnamed(Own):
    def terms(self, step):
        return {"own": step.teachers[0].taps["stage3"].mean()}

@methods.register("misnamed")
class Misnamed(Own):
    def __init__(self, config, setup):
        super().__init__(config, setup)
        self.teacher_taps = (("layer3",),)

@methods.register("mixing")
class Mixing(Own):
    def terms(self, step):
        raise RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!")

@methods.register("demanding")
class Demanding(Own):
    def terms(self, step):
        raise RuntimeError("Found no NVIDIA driver on your system.")

@methods.register("reading")
class Reading(Own):
    def terms(self, step):
        distance = step.student.require_logits() - step.teachers[0].require_logits()
        return {"own": distance.square().mean() if distance.abs().max() > 0 else distance.mean()}

@methods.register("metaphor")
class Metaphor(Own):
    def terms(self, step):
        return {"own": self.setup.metadata}
"""


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("bare", "losses() of the method returns a Tensor, not Losses."),
        ("unreduced", "losses() of the method returns a term 'own' of shape [64]; each is a tensor of one"),
        ("metaphor", "a training step of the method fails: AttributeError: 'Setup' object has no attribute"),
        ("unnamed", "a training step of the method fails: KeyError: 'stage3' ("),
        ("misnamed", "the method reads tap 'layer3' of a teacher, which has none of that name."),
    ],
)
def test_a_step_that_fails_is_told_before_a_teacher_is_trained(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path, method: str, problem: str
) -> None:
    (tmp_path / "plugin.py").write_text(STEPS)
    with pytest.raises(RecipeError) as caught:
        workflows.plan_training(recipe(f"plugins = ['plugin.py']\nmethod = '{method}'"), workspace)
    assert problem in caught.value.problem


@pytest.mark.parametrize("method", ["mixing", "demanding"])
def test_code_that_asks_for_a_gpu_is_left_to_the_run(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path, method: str
) -> None:
    (tmp_path / "plugin.py").write_text(STEPS)
    assert workflows.plan_training(recipe(f"plugins = ['plugin.py']\nmethod = '{method}'"), workspace).runs


def test_a_step_that_needs_numbers_is_left_to_the_run(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "plugin.py").write_text(STEPS)
    plan = workflows.plan_training(recipe("plugins = ['plugin.py']\nmethod = 'reading'"), workspace)
    assert plan.structure.phases[0].reads_teacher_logits
