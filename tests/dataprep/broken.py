"""Images that cannot be used, each with the kind of its reject, and unusual ones that can."""

import io
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.dataprep.pictures import encoded, picture, png_chunk

SIDE = 32


def in_mode(mode: str, format: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, SIDE, SIDE)).convert(mode).save(buffer, format)
    return buffer.getvalue()


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


def unusable(folder: Path, good: Path) -> dict[str, str]:
    """Ten images into `folder` that cannot be used; the kind of reject of each by name."""
    png, jpeg = encoded(picture(900, SIDE, SIDE)), encoded(picture(901, SIDE, SIDE), "JPEG")
    cut = encoded(picture(902, SIDE, SIDE))
    broken = bytearray(png)
    broken[len(png) // 2] ^= 255
    files = {
        "truncated.png": (cut[: len(cut) // 2], "damaged"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        "corrupt.png": (bytes(broken), "damaged"),
        "page.jpg": (b"<html>404</html>", "not an image of a known format"),
        "empty.png": (b"", "empty file"),
        "small.png": (encoded(picture(903, 200, SIDE - 1)), "too small"),
        "bomb.png": (bomb(), "decompression bomb"),
        "float.tif": (
            encoded(np.ones((SIDE, SIDE), np.float32), "TIFF"),
            "more than 16 bits per channel",
        ),
        "z-copy.png": (good.read_bytes(), "duplicate"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.png").symlink_to("nowhere.png")
    return {name: kind for name, (_, kind) in files.items()} | {"dangling.png": "unreadable"}


def unusual(folder: Path) -> set[str]:
    """Images that can be used, though careless tools stumble over them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = np.dstack([picture(910, SIDE, SIDE), np.full((SIDE, SIDE), 128, np.uint8)])
    files = {
        "palette.png": in_mode("P", "PNG", 911),
        "cmyk.jpg": in_mode("CMYK", "JPEG", 912),
        "grey.jpg": in_mode("L", "JPEG", 913),
        "bits16.png": encoded(picture(914, SIDE, SIDE)[:, :, 0].astype(np.uint16) * 257),
        "alpha.png": encoded(rgba),
        "turned.jpg": encoded(picture(915, SIDE, SIDE + 8), "JPEG", exif=exif),
        os.fsdecode(b"latin-\xe9.png"): encoded(picture(916, SIDE, SIDE)),
        "new\nline\t.png": encoded(picture(917, SIDE, SIDE)),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return set(files)
