from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdctl.assembly.assemble import build_distiller, build_student, count_parameters, model_facts
from kdctl.assembly.build_gangs import build_gangs
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import DataLibrary, Sizes
from kdctl.assembly.run_context import RunContext
from kdctl.engine.gang import TrainingData
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.distiller import Distiller
from kdctl.recipe.plan import NUMERICS, SCHEMA, RunPlan
from kdctl.recipe.stored import read_plan

SIZES = Sizes(num_classes=4, input_size=16)


def plan(method: str, **sections: Any) -> RunPlan:
    tree = {
        "schema": SCHEMA,
        "numerics": NUMERICS,
        "protocol": "",
        "data": "digits",
        "data_fingerprint": "",
        "student": "resnet8",
        "teachers": [],
        "method": method,
        "optimizer": "sgd",
        "schedule": "step",
        "engine": {},
        "seed": 0,
    }
    return read_plan({**tree, **sections}, full_catalog())


@pytest.fixture
def teacher() -> Backbone:
    torch.manual_seed(0)
    return models.get("resnet14").item(*SIZES).eval().requires_grad_(requires_grad=False)


def assembled(run: RunPlan, teacher: Backbone) -> Distiller:
    return build_distiller(run, build_student(run, SIZES), [teacher], num_samples=40)


def differing(left: nn.Module, right: nn.Module) -> list[str]:
    other = right.state_dict()
    return [name for name, value in left.state_dict().items() if not torch.equal(value, other[name])]


def test_the_seed_alone_decides_the_students_first_weights(teacher: Backbone) -> None:
    students = [assembled(plan(method), teacher).student for method in ("kd", "simkd", "kd")]
    assert not differing(students[0], students[1])
    assert not differing(students[0], students[2])
    other = assembled(plan("kd", seed=1), teacher).student
    assert {name for name in differing(students[0], other) if name.endswith("0.weight")}


def test_the_seed_decides_the_projectors_apart_from_the_student(teacher: Backbone) -> None:
    first, again = assembled(plan("simkd"), teacher), assembled(plan("simkd"), teacher)
    deeper = assembled(plan("simkd", student="resnet20"), teacher)
    assert not differing(first, again)
    assert not differing(first.get_submodule("projector"), deeper.get_submodule("projector"))


def test_assembling_leaves_torchs_own_generator_as_it_was(teacher: Backbone) -> None:
    state = torch.get_rng_state()
    assembled(plan("simkd"), teacher)
    assert torch.equal(state, torch.get_rng_state())


def test_maps_and_weights_are_laid_out_channels_last(teacher: Backbone) -> None:
    distiller = assembled(plan("simkd"), teacher)
    kernels = [module.weight for module in distiller.modules() if isinstance(module, nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_a_teacher_of_other_classes_is_refused() -> None:
    teacher = models.get("resnet14").item(7, 16)
    with pytest.raises(KdctlError, match="tells 7 classes apart, the data have 4"):
        assembled(plan("kd"), teacher)


def test_what_no_loss_reaches_needs_no_gradient(teacher: Backbone) -> None:
    simkd, kd = assembled(plan("simkd"), teacher), assembled(plan("kd"), teacher)
    left_out = [name for name, value in simkd.named_parameters() if not value.requires_grad]
    assert left_out == ["student.classifier.weight", "student.classifier.bias"]
    assert all(value.requires_grad for value in kd.parameters())


def test_facts_tell_what_is_trained_and_what_is_shipped(teacher: Backbone) -> None:
    simkd, kd = assembled(plan("simkd"), teacher), assembled(plan("kd"), teacher)
    student = count_parameters(kd.student)

    facts = model_facts(kd, [teacher])
    assert (facts.student_parameters, facts.shipped_parameters) == (student, student)
    assert facts.projector_parameters == 0
    assert facts.untrained == ()
    assert facts.teacher_parameters == count_parameters(teacher)

    facts = model_facts(simkd, [teacher])
    projector = 64 * 32 + 9 * 32**2 + 32 * 64 + 4 * 32 + 2 * 64
    assert facts.projector_parameters == projector
    assert facts.shipped_parameters == student + projector  # the classifiers are of one size
    assert facts.untrained == ("pooled", "classifier")

    assert model_facts(kd, []).teacher_parameters is None
    assert model_facts(kd, []).pruning_percent is None


def test_facts_name_the_largest_teacher(teacher: Backbone) -> None:
    small = models.get("resnet8").item(*SIZES)
    facts = model_facts(assembled(plan("kd"), teacher), [small, teacher])
    assert facts.teacher_parameters == count_parameters(teacher)


def test_data_are_closed_where_runs_cannot_be_built_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gang that memory does not hold is tried again in halves: without the processes of the first try."""
    closed: list[TrainingData] = []

    def close(data: TrainingData) -> None:
        closed.append(data)

    def fails(*_: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(TrainingData, "close", close)
    monkeypatch.setattr("kdctl.assembly.build_gangs.require_room", fails)
    context = RunContext(runs=tmp_path, open_library=lambda: DataLibrary(tmp_path), device="cpu")
    spec = plan("ce").data
    run = plan("ce", data_fingerprint=context.library.fingerprint(spec))
    with pytest.raises(MemoryError, match="too large"):
        build_gangs([run], context, ranks=None, on_built=lambda *_: None, meanwhile=lambda: None)
    assert len(closed) == 1
