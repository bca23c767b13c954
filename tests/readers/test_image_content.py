"""Every kind of image file that large data sets hold, good and bad."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kdctl.readers import image_content
from kdctl.readers.image_content import check_image, decode_image, refusing_enormous_images
from kdctl.readers.pixels import UnreadableImageError

ORIENTATION = 0x0112


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """Draw a slope of colours, which JPEG keeps well."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return decode_image(content, "a.jpg").permute(1, 2, 0).numpy()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_colour_images_come_as_bytes_of_three_channels(form: str) -> None:
    found = pixels(encoded(picture(), form))
    assert found.dtype == np.uint8
    assert found.shape == (24, 40, 3)
    assert np.abs(found.astype(int) - np.asarray(picture())).mean() < 4


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_grey_images_get_three_equal_channels(form: str) -> None:
    found = pixels(encoded(picture().convert("L"), form))
    assert (found[..., 0] == found[..., 1]).all()
    assert (found[..., 1] == found[..., 2]).all()


def test_cmyk_becomes_rgb() -> None:
    found = pixels(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(found.astype(int) - np.asarray(picture())).mean() < 4


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_images_that_a_camera_turned_come_upright(form: str) -> None:
    upright = picture()
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[ORIENTATION] = 6  # turn by 90 degrees clockwise to see it upright
    found = pixels(encoded(turned, form, exif=exif))
    assert found.shape == (24, 40, 3)
    assert np.abs(found.astype(int) - np.asarray(upright)).mean() < 4


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_both_decoders_of_jpeg_give_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture(67, 45).convert(mode), "JPEG", quality=80)
    assert image_content.jpeg_decoder() is not None
    fast = pixels(content)
    monkeypatch.setattr(image_content, "jpeg_decoder", lambda: None)
    np.testing.assert_array_equal(pixels(content), fast)


def test_the_content_counts_not_the_name() -> None:
    assert decode_image(encoded(picture(), "PNG"), "a.jpg").shape == (3, 24, 40)


def sixteen_bits() -> bytes:
    return encoded(Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)), "PNG")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"no image", "no image"),
        (encoded(picture(), "JPEG")[:-40], "truncated"),
        (encoded(picture(), "PNG")[:-300], ""),
        (sixteen_bits(), "more than 8 bits"),
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "16 bits"],
)
def test_bad_files_are_refused_by_name(content: bytes, problem: str) -> None:
    with pytest.raises(UnreadableImageError, match=rf"n01/x\.jpg \(.*{problem}"):
        check_image(content, "n01/x.jpg")


def test_enormous_images_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with refusing_enormous_images(), pytest.raises(UnreadableImageError, match="enormous"):
        check_image(encoded(picture(), "JPEG"), "a.jpg")
