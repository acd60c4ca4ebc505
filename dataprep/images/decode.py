"""Decodes image files: by Pillow, and ordinary PNGs by libspng.

libspng takes two thirds of Pillow's time (14 ms instead of 21 at 1024x1024). pyspng has it skip the
checksums of chunks, so they are verified here. JPEG stays with Pillow: simplejpeg would save 0.2 ms
of the 3 ms of an image of 256x256, and OpenCV nothing.

Only FORMATS are tried, as rare decoders on untrusted bytes are a risk (Pillow would start
Ghostscript for PostScript), and the size is checked before pixels are decoded.
"""

import io
import struct

import deflate
import numpy as np
import pyspng
from PIL import Image, ImageOps, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from dataprep.manifest import DatasetError

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 2**27  # 12,000 x 9,000 is allowed; a worker holds 4 bytes for each
MAX_BYTES = 2**28  # of one image file
ORIENTATION = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAY_ORIENT = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # may hold an orientation
LFS_POINTER = b"version https://git-lfs.github.com"
WHITE = (255, 255, 255, 255)

Image.preinit()  # like the plugins above: once, before workers are forked
Image.MAX_IMAGE_PIXELS = None  # decode() checks the size


class BadImageError(DatasetError):
    """An image that cannot be used. Summaries count by `kind`; the message does not name it."""

    def __init__(self, kind: str, reason: str = ""):
        super().__init__(f"{kind}: {reason}" if reason else kind)
        self.kind = kind


def decode(data: bytes) -> np.ndarray:
    """The upright RGB pixels (H, W, 3) uint8 of an image file.

    Palettes, greys and CMYK become RGB, transparent pixels are blended with white, and of 16 bits
    the upper 8 are kept. BadImageError if it is not an image, damaged, or too large.
    """
    if not data:
        raise BadImageError("empty file")
    if data.startswith(LFS_POINTER):
        raise BadImageError("Git LFS pointer", "get the file itself with `git lfs pull`")
    try:
        return decode_known(data)
    except BadImageError as error:
        # Pillow raises ValueError for PNGs with more than 1 MB of text or colour profile.
        if isinstance(error.__context__, ValueError) and data.startswith(PNG_SIGNATURE):
            smaller = without_texts(data)
            if smaller != data:
                return decode_known(smaller)
        raise


def decode_known(data: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImageError("not an image of a known format") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged bytes
        raise BadImageError("damaged", str(error)) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(
            "decompression bomb", f"{width}x{height} pixels are more than {MAX_PIXELS:,}"
        )
    if is_plain_png(image, data):
        return plain_png(data)
    try:
        image.load()
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise BadImageError("damaged", str(error)) from None
    return np.asarray(rgb(image))


def without_texts(data: bytes) -> bytes:
    """A PNG without texts and colour profile, except those that may hold an orientation."""
    parts, at = [data[: len(PNG_SIGNATURE)]], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        keyword = data[at + 8 : end].partition(b"\0")[0]
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP") or keyword in MAY_ORIENT:
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def is_plain_png(image: Image.Image, data: bytes) -> bool:
    """Whether it is a PNG of 8-bit RGB, without transparency or orientation."""
    tiles = image.tile  # type: ignore[attr-defined]
    return (
        image.format == "PNG"
        and tiles  # none if no chunk has pixels
        and tiles[0].args == "RGB"
        and "transparency" not in image.info
        and not any(name in data for name in MAY_ORIENT)
    )


def plain_png(data: bytes) -> np.ndarray:
    """The pixels (H, W, 3) of such a PNG; BadImageError if it is damaged."""
    at = len(PNG_SIGNATURE)
    try:
        kind = None
        while kind != b"IEND":
            length, kind = struct.unpack_from(">I4s", data, at)
            end = at + 8 + length
            if deflate.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
                raise BadImageError("damaged", "the checksum of a PNG chunk differs")
            at = end + 4
        return pyspng.load(data)
    except (RuntimeError, struct.error) as error:
        raise BadImageError("damaged", str(error)) from None


def rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB; BadImageError if the range of its values is unknown."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        high = np.asarray(image).astype(np.uint16) >> 8  # as Pillow does with 16-bit RGB
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImageError("more than 16 bits per channel", f"mode {image.mode}")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert("RGB")
