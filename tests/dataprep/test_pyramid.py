"""Cropping, resizing and 2x2 means, against references computed in float64."""

import numpy as np
import pytest

from dataprep.images.decode import BadImageError
from dataprep.images.pyramid import FRACTION_BITS, pyramid
from tests.dataprep.pictures import means, picture


def levels(pixels: np.ndarray, top: int, crop: str = "centre") -> dict[int, np.ndarray]:
    return dict(pyramid(pixels, top, crop=crop))


def half_up(values: np.ndarray) -> np.ndarray:
    return np.floor(values + 0.5).astype(np.uint8)


@pytest.mark.parametrize("side, top", [(64, 64), (128, 32), (1024, 256)])
def test_power_of_two_sides_are_exact_means_of_the_source(side, top):
    pixels = picture(1, side, side)
    found = levels(pixels, top)
    assert list(found) == [top >> i for i in range(top.bit_length() - 2)]
    for resolution, level in found.items():
        assert level.dtype == np.uint8
        np.testing.assert_array_equal(level, half_up(means(pixels, resolution)))


def test_halves_are_rounded_up_and_only_once():
    ties = np.zeros((8, 8, 3), np.uint8)
    ties[::2, ::2] = 2  # every 2x2 mean is 0.5
    assert (levels(ties, 8)[4] == 1).all()
    quarters = np.zeros((16, 16, 3), np.uint8)
    quarters[::2, ::4] = 2  # 0.5 beside 0, written as 1 and 0; their mean is 0.25, written as 0
    assert (levels(quarters, 16)[8] == [[[1], [0]] * 4] * 8).all()
    assert (levels(quarters, 16)[4] == 0).all()


def lanczos(size: int, side: int) -> np.ndarray:
    """(side, size) float64: Lanczos-3 stretched to the coarser grid, rows summing to one."""
    scale = size / side
    centre = (np.arange(side)[:, None] + 0.5) * scale
    x = (np.arange(size)[None] + 0.5 - centre) / max(scale, 1)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("side, top", [(100, 64), (250, 64), (65, 64)])
def test_other_sides_are_resized_by_lanczos_without_rounding(side, top):
    pixels = picture(2, side, side)
    weights = lanczos(side, top)
    rows = np.tensordot(weights, pixels, (1, 0))
    exact = np.tensordot(rows, weights, (1, 1)).swapaxes(1, 2).clip(0, 255)
    assert np.abs(pixels[::3, ::3].astype(int) - 128).max() > 120  # the range is used to its ends
    for resolution, level in levels(pixels, top).items():
        error = np.abs(level - means(exact, resolution))
        assert error.max() <= 0.5 + 2.0**-FRACTION_BITS


def test_the_square_is_the_centre_of_the_image():
    wide, high = picture(3, 101, 32), picture(4, 32, 77)
    np.testing.assert_array_equal(levels(wide, 32)[32], wide[:, 34:66])
    np.testing.assert_array_equal(levels(high, 32)[32], high[22:54])


def test_other_squares():
    wide, high = picture(3, 101, 32), picture(4, 32, 77)
    np.testing.assert_array_equal(levels(wide, 32, "top")[32], wide[:, 34:66])
    np.testing.assert_array_equal(levels(high, 32, "top")[32], high[:32])
    padded = levels(picture(5, 64, 37), 64, "pad")[64]
    np.testing.assert_array_equal(padded[13:50], picture(5, 64, 37))
    assert (padded[:13] == 255).all() and (padded[50:] == 255).all()
    np.testing.assert_array_equal(levels(picture(6, 20, 64), 64, "pad")[64][:, 22:42, :], picture(6, 20, 64))  # fmt: skip  # noqa: E501
    for pixels in (wide, high):
        with pytest.raises(BadImageError, match="not square: ") as caught:
            levels(pixels, 32, "refuse")
        assert caught.value.kind == "not square"
    square = picture(7, 32, 32)
    for crop in ("centre", "top", "pad", "refuse"):
        np.testing.assert_array_equal(levels(square, 32, crop)[32], square)


def test_too_small_is_refused():
    with pytest.raises(BadImageError, match="40x31 is smaller than --max-resolution 32"):
        levels(picture(0, 40, 31), 32)
