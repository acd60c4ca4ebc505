"""An image at every resolution.

Crop or pad to a square, resize to the highest resolution, halve by 2x2 means down to the lowest.
Levels are integer sums with a scale, exact at every step; only the output is rounded to uint8,
halves up.

The square is resized by 2x2 means, too, if its side is a power of two times the highest resolution
(as FFHQ's own lower resolutions were made), else by Lanczos with antialiasing.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from dataprep.images.decode import BadImageError

FRACTION_BITS = 8  # of a Lanczos-resized value


def pyramid(
    pixels: np.ndarray, top: int, bottom: int = 4, crop: str = "centre"
) -> Iterator[tuple[int, np.ndarray]]:
    """From (H, W, 3) uint8, yield (side, (side, side, 3) uint8) for `top`, `top`/2, ..., `bottom`.

    `crop` is one of dataprep.settings.CROPS. BadImageError if the square is smaller than `top`,
    or the image is not square and `crop` is "refuse".
    """
    square = squared(pixels, crop)
    if len(square) < top:
        height, width, _ = pixels.shape
        raise BadImageError(
            "too small",
            f"{width}x{height} is smaller than --max-resolution {top} (a lower one helps)",
        )
    sums, bits = resized(square, top)
    side = top
    while True:
        yield side, rounded(sums, bits)
        if side <= bottom:
            return
        sums, bits = halve(sums, bits)
        side //= 2


def squared(pixels: np.ndarray, crop: str) -> np.ndarray:
    """(H, W, 3) as (S, S, 3): the central or upper square, or the image padded with white."""
    height, width, _ = pixels.shape
    if height == width:
        return pixels
    if crop == "refuse":
        raise BadImageError("not square", f"{width}x{height}")
    if crop == "pad":
        side = max(width, height)
        left, upper = (side - width) // 2, (side - height) // 2
        padded = np.full((side, side, 3), 255, np.uint8)
        padded[upper : upper + height, left : left + width] = pixels
        return padded
    short = min(width, height)
    left, upper = (width - short) // 2, 0 if crop == "top" else (height - short) // 2
    return pixels[upper : upper + short, left : left + short]


def resized(pixels: np.ndarray, side: int) -> tuple[np.ndarray, int]:
    """(S, S, 3) to (side, side, 3), as integers and their number of fraction bits."""
    factor = len(pixels) // side
    if len(pixels) == factor * side and factor & (factor - 1) == 0:
        sums, bits = np.ascontiguousarray(pixels), 0
        while len(sums) > side:
            sums, bits = halve(sums, bits)
        return sums, bits
    values = np.empty((side, side, 3), np.uint16)
    for channel in range(3):
        # Pillow rounds 8-bit images after each of its two passes, but keeps floats as they are.
        band = Image.fromarray(pixels[:, :, channel].astype(np.float32))
        band = np.asarray(band.resize((side, side), Image.Resampling.LANCZOS))
        values[:, :, channel] = np.rint(band.clip(0, 255) * 2**FRACTION_BITS)
    return values, FRACTION_BITS


def halve(sums: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """(2n, 2n, 3) to (n, n, 3): sums of 2x2 blocks, whose values are 4 = 2^2 times the means."""
    bits += 2
    if bits > 24:  # 255 * 2^24 is the largest in uint32
        raise BadImageError("too large", "for exact means: make it smaller first")
    height, width, channels = sums.shape
    dtype = np.uint16 if bits <= 8 else np.uint32
    rows = sums.reshape(height // 2, 2, width * channels)
    rows = np.add(rows[:, 0], rows[:, 1], dtype=dtype)
    pairs = rows.reshape(height // 2, width // 2, 2, channels)
    means = np.empty((height // 2, width // 2, channels), dtype)
    for channel in range(channels):  # 6 times as fast as an inner loop over three channels
        np.add(pairs[:, :, 0, channel], pairs[:, :, 1, channel], out=means[:, :, channel])
    return means, bits


def rounded(sums: np.ndarray, bits: int) -> np.ndarray:
    """`sums` / 2^bits to the nearest uint8, halves up."""
    if bits == 0:
        return sums
    whole = sums >> (bits - 1)  # then (x + 1) >> 1 rounds halves up without overflow
    return ((whole + 1) >> 1).astype(np.uint8)
