"""Decoding: the pixels that Pillow shows, and a reason for everything that cannot be shown."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dataprep.images.decode import MAX_PIXELS, BadImageError, decode
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
def test_damage_is_reported(format):
    whole = encoded(picture(7, 64, 64), format)
    with pytest.raises(BadImageError, match="damaged"):
        decode(whole[: len(whole) // 2])
    with pytest.raises(BadImageError, match="not an image"):
        decode(b"<html>404</html>")
    with pytest.raises(BadImageError, match="empty"):
        decode(b"")


@pytest.mark.parametrize("format", ["PNG", "BMP"])
def test_lossless_pixels_are_those_that_pillow_shows(format):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for pixels in (noise, picture(1, 60, 40), picture(2, 33, 65)):
        np.testing.assert_array_equal(decode(encoded(pixels, format)), pixels)


def test_every_damaged_byte_of_a_png_is_noticed():
    whole = encoded(picture(3, 16, 16))
    for place in range(8, len(whole) - 12, 5):
        damaged = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        with pytest.raises(BadImageError):
            decode(damaged)


def test_pngs_that_are_not_plain():
    pixels = picture(4, 16, 16)
    white = pixels.copy()
    white[(pixels == pixels[3, 3]).all(axis=-1)] = 255
    transparent = encoded(pixels, transparency=tuple(map(int, pixels[3, 3])))
    np.testing.assert_array_equal(decode(transparent), white)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)  # 16-bit RGB: filter 0, then 6 bytes
    body = zlib.compress(bytes([0, 10, 200, 20, 200, 30, 200]))
    chunks = (b"IHDR", header), (b"IDAT", body), (b"IEND", b"")
    deep = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    assert decode(deep).tolist() == [[[10, 20, 30]]]


def test_a_png_without_pixels_is_damaged():
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
    with pytest.raises(BadImageError, match="damaged"):
        decode(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IEND", b""))


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


def with_chunks(png: bytes, *chunks: bytes, before: bytes) -> bytes:
    place = png.index(before) - 4
    return png[:place] + b"".join(chunks) + png[place:]


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("alpha", [False, True])
def test_texts_and_profiles_of_any_size_are_skipped(before, alpha):
    pixels = picture(8, 16, 16)
    if alpha:  # which Pillow reads, and not libspng
        pixels = np.dstack([pixels, np.full((16, 16), 255, np.uint8)])
    packed = zlib.compress(bytes(3 << 20))
    text = png_chunk(b"zTXt", b"Comment\0\0" + packed)
    profile = png_chunk(b"iCCP", b"name\0\0" + packed)
    for chunks in ([text], [profile], [text, profile]):
        data = with_chunks(encoded(pixels), *chunks, before=before)
        np.testing.assert_array_equal(decode(data), pixels[:, :, :3])


def test_orientation_of_a_png_with_a_large_text():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = picture(9, 16, 24)
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20)))
    data = with_chunks(encoded(pixels, exif=exif), text, before=b"IDAT")
    np.testing.assert_array_equal(decode(data), np.rot90(pixels, -1))
    damaged = data[: data.index(b"IDAT") + 30]
    with pytest.raises(BadImageError, match="damaged"):
        decode(damaged)


def test_a_git_lfs_pointer_is_named():
    with pytest.raises(BadImageError, match="git lfs pull") as caught:
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    assert caught.value.kind == "Git LFS pointer"
