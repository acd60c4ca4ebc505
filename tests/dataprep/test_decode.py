"""Decoding: the pixels that Pillow shows, and a reason for everything that cannot be shown."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from dataprep.decode import MAX_PIXELS, BadImageError, decode
from tests.dataprep.pictures import encoded, picture, png_chunk


def encoded_image(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["BMP", "JPEG", "PNG", "TIFF", "WEBP"])
def test_formats(format):
    data = encoded(picture(0, 24, 16), format)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


def test_exif_rotation_is_applied():
    pixels = picture(5, 48, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    np.testing.assert_array_equal(decode(encoded(pixels, exif=exif)), np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK"])
def test_modes_become_rgb(mode):
    image = Image.fromarray(picture(6, 16, 16)).convert(mode)
    decoded = decode(encoded_image(image, "TIFF"))
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_transparency_is_laid_over_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = 10, 20, 30, 255
    rgba[1, 1] = 10, 20, 30, 0
    decoded = decode(encoded(rgba))
    assert decoded[0, 0].tolist() == [10, 20, 30]
    assert decoded[1, 1].tolist() == [255, 255, 255]


def test_of_sixteen_bits_the_upper_eight_are_kept():
    grey = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    for format in ("PNG", "TIFF"):
        decoded = decode(encoded(grey, format))
        np.testing.assert_array_equal(decoded, np.stack([grey >> 8] * 3, axis=-1))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_more_bits_are_refused_rather_than_guessed(dtype):
    with pytest.raises(BadImageError, match="more than 16 bits"):
        decode(encoded(np.full((8, 8), 40_000, dtype), "TIFF"))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_damage_is_told(format):
    whole = encoded(picture(7, 64, 64), format)
    with pytest.raises(BadImageError, match="damaged"):
        decode(whole[: len(whole) // 2])
    with pytest.raises(BadImageError, match="not an image"):
        decode(b"<html>404</html>")
    with pytest.raises(BadImageError, match="empty"):
        decode(b"")


def test_a_bomb_is_refused_before_it_is_unpacked():
    side = 2**16 - 1
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")
    assert side**2 > MAX_PIXELS
    with pytest.raises(BadImageError, match="decompression bomb: 65535x65535") as caught:
        decode(bomb)
    assert caught.value.kind == "decompression bomb"


def test_nothing_but_the_formats_named_is_tried():
    with pytest.raises(BadImageError, match="not an image of a known format"):
        decode(encoded(picture(0, 8, 8), "EPS"))  # which Pillow would give to Ghostscript
