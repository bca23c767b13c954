"""Networks laid out and named as public repositories do, written anew here: ours must predict the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.engine.adopted_weights import adopt
from kdctl.engine.device import shapes_only
from kdctl.engine.public_weights import read_public_weights
from kdctl.protocols.backbone import HasPublicNames, models


def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)


class ResidualBlock(nn.Module):
    """conv1, bn1, conv2, bn2 (conv3, bn3), with a shortcut called as its maker likes, or padded zeros."""

    def __init__(self, inside: int, outside: int, stride: int, shortcut: str, deep: bool = False) -> None:
        super().__init__()
        hidden = outside // 4 if deep else outside
        kernels = (1, 3, 1) if deep else (3, 3)
        widths = [inside, *[hidden] * (len(kernels) - 1), outside]
        for number, kernel in enumerate(kernels, start=1):
            strides = stride if number == len(kernels) - 1 == 2 or (not deep and number == 1) else 1
            setattr(self, f"conv{number}", conv(widths[number - 1], widths[number], kernel, strides))
            setattr(self, f"bn{number}", nn.BatchNorm2d(widths[number]))
        self.depth, self.stride, self.padding = len(kernels), stride, 0
        self.shortcut_name = ""
        if stride != 1 or inside != outside:
            if shortcut == "zeros":
                self.padding = (outside - inside) // 2
            else:
                self.shortcut_name = shortcut
                way = nn.Sequential(conv(inside, outside, 1, stride), nn.BatchNorm2d(outside))
                self.add_module(shortcut, way)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.depth + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            out = functional.relu(out) if number < self.depth else out
        if self.shortcut_name:
            x = getattr(self, self.shortcut_name)(x)
        elif self.padding:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(out + x)


class ResNet(nn.Module):
    """conv1, bn1, layer1..., fc or linear."""

    def __init__(
        self,
        num_blocks: tuple[int, ...],
        widths: tuple[int, ...],
        shortcut: str = "downsample",
        head: str = "fc",
        deep: bool = False,
    ) -> None:
        super().__init__()
        stem, *rest = widths
        self.conv1, self.bn1 = conv(3, stem), nn.BatchNorm2d(stem)
        inside = stem
        self.num_stages, self.head = len(rest), head
        for stage, (count, width) in enumerate(zip(num_blocks, rest, strict=True), start=1):
            blocks: list[nn.Module] = []
            for place in range(count):
                stride = 2 if stage > 1 and place == 0 else 1
                blocks.append(ResidualBlock(inside, width, stride, shortcut, deep))
                inside = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.add_module(head, nn.Linear(inside, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.head)(x.mean(dim=(2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inside), conv(inside, outside, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outside), conv(outside, outside)
        self.convShortcut = None if inside == outside else conv(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        out = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.convShortcut is None else self.convShortcut(activated))


class WideStage(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """conv1, block1.layer.0..., bn1, fc."""

    def __init__(self, num_blocks: int, widening: int) -> None:
        super().__init__()
        widths = [16, 16 * widening, 32 * widening, 64 * widening]
        self.conv1 = conv(3, 16)
        for stage in (1, 2, 3):
            inside, outside = widths[stage - 1 : stage + 1]
            first = WideBlock(inside, outside, 1 if stage == 1 else 2)
            rest = [WideBlock(outside, outside, 1) for _ in range(num_blocks - 1)]
            self.add_module(f"block{stage}", WideStage(first, *rest))
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in (1, 2, 3):
            x = getattr(self, f"block{stage}")(x)
        return self.fc(functional.relu(self.bn1(x)).mean(dim=(2, 3)))


class Vgg(nn.Module):
    """block0 to block4, each without its last ReLU; classifier."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        inside = 3
        for number, width in enumerate((64, 128, 256, 512, 512)):
            layers: list[nn.Module] = []
            for _ in range(depth):
                layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inside = width
            self.add_module(f"block{number}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(5):
            x = functional.relu(getattr(self, f"block{number}")(x))
            x = functional.max_pool2d(x, 2) if number < 3 else x
        return self.classifier(x.mean(dim=(2, 3)))


class InvertedResidual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        self.keeps = stride == 1 and inside == outside
        self.conv = nn.Sequential(
            *(conv(inside, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(conv(hidden, hidden, 3, stride, hidden), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(conv(hidden, outside, 1), nn.BatchNorm2d(outside)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.keeps else self.conv(x)


class MobileNetV2(nn.Module):
    """conv1, blocks.<group>.<place>.conv, conv2, classifier.0."""

    def __init__(self, width: float) -> None:
        super().__init__()
        inside = int(32 * width)
        self.conv1 = nn.Sequential(conv(3, inside, 3, 2), nn.BatchNorm2d(inside), nn.ReLU())
        self.blocks = nn.ModuleList()
        settings = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]
        for expansion, channels, count, stride in [*settings, (6, 320, 1, 1)]:
            group: list[nn.Module] = []
            for place in range(count):
                outside = int(channels * width)
                group.append(InvertedResidual(inside, outside, stride if place == 0 else 1, expansion))
                inside = outside
            self.blocks.append(nn.Sequential(*group))
        self.conv2 = nn.Sequential(conv(inside, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(1280, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for group in self.blocks:
            x = group(x)
        return self.classifier(self.conv2(x).mean(dim=(2, 3)))


def shuffled(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class ShuffleUnitV1(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.stride, hidden = stride, outside // 4
        self.groups = 1 if inside == 24 else 3
        self.conv1, self.bn1 = conv(inside, hidden, 1, groups=self.groups), nn.BatchNorm2d(hidden)
        self.conv2, self.bn2 = conv(hidden, hidden, 3, stride, hidden), nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = conv(hidden, outside, 1, groups=3), nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffled(functional.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(out)))))
        if self.stride == 1:
            return functional.relu(out + x)
        return functional.relu(torch.cat([out, functional.avg_pool2d(x, 3, 2, 1)], 1))


class ShuffleNetV1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 24, 1), nn.BatchNorm2d(24)
        inside = 24
        for stage, (width, count) in enumerate(((240, 4), (480, 8), (960, 4)), start=1):
            first = ShuffleUnitV1(inside, width - inside, 2)
            rest = [ShuffleUnitV1(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            inside = width
        self.linear = nn.Linear(960, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear(x.mean(dim=(2, 3)))


class ShuffleUnitV2(nn.Module):
    def __init__(self, half: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(half, half, 1), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = conv(half, half, 3, 1, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(right)))))
        return shuffled(torch.cat([left, functional.relu(self.bn3(self.conv3(out)))], 1), 2)


class ShuffleDownV2(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.conv1, self.bn1 = conv(inside, inside, 3, 2, inside), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = conv(inside, half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv(inside, half, 1), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = conv(half, half, 3, 2, half), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = conv(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = functional.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(functional.relu(self.bn3(self.conv3(x)))))
        return shuffled(torch.cat([left, functional.relu(self.bn5(self.conv5(right)))], 1), 2)


class ShuffleNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 24, 1), nn.BatchNorm2d(24)
        inside = 24
        for stage, (width, count) in enumerate(((116, 3), (232, 7), (464, 3)), start=1):
            rest = [ShuffleUnitV2(width // 2) for _ in range(count)]
            self.add_module(f"layer{stage}", nn.Sequential(ShuffleDownV2(inside, width), *rest))
            inside = width
        self.conv2, self.bn2 = conv(464, 1024, 1), nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear(functional.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3)))


PUBLIC: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: ResNet((3, 3, 3), (16, 16, 32, 64)),
    "resnet8x4": lambda: ResNet((1, 1, 1), (32, 64, 128, 256)),
    "wrn_16_2_post": lambda: ResNet((2, 2, 2), (16, 32, 64, 128)),
    "resnet20_a": lambda: ResNet((3, 3, 3), (16, 16, 32, 64), shortcut="zeros", head="linear"),
    "resnet18": lambda: ResNet((2, 2, 2, 2), (64, 64, 128, 256, 512), shortcut="shortcut", head="linear"),
    "resnet50": lambda: ResNet((3, 4, 6, 3), (64, 256, 512, 1024, 2048), shortcut="shortcut", deep=True),
    "wrn_16_2": lambda: WideResNet(2, 2),
    "wrn_40_1": lambda: WideResNet(6, 1),
    "vgg8": lambda: Vgg(1),
    "vgg13": lambda: Vgg(2),
    "mobilenetv2": lambda: MobileNetV2(0.5),
    "shufflenetv1": ShuffleNetV1,
    "shufflenetv2": ShuffleNetV2,
}
"""Our name -> the same network as others write it."""

SIZE = 16


def used(model: nn.Module) -> nn.Module:
    """Give a network weights and statistics as after a training: nothing is zero, one or symmetric."""
    generator = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if value.dtype == torch.int64:
            value.fill_(7)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            spread = 1.0 / max(value[0].numel(), 1) ** 0.5 if value.dim() > 1 else 0.3
            value.normal_(
                1.0 if value.dim() == 1 and name.endswith("weight") else 0.0, spread, generator=generator
            )
    return model.eval()


def predictions(model: nn.Module) -> Tensor:
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.extended
def test_a_model_with_public_weights_predicts_what_its_original_does(name: str, tmp_path: Path) -> None:
    original = used(PUBLIC[name]())
    torch.save({"model": original.state_dict(), "epoch": 240}, tmp_path / "model.pth")
    backbone = adopt(models.get(name).item, read_public_weights(tmp_path / "model.pth"), SIZE)
    torch.testing.assert_close(predictions(backbone), predictions(original), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in models.entries() if isinstance(entry.item, HasPublicNames)],
    ids=lambda entry: entry.name,
)
def test_every_piece_with_weights_has_exactly_one_public_name(entry: Any) -> None:
    with shapes_only():
        backbone = entry.item(10, 32)
        names = list(entry.item.public_names(backbone))
    own = [id(module) for module in backbone.modules() if list(module.parameters(recurse=False))]
    assert sorted(id(piece) for _, piece in names) == sorted(own)
    assert len({name for name, _ in names}) == len(names)
    assert names[-1][1] is backbone.classifier
