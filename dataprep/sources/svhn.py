"""SVHN's cropped digits: train_32x32.mat, test_32x32.mat and extra_32x32.mat, MATLAB files of `X`
(32, 32, 3, N) uint8 and the labels `y` (N, 1), where 10 is the digit 0.

Images of the test file are in a folder `test`, the others in `train`: `--split folder` is the
official split. The published training uses no extra images: name the other two files alone.

An entry's place: [number of the image].
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataprep.images.encode import bmp
from dataprep.manifest import DatasetError
from dataprep.sources import mat
from dataprep.sources.entry import Entry, Options

DIGITS = 10


def is_svhn(path: Path) -> bool:
    """Whether a MATLAB file holds images and labels as SVHN's do. DatasetError if damaged."""
    shapes = mat.shapes_in(path)
    images, labels = shapes.get("X", ()), shapes.get("y", ())
    return len(images) == 4 and images[2] == 3 and labels == (images[3], 1)


def entries(path: Path, options: Options) -> Iterator[Entry]:
    """All images, with the digit as label if `options.labels`. DatasetError."""
    side = "test" if path.name.startswith("test") else "train"
    digits = None
    if options.labels:
        from scipy.io import loadmat

        values = mat.opened(path, loadmat, variable_names=["y"])["y"][:, 0]
        if not np.isin(values, range(DIGITS + 1)).all():
            raise DatasetError(f"{path}: `y` has labels that are no digits, {values.max()} say")
        digits = values.astype(int) % DIGITS
    for number in range(mat.shapes_in(path)["X"][3]):
        label = None if digits is None else int(digits[number])
        yield Entry(f"{side}/{number:06d}", [number], label)


class Archive:
    """Reads the images of a file, which memory holds."""

    def __init__(self, path: Path):
        self.images = mat.array(path, "X")

    def read(self, entry: Entry) -> bytes:
        """An image as the bytes of a BMP file."""
        (number,) = entry.place
        return bmp(np.ascontiguousarray(self.images[..., number]))

    def close(self) -> None:
        pass
