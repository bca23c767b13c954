"""Parameter counts, exact: with 100 classes and with 10."""

from __future__ import annotations

import pytest

from kdctl.engine.device import shapes_only
from kdctl.protocols.backbone import models

COUNTS = {
    "mobilenetv2": (812_836, 697_546),
    "mobilenetv2_imagenet": (2_351_972, 2_236_682),
    "mobilenetv2x2": (2_353_060, 2_237_770),
    "regnety_004": (3_947_244, 3_907_554),
    "regnety_008": (5_726_012, 5_655_362),
    "regnety_016": (10_402_330, 10_322_320),
    "regnety_032": (18_074_638, 17_938_468),
    "regnety_080": (37_566_172, 37_384_642),
    "regnety_160": (80_867_640, 80_595_390),
    "resnet3": (91_812, 80_202),
    "resnet4": (140_692, 131_962),
    "resnet5": (316_564, 299_194),
    "resnet6": (667_540, 650_170),
    "resnet8": (83_892, 78_042),
    "resnet8x4": (1_233_540, 1_210_410),
    "resnet10": (2_795_092, 2_760_442),
    "resnet14": (181_108, 175_258),
    "resnet18": (11_220_132, 11_173_962),
    "resnet18_imagenet": (11_227_812, 11_181_642),
    "resnet20": (278_324, 272_474),
    "resnet20_a": (275_572, 269_722),
    "resnet32": (472_756, 466_906),
    "resnet32_a": (470_004, 464_154),
    "resnet32x4": (7_433_860, 7_410_730),
    "resnet34": (21_328_292, 21_282_122),
    "resnet34_imagenet": (21_335_972, 21_289_802),
    "resnet44": (667_188, 661_338),
    "resnet44_a": (664_436, 658_586),
    "resnet50": (23_705_252, 23_520_842),
    "resnet50_imagenet": (23_712_932, 23_528_522),
    "resnet56": (861_620, 855_770),
    "resnet56_a": (858_868, 853_018),
    "resnet101_imagenet": (42_705_060, 42_520_650),
    "resnet110": (1_736_564, 1_730_714),
    "resnet110_a": (1_733_812, 1_727_962),
    "resnet110x2": (6_911_220, 6_899_610),
    "resnet116": (1_833_780, 1_827_930),
    "shufflenetv1": (949_258, 862_768),
    "shufflenetv2": (1_355_528, 1_263_278),
    "shufflenetv2x1_5": (2_580_548, 2_488_298),
    "vgg8": (3_965_028, 3_918_858),
    "vgg11": (9_277_284, 9_231_114),
    "vgg13": (9_462_180, 9_416_010),
    "wrn_16_2": (703_284, 691_674),
    "wrn_16_2_post": (703_732, 692_122),
    "wrn_16_4": (2_772_020, 2_748_890),
    "wrn_16_4_post": (2_783_620, 2_760_490),
    "wrn_28_2": (1_479_220, 1_467_610),
    "wrn_28_4": (5_872_180, 5_849_050),
    "wrn_28_4_post": (5_883_780, 5_860_650),
    "wrn_40_1": (569_780, 563_930),
    "wrn_40_1_post": (569_972, 564_122),
    "wrn_40_2": (2_255_156, 2_243_546),
    "wrn_40_2_post": (2_255_604, 2_243_994),
    "wrn_40_4": (8_972_340, 8_949_210),
    "wrn_40_4_post": (8_983_940, 8_960_810),
}


def num_parameters(name: str, *, num_classes: int, input_size: int = 32) -> int:
    with shapes_only():
        backbone = models.get(name).item(num_classes, input_size)
    return sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_counted_exactly(name: str) -> None:
    assert (num_parameters(name, num_classes=100), num_parameters(name, num_classes=10)) == COUNTS[name]


def test_every_model_of_kdctl_is_counted() -> None:
    assert {entry.name for entry in models.entries() if entry.origin is None} == set(COUNTS)


@pytest.mark.parametrize("name", ["vgg8", "resnet8x4", "mobilenetv2"])
def test_the_size_of_images_does_not_change_the_count(name: str) -> None:
    assert num_parameters(name, num_classes=100, input_size=64) == COUNTS[name][0]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("ResNet-8x4", "resnet8x4"),
        ("ResNet 32x4", "resnet32x4"),
        ("ResNet50", "resnet50"),
        ("WRN-40-2", "wrn_40_2"),
        ("wrn_40_2", "wrn_40_2"),
        ("resnet38x2", "wrn_40_2_post"),
        ("resnet14x4", "wrn_16_4_post"),
        ("mobile_half", "mobilenetv2"),
        ("MobileNet-V2", "mobilenetv2"),
        ("MobileNetV2_1_0", "mobilenetv2x2"),
        ("ShuffleV1", "shufflenetv1"),
        ("ShuffleV2_1_5", "shufflenetv2x1_5"),
        ("ShuffleNetV2x1.5", "shufflenetv2x1_5"),
        ("VGG-8", "vgg8"),
        ("vgg13_bn", "vgg13"),
    ],
)
def test_spellings_of_papers_and_their_code_find_the_model(spelling: str, name: str) -> None:
    assert models.get(spelling).name == name
