"""Every kind of image file that large data sets hold, good and bad."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdctl.readers import image_content
from kdctl.readers.image_content import check_image, decode_image
from kdctl.readers.pixels import UnreadableImageError, read_image, refusing_enormous_images, upright

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


STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By orientation (EXIF 2.32, table of tag 274): how the upright picture lies in the file."""


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_all_eight_orientations_come_upright_to_the_last_bit(tmp_path: Path, suffix: str, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    seen = Image.fromarray(noise).convert(mode)
    path = tmp_path / f"1{suffix}"
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        turned = seen.transpose(STORED[orientation]) if orientation in STORED else seen
        turned.convert("RGB" if suffix == ".webp" else mode).save(
            path, exif=exif, **({"lossless": True} if suffix == ".webp" else {})
        )
        wanted = np.asarray(seen.convert("RGB"))
        assert np.array_equal(pixels(path.read_bytes()), wanted), orientation
        assert np.array_equal(np.asarray(upright(read_image(path))), wanted), orientation


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("junk", [b"junk", b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_an_image_whose_exif_is_junk_is_taken_as_it_lies(tmp_path: Path, suffix: str, junk: bytes) -> None:
    path = tmp_path / f"1{suffix}"
    picture().save(path, exif=junk)
    with refusing_enormous_images():
        check_image(path.read_bytes(), "1")
        found = pixels(path.read_bytes())
        assert np.array_equal(found, np.asarray(upright(read_image(path))))
    assert found.shape == (24, 40, 3)


def test_what_only_xmp_says_turns_no_image_in_either_reader(tmp_path: Path) -> None:
    words = (
        b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/'
        b'1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    jpeg = encoded(picture(), "JPEG")
    path = tmp_path / "1.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(words) + 2).to_bytes(2, "big") + words + jpeg[2:])
    found = pixels(path.read_bytes())
    assert found.shape == (24, 40, 3)
    assert np.array_equal(found, np.asarray(upright(read_image(path))))


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
