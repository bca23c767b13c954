from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from kdctl.readers.image_content import check_image
from kdctl.readers.pixels import UnreadableImageError, channel_statistics, read_image, resized


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_a_grey_image_gets_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    pixels = np.asarray(read_image(saved(tmp_path / "grey.png", Image.fromarray(grey))))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=-1))


def test_a_palette_with_transparency_is_looked_up_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    pixels = read_image(saved(tmp_path / "palette.png", image, transparency=b"\x00\xff"))
    assert np.asarray(pixels).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_transparency_is_dropped(tmp_path: Path) -> None:
    image = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert read_image(saved(tmp_path / "clear.png", image)).getpixel((0, 0)) == (10, 20, 30)


def test_sixteen_bits_a_channel_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((2, 2), 40_000, dtype=np.uint16))
    with pytest.raises(UnreadableImageError, match="more than 8 bits"):
        read_image(saved(tmp_path / "deep.png", deep))


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp"])
def test_a_file_cut_short_is_unreadable(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = saved(tmp_path / f"noise.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImageError):
        read_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_unreadable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = saved(tmp_path / "noise.avif", Image.fromarray(noise))
    before, marker, coded = path.read_bytes().partition(b"mdat")
    path.write_bytes(before + marker + b"\xff" * len(coded))
    with pytest.raises(UnreadableImageError):
        read_image(path)


def test_a_program_in_postscript_is_not_run_by_whoever_is_there_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("Ghostscript is asked"))
    path = tmp_path / "program.png"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    with pytest.raises(UnreadableImageError, match="PostScript"):
        read_image(path)
    with pytest.raises(UnreadableImageError, match="PostScript"):
        check_image(path.read_bytes(), "program.png")


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = Image.new("RGB", (8, 8))
    assert resized(image, 8) is image


def test_an_oblong_image_is_stretched_to_a_square() -> None:
    halves = np.zeros((4, 8, 3), dtype=np.uint8)
    halves[:, 4:] = 200
    square = np.asarray(resized(Image.fromarray(halves), 4))
    assert square.shape == (4, 4, 3)
    assert square[:, 0].max() == 0
    assert square[:, 3].min() == 200


def test_statistics_are_those_of_all_pixels_of_a_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 3, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_channel_that_never_varies_can_be_divided_by() -> None:
    mean, std = channel_statistics(np.full((2, 4, 4, 3), 255, dtype=np.uint8))
    assert mean == (1.0, 1.0, 1.0)
    assert std == (1 / 255, 1 / 255, 1 / 255)
