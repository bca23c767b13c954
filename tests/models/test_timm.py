"""Models of timm, at sizes that a CPU likes: they give what timm's own give, and all their taps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.adopted_weights import adopt
from kdctl.engine.device import shapes_only
from kdctl.engine.fold import fold_batch_norms, largest_error
from kdctl.engine.frozen import frozen_copy
from kdctl.engine.optim import build_optimizers
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError, UsageError
from kdctl.layers.timm_backbone import wrap
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.distiller import ParameterGroup
from kdctl.protocols.shapes import MapShape, TokenShape
from kdctl.recipe.component import Spec
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.optimization import AdamW

timm: Any = pytest.importorskip("timm")

NUM_CLASSES, SIZE = 7, 64
MAPS = ("test_resnet", "test_convnext", "test_efficientnet", "test_byobnet", "regnety_002", "mobilenetv2_050")
TOKENS = ("test_vit", "deit_tiny_distilled_patch16_224", "mixer_s32_224")
NAMES = (*MAPS, *TOKENS, "swin_tiny_patch4_window7_224")
SIZES = {"swin_tiny_patch4_window7_224": 56}


def size_of(name: str) -> int:
    return SIZES.get(name, SIZE)


def original(name: str) -> nn.Module:
    sized = name in (*TOKENS, *SIZES)
    options: dict[str, Any] = {"img_size": size_of(name)} if sized else {}
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=NUM_CLASSES, **options).eval()


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def drawn(name: str) -> Backbone:
    """Draw a model once for the tests of its name, each of which takes a copy."""
    torch.manual_seed(0)
    return models.get(f"timm:{name}").item(NUM_CLASSES, size_of(name)).eval()


@pytest.fixture
def backbone(drawn: Backbone) -> Backbone:
    return copy.deepcopy(drawn)


@pytest.fixture(scope="module")
def theirs(name: str) -> nn.Module:
    """Return timm's own model, which no test changes."""
    return original(name)


@pytest.fixture
def images(name: str) -> Tensor:
    size = size_of(name)
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
@pytest.mark.extended
def test_it_gives_what_timms_own_gives(theirs: nn.Module, backbone: Backbone, images: Tensor) -> None:
    assert torch.equal(backbone(images), theirs(images))
    outputs = backbone.observe(images, list(backbone.tap_shapes))
    assert torch.equal(outputs.require_logits(), theirs(images))
    assert {tap: tuple(seen.shape[1:]) for tap, seen in outputs.taps.items()} == backbone.tap_shapes
    assert len(backbone.state_dict()) == len(theirs.state_dict())
    assert sum(p.numel() for p in backbone.parameters()) == sum(p.numel() for p in theirs.parameters())
    maps = theirs.forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]
    for info, expected in zip(theirs.feature_info, maps, strict=True):  # type: ignore[arg-type]
        seen, shape = outputs.taps[info["module"]], backbone.tap_shapes[info["module"]]
        if isinstance(shape, TokenShape):
            seen = seen[:, shape.num_prefix :].transpose(1, 2).unflatten(2, shape.grid)
        assert torch.equal(seen, expected)


@torch.inference_mode()
@pytest.mark.extended
def test_encoder_then_tail_is_the_whole(backbone: Backbone, images: Tensor) -> None:
    for tap in ("features", "pooled"):
        assert torch.equal(backbone.tail(tap)(backbone.encoder(tap)(images)), backbone(images))
    with pytest.raises(KdctlError, match="cannot be cut at"):
        backbone.encoder(backbone.stage_taps[0])
    few = backbone.observe(images, [backbone.stage_taps[0]], with_logits=False)
    assert few.logits is None


@torch.inference_mode()
def test_a_model_of_which_nothing_is_read_does_not_run(backbone: Backbone, images: Tensor) -> None:
    calls: list[int] = []
    hooks = [module.register_forward_pre_hook(lambda *_: calls.append(1)) for module in backbone.modules()]
    assert backbone.observe(images, (), with_logits=False).taps == {}
    nothing = images[:0, :, :0, :0]  # what stands for a batch where the method makes its own images
    assert backbone.observe(nothing, (), with_logits=False).logits is None
    for hook in hooks:
        hook.remove()
    assert not calls


