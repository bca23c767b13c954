"""What arithmetic on a real GPU must keep to."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdctl.engine.checkpoint import host_copy
from kdctl.engine.device import Compute, choose_device, prepare
from kdctl.engine.fold import FAITHFUL, fold_batch_norms, largest_error
from kdctl.engine.frozen import frozen_copy
from kdctl.protocols.backbone import models
from kdctl.recipe.engine_options import EngineOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

TEACHERS = ("resnet32x4", "wrn_40_2", "wrn_40_2_post", "vgg13", "resnet110x2", "mobilenetv2x2", "resnet50")


@pytest.fixture(autouse=True)
def prepared(torch_settings: object) -> torch.device:
    """Set torch's switches as a run does."""
    device = choose_device("cuda")
    prepare(Compute(device=device, options=EngineOptions()), None)
    return device


def test_convolutions_in_fp32_are_no_tf32(prepared: torch.device) -> None:
    images = torch.randn(64, 64, 32, 32, device=prepared).to(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, device=prepared).to(memory_format=torch.channels_last)
    exact = functional.conv2d(images.double(), weight.double(), padding=1)
    error = (functional.conv2d(images, weight, padding=1) - exact).norm() / exact.norm()
    assert error < 1e-5, f"TF32 is off by about 3e-4, this by {error:.1e}"


@pytest.mark.parametrize("name", TEACHERS)
def test_teachers_stay_the_same_when_they_are_folded(prepared: torch.device, name: str) -> None:
    torch.manual_seed(0)
    teacher = models.get(name).item(100, 32).to(prepared)
    images = torch.randn(64, 3, 32, 32, device=prepared).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(5):
            teacher(images)  # statistics that are not those of a fresh model
    teacher.eval().requires_grad_(requires_grad=False)
    folded = fold_batch_norms(teacher, images[:8])
    assert folded is not None, "it was off by more than rounding"
    assert largest_error(folded, teacher, images) < FAITHFUL


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_of_teachers_are_near(prepared: torch.device, precision: str) -> None:
    torch.manual_seed(0)
    teacher = models.get("resnet32x4").item(100, 32).to(prepared).eval().requires_grad_(requires_grad=False)
    images = torch.randn(64, 3, 32, 32, device=prepared).to(memory_format=torch.channels_last)
    lowered = frozen_copy(teacher, EngineOptions(teacher_precision=precision), images)  # type: ignore[arg-type]
    assert largest_error(lowered, teacher, images) < 0.1


def test_a_copy_for_a_checkpoint_is_whole_when_it_is_there(prepared: torch.device) -> None:
    """However much was queued before it, and whatever the layout."""
    values = [
        torch.zeros(64, 64, 64, 64, device=prepared).to(memory_format=torch.channels_last),
        torch.zeros((), device=prepared),
        torch.zeros(1000, device=prepared, dtype=torch.bfloat16),
        torch.zeros(7, device=prepared, dtype=torch.int64),
    ]
    for _ in range(200):
        for value in values:
            value.add_(1)
    copies = host_copy({"values": list(values), "name": "any"})
    assert copies["name"] == "any"
    for copy, value in zip(copies["values"], values, strict=True):
        assert copy.device.type == "cpu"
        assert copy.dtype == value.dtype
        assert copy.stride() == value.stride()
        assert (copy == 200).all()
