"""From the bytes of an image file to its pixels: by Pillow, and ordinary PNGs by libspng.

libspng takes two thirds of Pillow's time (14 ms instead of 21 at 1024x1024), but as pyspng sets it
up it skips the checksums of the chunks, so these are looked at here. JPEG stays with Pillow:
simplejpeg would save 0.2 ms of the 3 that an image of 256x256 takes, and OpenCV nothing.

Only the formats named here are tried, so that nothing exotic runs on bytes from anywhere (Pillow
would hand PostScript to Ghostscript); and the size is looked at before anything is unpacked.
"""

import io
import struct

import deflate
import numpy as np
import pyspng
from PIL import Image, ImageOps, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from dataprep.manifest import DatasetError

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 2**27  # 12,000 x 9,000 are in; a worker holds 4 bytes of each
MAX_BYTES = 2**28  # of one image file
ORIENTATION = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TURNING = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where orientation is told
LFS_POINTER = b"version https://git-lfs.github.com"
WHITE = (255, 255, 255, 255)

Image.preinit()  # and the imports above: once, before workers are forked, and not in each of them
Image.MAX_IMAGE_PIXELS = None  # decode() looks at the size itself


class BadImageError(DatasetError):
    """An image that cannot be used. `kind` is what a summary counts by; the message is the reason,
    without the image's name."""

    def __init__(self, kind: str, reason: str = ""):
        super().__init__(f"{kind}: {reason}" if reason else kind)
        self.kind = kind


def decode(data: bytes) -> np.ndarray:
    """The upright RGB pixels (H, W, 3) uint8 of an image file.

    Palettes, greys and CMYK become RGB, transparent pixels are laid over white, of 16 bits the
    upper 8 are kept. BadImageError where the bytes are no image, are damaged or far too many.
    """
    if not data:
        raise BadImageError("empty file")
    if data.startswith(LFS_POINTER):
        raise BadImageError("Git LFS pointer", "get the file itself with `git lfs pull`")
    try:
        return pixels_of(data)
    except BadImageError as error:
        # Pillow refuses PNGs with texts or a colour profile of more than 1 MB by a ValueError.
        if isinstance(error.__context__, ValueError) and data.startswith(PNG_SIGNATURE):
            less = needed(data)
            if less != data:
                return pixels_of(less)
        raise


def pixels_of(data: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImageError("not an image of a known format") from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
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


def needed(data: bytes) -> bytes:
    """A PNG without the texts and the colour profile, which tell nothing of its pixels; what may
    tell how to turn it stays. As it is where it is cut off."""
    parts, at = [data[: len(PNG_SIGNATURE)]], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        keyword = data[at + 8 : end].partition(b"\0")[0]
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP") or keyword in TURNING:
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def is_plain_png(image: Image.Image, data: bytes) -> bool:
    """Whether it is a PNG of 8-bit RGB without transparency, and nothing tells how to turn it."""
    tiles = image.tile  # type: ignore[attr-defined]
    return (
        image.format == "PNG"
        and tiles  # none where no chunk holds pixels
        and tiles[0].args == "RGB"
        and "transparency" not in image.info
        and not any(name in data for name in TURNING)
    )


def plain_png(data: bytes) -> np.ndarray:
    """The pixels (H, W, 3) of such a PNG; BadImageError where it is damaged."""
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
    """The image in mode RGB; BadImageError where its range of values is anybody's guess."""
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