@pytest.mark.extended
def test_shapes_are_known_without_numbers(name: str, backbone: Backbone) -> None:
    with shapes_only():
        hollow = models.get(f"timm:{name}").item(NUM_CLASSES, size_of(name))
    assert hollow.tap_shapes == backbone.tap_shapes
    assert {key: value.shape for key, value in hollow.state_dict().items()} == {
        key: value.shape for key, value in backbone.state_dict().items()
    }
    kind = TokenShape if name in TOKENS else MapShape
    assert all(isinstance(backbone.tap_shapes[tap], kind) for tap in backbone.stage_taps)


def test_a_gradient_reaches_every_parameter_and_nothing_is_random(backbone: Backbone, images: Tensor) -> None:
    backbone.train()
    logits = backbone(images)
    assert torch.equal(backbone(images), logits)
    logits.sum().backward()
    assert not [key for key, parameter in backbone.named_parameters() if parameter.grad is None]


@pytest.mark.extended
def test_timms_files_of_weights_fit(name: str, theirs: nn.Module, images: Tensor, tmp_path: Path) -> None:
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    weights = read_public_weights(tmp_path / "weights.pth")
    torch.manual_seed(1)
    ours = adopt(models.get(f"timm:{name}").item, weights, size_of(name)).eval()
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.extended
def test_as_a_teacher_it_is_folded_and_its_tokens_are_computed_in_bf16(
    backbone: Backbone, images: Tensor
) -> None:
    backbone.requires_grad_(requires_grad=False)
    taps = list(backbone.tap_shapes)
    exact = backbone.observe(images, taps)
    frozen = frozen_copy(backbone, EngineOptions(teacher_precision="bf16", fold_teacher=False), images)
    seen = frozen.observe(images, taps)
    for tap in (*backbone.stage_taps, "features"):
        error = (seen.taps[tap].float() - exact.taps[tap]).norm() / exact.taps[tap].norm()
        assert 1e-4 < error < 0.1, tap  # what adds up along the way (a transformer's tokens) stays fp32
    products = [layer.weight for layer in frozen.links["features"].modules() if isinstance(layer, nn.Linear)]
    assert all(weight.dtype is torch.bfloat16 for weight in products)
    assert seen.require_logits().dtype is torch.float32
    folded = fold_batch_norms(backbone, images)
    assert folded is not None
    assert largest_error(folded, backbone, images) < 1e-4


