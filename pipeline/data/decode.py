"""An encoded image to pixels, with errors that name where it lies."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dataprep.manifest import DatasetError

ENDINGS = ("png", "webp", "jpeg", "jpg")  # of the members of a tar that are images
AGAIN = "find all damage with dataprep/shard.py --verify"


def sample(number: int) -> str:
    """A sample of a beton, as the dataset numbers them."""
    return f"sample {number} (line {number + 1} of its split in index/)"


def is_image(name: str) -> bool:
    """Whether the member `name` of a tar is a sample's image, and not its class or notes."""
    return ending_of(name) in ENDINGS


def ending_of(name: str) -> str:
    """As webdataset has it: what follows the first dot of a member's name."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def decode(data: bytes, side: int, shard: Path | str, name: object) -> np.ndarray:
    """uint8 (side, side, 3); DatasetError names the shard and the sample where that fails."""
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
