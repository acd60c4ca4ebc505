"""What is written is read back by Pillow: exactly where that is promised."""

import io

import numpy as np
import pytest
from PIL import Image

from dataprep.images import encode
from tests.dataprep.pictures import picture


def read(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("side", [4, 64, 256])
@pytest.mark.parametrize("how", [encode.png, encode.webp])
def test_lossless(how, side):
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    for pixels in (picture(side, side, side), noise, np.zeros_like(noise)):
        np.testing.assert_array_equal(read(how(pixels)), pixels)


def test_other_programs_read_the_png(tmp_path):
    cv2 = pytest.importorskip("cv2")
    pixels = picture(1, 32, 32)
    decoded = cv2.imdecode(np.frombuffer(encode.png(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded[:, :, ::-1], pixels)


def test_jpeg_gets_better_with_its_quality():
    pixels = picture(2, 64, 64)
    errors = [
        np.abs(read(encode.jpeg(pixels, quality)).astype(int) - pixels).mean()
        for quality in (50, 80, 95, 100)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1
    assert Image.open(io.BytesIO(encode.jpeg(pixels, 95))).layer[0][1:3] == (1, 1)  # 4:4:4