def test_a_distilled_transformer_shows_its_tokens_and_both_heads() -> None:
    name = "deit_tiny_distilled_patch16_224"
    theirs, ours = original(name), models.get(f"timm:{name}").item(NUM_CLASSES, SIZE).eval()
    weights = {**ours.state_dict()}
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        taps = ours.observe(
            images, ["features", "class_token", "distillation_token", "patch_mean", "heads"]
        ).taps
        own, taught = taps["heads"].chunk(2, dim=1)
        torch.testing.assert_close((own + taught) / 2, ours(images))
        assert torch.equal(taps["class_token"], taps["features"][:, 0])
        assert torch.equal(taps["distillation_token"], taps["features"][:, 1])
        assert torch.equal(taps["patch_mean"], taps["features"][:, 2:].mean(dim=1))
    shape = ours.tap_shapes["features"]
    assert isinstance(shape, TokenShape)
    assert (shape.grid, shape.num_prefix) == ((SIZE // 16, SIZE // 16), 2)
    assert len(weights) == len(theirs.state_dict())
    with pytest.raises(KdctlError, match="no single linear classifier"):
        _ = ours.classifier.weight


@pytest.mark.parametrize(
    "name", ["test_vit_relpos", "twins_svt_small", "xcit_nano_12_p16_224"]
)  # without prefix tokens, with inner maps alone, with a patch that is one number
@torch.inference_mode()
@pytest.mark.extended
def test_transformers_that_show_themselves_otherwise_show_their_patches(name: str) -> None:
    torch.manual_seed(0)
    ours = models.get(f"timm:{name}").item(NUM_CLASSES, SIZE).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    theirs = timm.create_model(name, num_classes=NUM_CLASSES, img_size=SIZE).eval()
    theirs.load_state_dict(
        {f"{at}.{key}".lstrip("."): value for at, part in _published(ours) for key, value in part.items()}
    )
    outputs = ours.observe(images, list(ours.tap_shapes))
    assert torch.equal(outputs.require_logits(), theirs(images))
    maps = theirs.forward_intermediates(images, intermediates_only=True)
    for info, expected in zip(theirs.feature_info, maps, strict=True):
        shape, seen = ours.tap_shapes[info["module"]], outputs.taps[info["module"]]
        assert isinstance(shape, TokenShape)
        assert tuple(seen.shape[1:]) == shape
        patches = seen[:, shape.num_prefix :].transpose(1, 2).unflatten(2, shape.grid)
        assert torch.equal(patches, expected)


def _published(backbone: Backbone) -> list[tuple[str, dict[str, Tensor]]]:
    """Return the weights of a model's pieces, with timm's name of each piece."""
    return [(name, part.state_dict()) for name, part in backbone.public_names()]  # type: ignore[attr-defined]


@torch.inference_mode()
@pytest.mark.extended
def test_a_norm_before_the_classifier_is_no_part_of_what_is_left_out() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("shvit_s1", num_classes=NUM_CLASSES).eval()
    norm = theirs.head.bn
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    ours = wrap(copy.deepcopy(theirs), NUM_CLASSES, SIZE)
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(ours(images), theirs(images))
    pooled = ours.observe(images, ["pooled"]).taps["pooled"]
    assert torch.equal(theirs.head.l(pooled), theirs(images))


@pytest.mark.extended
def test_models_whose_logits_are_not_the_classifiers_alone_are_refused() -> None:
    with pytest.raises(KdctlError, match="VOLO does not end in one linear classifier"):
        models.get("timm:volo_d1_224").item(NUM_CLASSES, SIZE)
    with pytest.raises(KdctlError, match="neither a map nor the tokens of all patches"):
        models.get("timm:pit_ti_224").item(NUM_CLASSES, SIZE)


@pytest.mark.extended
def test_registers_are_called_neither_class_nor_distillation_token() -> None:
    """A register token stands for nothing; this model has one, and no class token."""
    ours = models.get("timm:vit_wee_patch16_reg1_gap_256").item(NUM_CLASSES, SIZE)
    shape = ours.tap_shapes["features"]
    assert isinstance(shape, TokenShape)
    assert shape.num_prefix == 1
    assert "class_token" not in ours.tap_shapes
    assert "distillation_token" not in ours.tap_shapes
    assert "patch_mean" in ours.tap_shapes


def test_positions_and_tokens_are_spared_weight_decay() -> None:
    ours = models.get("timm:deit_tiny_distilled_patch16_224").item(NUM_CLASSES, SIZE)
    spared = ours.undecayed_parameters()
    names = {name for name, parameter in ours.named_parameters() if any(parameter is one for one in spared)}
    assert {name.rpartition(".")[2] for name in names} == {"pos_embed", "cls_token", "dist_token"}
    spec = Spec(kind="optimizer", name="adamw", options=AdamW(decay_norms_and_biases=False))
    group = ParameterGroup(name="all", parameters=tuple(ours.parameters()))
    (part,) = build_optimizers(spec, [group], undecayed=spared)
    decayed, plain = part.optimizer.param_groups
    assert plain["weight_decay"] == 0.0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(ours.parameters()))


def test_a_tag_names_weights_and_not_another_model() -> None:
    entry = models.get("timm:resnet50.a1_in1k")
    assert entry.name == "timm:resnet50"
    assert models.get(entry.name).item == entry.item
    assert "timm:resnet50" not in models.names()


def test_a_name_that_timm_does_not_know_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="timm has no model 'deit_tiny_patch16_244'") as caught:
        models.get("timm:deit_tiny_patch16_244")
    assert "deit_tiny_patch16_224" in caught.value.hint
    with pytest.raises(UsageError, match=r"timm has no weights 'regnety_160\.deit_in2k'") as caught:
        models.get("timm:regnety_160.deit_in2k")
    assert "regnety_160.deit_in1k" in caught.value.hint


@pytest.mark.parametrize(("name", "size"), [("test_vit", 40), ("swin_tiny_patch4_window7_224", 30)])
def test_a_size_that_it_cannot_take_is_refused(name: str, size: int) -> None:
    with pytest.raises(KdctlError, match=f"cannot take images of {size}x{size} pixels"):
        models.get(f"timm:{name}").item(NUM_CLASSES, size)


def test_without_timm_a_recipe_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdctl.models import timm as room  # noqa: PLC0415

    room.timm_model.cache_clear()
    find: Callable[[str], object] = lambda _name: None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", find)
    with pytest.raises(KdctlError, match="not installed") as caught:
        models.get("timm:resnet18")
    assert "kdctl[timm]" in caught.value.hint
