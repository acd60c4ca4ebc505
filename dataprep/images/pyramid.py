"""From the pixels of an image to every resolution.

Centre-crop to a square, resize to the highest resolution, halve by 2x2 means down to the lowest.
Nothing is rounded on the way: levels are held as integer sums with a scale, exact at every step
(the float parent without its rounding), and rounded to uint8, halves up, only when a level is
written.

Resizing to the highest resolution: where the square's side is a power of two times it, by 2x2 means
as well, which is how FFHQ's own lower resolutions were made; else by Lanczos with antialiasing.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from dataprep.images.decode import BadImageError

FRACTION_BITS = 8  # what is kept of a Lanczos-resized value below one grey level


def pyramid(pixels: np.ndarray, top: int, bottom: int = 4) -> Iterator[tuple[int, np.ndarray]]:
    """From (H, W, 3) uint8, yield (side, (side, side, 3) uint8) for `top`, `top`/2, ..., `bottom`.

    BadImageError where the image's shorter side is less than `top`.
    """
    sums, bits = square(pixels, top)
    side = top
    while True:
        yield side, rounded(sums, bits)
        if side <= bottom:
            return
        sums, bits = halve(sums, bits)
        side //= 2


def square(pixels: np.ndarray, side: int) -> tuple[np.ndarray, int]:
    """The central square at (side, side, 3), as integers and their number of fraction bits."""
    height, width, _ = pixels.shape
    short = min(width, height)
    if short < side:
        raise BadImageError(
            "too small",
            f"{width}x{height} is smaller than --max-resolution {side} (a lower one helps)",
        )
    left, upper = (width - short) // 2, (height - short) // 2
    pixels = pixels[upper : upper + short, left : left + short]
    factor = short // side
    if short == factor * side and factor & (factor - 1) == 0:
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
    if bits > 24:  # 255 * 2^24 is the most that uint32 holds
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
