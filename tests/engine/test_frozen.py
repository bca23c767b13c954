from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.frozen import frozen_copy
from kdctl.errors import KdctlError
from kdctl.layers.branches import Residual
from kdctl.layers.conv import conv3x3
from kdctl.protocols.backbone import Backbone, GlobalAveragePool, Link, models
from kdctl.recipe.engine_options import EngineOptions

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
EXACT = EngineOptions(fold_teacher=False)
BF16 = EngineOptions(teacher_precision="bf16")


@pytest.fixture(params=["resnet14", "wrn_16_2", "mobilenetv2", "shufflenetv1", "vgg8"])
def teacher(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    return models.get(request.param).item(5, 16).eval().requires_grad_(requires_grad=False)


def relative_error(seen: Tensor, expected: Tensor) -> float:
    return float((seen.float() - expected).norm() / expected.norm())


def test_without_folding_in_fp32_the_copy_gives_the_same_numbers(teacher: Backbone) -> None:
    taps = list(teacher.tap_shapes)
    ours, theirs = (model.observe(IMAGES, taps) for model in (frozen_copy(teacher, EXACT, IMAGES), teacher))
    assert ours.taps.keys() == theirs.taps.keys()
    for tap in taps:
        torch.testing.assert_close(ours.taps[tap], theirs.taps[tap], rtol=1e-5, atol=1e-5)


def test_in_bf16_maps_are_rounded_and_vectors_and_logits_are_fp32(teacher: Backbone) -> None:
    taps = list(teacher.tap_shapes)
    ours, theirs = (model.observe(IMAGES, taps) for model in (frozen_copy(teacher, BF16, IMAGES), teacher))
    for tap, shape in teacher.tap_shapes.items():
        assert ours.taps[tap].dtype is (torch.bfloat16 if len(shape) == 3 else torch.float32)
        assert relative_error(ours.taps[tap], theirs.taps[tap]) < 0.02
    assert ours.logits is not None
    assert ours.logits.dtype is torch.float32


def test_the_teacher_itself_stays_as_it_was(teacher: Backbone) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    logits = teacher(IMAGES)
    copy = frozen_copy(teacher, BF16, IMAGES)
    copy(IMAGES)
    after = teacher.state_dict()
    assert after.keys() == before.keys()
    assert all(
        value.dtype is after[name].dtype and torch.equal(value, after[name]) for name, value in before.items()
    )
    assert torch.equal(teacher(IMAGES), logits)
    assert not any(value.requires_grad for value in copy.parameters())


def test_batch_norms_that_are_left_keep_their_statistics_in_fp32() -> None:
    copy = frozen_copy(models.get("wrn_16_2").item(5, 16).eval(), BF16, IMAGES)
    norms = [module for module in copy.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {norm.running_mean.dtype for norm in norms if norm.running_mean is not None} == {torch.float32}
    assert {norm.weight.dtype for norm in norms} == {torch.float32}


def test_features_that_overflow_are_refused() -> None:
    loud = nn.Sequential(conv3x3(3, 8))
    links = [
        Link(name="stem", module=loud, shape=(8, 16, 16)),
        Link(name="pooled", module=GlobalAveragePool(), shape=(8,)),
    ]
    model = Backbone(links, classifier=nn.Linear(8, 5), stage_taps=["stem"], input_size=16).eval()
    nn.init.constant_(loud[0].weight, 1e5)  # type: ignore[arg-type]
    with pytest.raises(KdctlError, match=r"overflow in fp16") as caught:
        frozen_copy(model, EngineOptions(teacher_precision="fp16"), IMAGES)
    assert "engine.teacher_precision" in caught.value.hint
    frozen_copy(model, BF16, IMAGES)


def test_a_teacher_that_cannot_be_folded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    raw = nn.Sequential(conv3x3(3, 8), nn.Identity(), Residual(nn.BatchNorm2d(8)))
    links = [
        Link(name="stem", module=raw, shape=(8, 16, 16)),
        Link(name="pooled", module=GlobalAveragePool(), shape=(8,)),
    ]
    model = Backbone(links, classifier=nn.Linear(8, 5), stage_taps=["stem"], input_size=16)
    nn.init.constant_(raw[2].branch.running_var, 4.0)  # type: ignore[union-attr, arg-type]
    copy = frozen_copy(model.eval(), EngineOptions(), IMAGES)
    torch.testing.assert_close(copy(IMAGES), model(IMAGES))
    assert "not folded" in caplog.text
