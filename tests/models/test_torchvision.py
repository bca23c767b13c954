"""Models of ImageNet's size: with torchvision's weights they give what torchvision's give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from kdctl.engine.adopted_weights import adopt, fitting_models
from kdctl.engine.device import shapes_only
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import models

ORIGINALS = {
    "resnet18_imagenet": "resnet18",
    "resnet34_imagenet": "resnet34",
    "resnet50_imagenet": "resnet50",
    "resnet101_imagenet": "resnet101",
    "mobilenetv2_imagenet": "mobilenet_v2",
    "regnety_004": "regnet_y_400mf",
    "regnety_008": "regnet_y_800mf",
    "regnety_016": "regnet_y_1_6gf",
    "regnety_032": "regnet_y_3_2gf",
    "regnety_080": "regnet_y_8gf",
    "regnety_160": "regnet_y_16gf",
}
NUM_CLASSES = 10


def drawn(original: str) -> nn.Module:
    """Build torchvision's model with batch norms that cannot be mistaken for one another."""
    torch.manual_seed(0)
    model = get_model(original, weights=None, num_classes=NUM_CLASSES).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            value.normal_(std=0.1)
    return model


@torch.no_grad()
def features(original: str, model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the last map of each stage of torchvision's model, by its own code."""
    seen: list[Tensor] = []
    if original.startswith("resnet"):
        stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    elif original.startswith("regnet"):
        stages = list(model.trunk_output.children())  # type: ignore[operator, union-attr]
    else:
        stages = [model.features[place] for place in (3, 6, 13, 17)]  # type: ignore[index]
    hooks = [stage.register_forward_hook(lambda _m, _i, output: seen.append(output)) for stage in stages]
    model(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("name", "size"), [
    *((name, 64) for name in ("resnet34_imagenet", "resnet50_imagenet", "regnety_008")),
    *((name, 224) for name in ("resnet18_imagenet", "mobilenetv2_imagenet", "regnety_004")),
])  # fmt: skip
@pytest.mark.extended
def test_it_gives_what_torchvisions_gives_with_equal_weights(name: str, size: int, tmp_path: Path) -> None:
    original = drawn(ORIGINALS[name])
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    weights = read_public_weights(tmp_path / "weights.pth")
    backbone = adopt(models.get(name).item, weights, size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), original(images), rtol=1e-4, atol=1e-5)
        taps = backbone.observe(images, backbone.stage_taps).taps.values()
    for ours, theirs in zip(taps, features(ORIGINALS[name], original, images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ORIGINALS)
def test_it_has_torchvisions_parameters_and_is_known_by_their_names(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in ("normal_", "uniform_"):  # of weights, names and shapes count here
        monkeypatch.setattr(Tensor, draw, lambda weight, *_, **__: weight)
    original = get_model(ORIGINALS[name], weights=None, num_classes=1000)
    with shapes_only():
        backbone = models.get(name).item(1000, 224)
        pieces = dict(models.get(name).item.public_names(backbone))  # type: ignore[attr-defined]
        final = backbone.tap_shapes[backbone.final_tap]
    count = sum(parameter.numel() for parameter in original.parameters())
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count
    known = {
        spelling: tuple(value.shape)
        for names, piece in pieces.items()
        for part in names.split("|")
        for spelling, value in ((f"{part}.{key}", value) for key, value in piece.state_dict().items())
    }
    for key, value in original.state_dict().items():
        assert known[key] == tuple(value.shape)
    assert final[1:] == (7, 7)


def test_counts_are_those_of_the_papers_and_libraries() -> None:
    expected = {
        "resnet18_imagenet": 11_689_512,
        "resnet34_imagenet": 21_797_672,
        "resnet50_imagenet": 25_557_032,
        "mobilenetv2_imagenet": 3_504_872,
        "regnety_160": 83_590_140,
    }
    for name, count in expected.items():
        with shapes_only():
            backbone = models.get(name).item(1000, 224)
        assert sum(parameter.numel() for parameter in backbone.parameters()) == count


@pytest.mark.extended
def test_a_file_tells_the_two_stems_of_a_resnet_apart(tmp_path: Path) -> None:
    torch.save(drawn("resnet18").state_dict(), tmp_path / "weights.pth")
    weights = read_public_weights(tmp_path / "weights.pth")
    assert fitting_models(weights, 64) == ["resnet18_imagenet"]


def test_images_that_the_strides_use_up_are_refused() -> None:
    for name in ("resnet18_imagenet", "regnety_004", "mobilenetv2_imagenet"):
        with pytest.raises(KdctlError, match="16x16 pixels are too small"):
            models.get(name).item(10, 16)
