"""Decodes images; errors name the file and the sample."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dataprep.manifest import DatasetError

ENDINGS = ("png", "webp", "jpeg", "jpg")  # of tar members that are images
AGAIN = "find all damage with dataprep/shard.py --verify"


def sample(number: int) -> str:
    """A name for a sample of a beton, for messages."""
    return f"sample {number} (line {number + 1} of its split in index/)"


def is_image(name: str) -> bool:
    """Whether the tar member `name` is an image, not a class or metadata."""
    return ending_of(name) in ENDINGS


def ending_of(name: str) -> str:
    """The ending as webdataset defines it: all after the first dot of a member's name."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def decode(data: bytes, side: int, shard: Path | str, name: object) -> np.ndarray:
    """Decodes to uint8 (side, side, 3). DatasetError names the shard and the sample."""
    try:
        with Image.open(BytesIO(data)) as image:
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{shard}: {name} cannot be decoded ({error}); {AGAIN}") from None
    if pixels.shape != (side, side, 3):
        raise DatasetError(
            f"{shard}: {name} is {pixels.shape} instead of {(side, side, 3)}: prepare the "
            "dataset with dataprep/shard.py"
        )
    return pixels
