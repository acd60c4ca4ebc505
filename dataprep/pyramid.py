"""From the bytes of an image file to its pixels at every resolution, decoded once.

Decode, turn as EXIF says, convert to RGB, centre-crop to a square, resize to the highest
resolution, halve by 2x2 means down to the lowest. Nothing is rounded on the way: levels are held as
integer sums with a scale, exact at every step (the float parent without its rounding), and rounded
to uint8, halves up, only when a level is written.

Resizing to the highest resolution: where the square's side is a power of two times it, by 2x2 means
as well, which is how FFHQ's own lower resolutions were made; else by Lanczos with antialiasing.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from dataprep.manifest import DatasetError

FRACTION_BITS = 8  # what is kept of a Lanczos-resized value below one grey level
WHITE = (255, 255, 255, 255)


class BadImageError(DatasetError):
    """An image that cannot be used; the message is the reason alone, without the name."""


def decode(data: bytes) -> Image.Image:
    """The RGB image in `data`, upright; transparent pixels are laid over white.

    BadImageError where the bytes are no image, are damaged, or have more than 8 bits per channel.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        image = ImageOps.exif_transpose(image)
    except Image.UnidentifiedImageError:
        raise BadImageError("not an image of a known format") from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        raise BadImageError(f"damaged: {error}") from None
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise BadImageError(f"more than 8 bits per channel (mode {image.mode})")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert("RGB")


def pyramid(image: Image.Image, top: int, bottom: int = 4) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (side, pixels (side, side, 3) uint8) for `top`, `top`/2, ..., `bottom`.

    BadImageError where the image's shorter side is less than `top`.
    """
    sums, bits = square(image, top)
    side = top
    while True:
        yield side, rounded(sums, bits)
        if side <= bottom:
            return
        sums, bits = halve(sums, bits)
        side //= 2


def square(image: Image.Image, side: int) -> tuple[np.ndarray, int]:
    """The central square at (side, side, 3), as integers and their number of fraction bits."""
    width, height = image.size
    short = min(width, height)
    if short < side:
        raise BadImageError(
            f"{width}x{height} is smaller than --max-resolution {side} (a lower one helps)"
        )
    left, upper = (width - short) // 2, (height - short) // 2
    image = image.crop((left, upper, left + short, upper + short))
    factor = short // side
    if short == factor * side and factor & (factor - 1) == 0:
        sums, bits = np.asarray(image), 0
        while len(sums) > side:
            sums, bits = halve(sums, bits)
        return sums, bits
    # Pillow rounds RGB to uint8 after each pass, but keeps floats ("F") as they are.
    bands = [band.convert("F") for band in image.split()]
    bands = [band.resize((side, side), Image.Resampling.LANCZOS) for band in bands]
    values = np.stack([np.asarray(band) for band in bands], axis=-1).clip(0, 255)
    return np.rint(values * 2**FRACTION_BITS).astype(np.uint16), FRACTION_BITS


def halve(sums: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """(2n, 2n, 3) to (n, n, 3): sums of 2x2 blocks, whose values are 4 = 2^2 times the means."""
    bits += 2
    if bits > 24:  # 255 * 2^24 is the most that uint32 holds
        raise BadImageError("too large for the exact means: make it smaller first")
    height, width, channels = sums.shape
    dtype = np.uint16 if bits <= 8 else np.uint32
    rows = sums.reshape(height // 2, 2, width * channels)
    rows = np.add(rows[:, 0], rows[:, 1], dtype=dtype)
    pairs = rows.reshape(height // 2, width // 2, 2, channels)
    return pairs[:, :, 0] + pairs[:, :, 1], bits


def rounded(sums: np.ndarray, bits: int) -> np.ndarray:
    """`sums` / 2^bits to the nearest uint8, halves up."""
    if bits == 0:
        return sums
    whole = sums >> (bits - 1)  # then (x + 1) >> 1 rounds halves up without overflow
    return ((whole + 1) >> 1).astype(np.uint8)
