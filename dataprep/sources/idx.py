"""MNIST's files and those of its layout (Fashion-MNIST, KMNIST), unpacked: train-images-idx3-ubyte
and t10k-images-idx3-ubyte, with their labels beside them in train-labels-idx1-ubyte, ...

A file is a header of big-endian numbers, then bytes: grey images of equal size, row by row. Images
of t10k are in a folder `test`, the others in `train`: `--split folder` is the official split. The
sides of a dataset are powers of two, so 28x28 goes to `--max-resolution 16`.

An entry's place: [number of the image].
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataprep.images.encode import bmp
from dataprep.manifest import DatasetError
from dataprep.sources.entry import Entry, Options

NAMES = re.compile(r"(?:^|/)(?:train|t10k)-images[-.]idx3-ubyte(?:\.gz)?$")
IMAGES, LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"  # unsigned bytes in 3 dimensions, in 1
HEADER = struct.Struct(">4sIII")


class Header(NamedTuple):
    """Number of images, and the size of each."""

    images: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


def header_of(path: Path) -> Header:
    """The header of a file of images; DatasetError if the file has another size than it says."""
    with path.open("rb") as file:
        start = file.read(HEADER.size)
    found = Header(*HEADER.unpack(start)[1:]) if len(start) == HEADER.size else Header(0, 0, 0)
    expected = HEADER.size + found.images * found.pixels
    if not found.images or not found.pixels or path.stat().st_size != expected:
        raise DatasetError(
            f"{path} is damaged: {found.images:,} images of {found.width}x{found.height} need "
            f"{expected:,} bytes, and it has {path.stat().st_size:,}; download it again"
        )
    return found


def labels_of(path: Path) -> bytes:
    """The label of each image in a file, a byte each. DatasetError."""
    count = header_of(path).images
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == path or not beside.is_file():
        raise DatasetError(f"{path} has no labels: {beside.name} is not beside it")
    data = beside.read_bytes()
    if data[:8] != LABELS + struct.pack(">I", count) or len(data) != 8 + count:
        raise DatasetError(f"{beside} is damaged, or not the labels of {path.name}'s {count:,}")
    return data[8:]


def entries(path: Path, options: Options) -> Iterator[Entry]:
    """All images, with their labels if `options.labels`."""
    side = "test" if path.name.startswith("t10k") else "train"
    labels = labels_of(path) if options.labels else None
    for number in range(header_of(path).images):
        yield Entry(f"{side}/{number:05d}", [number], labels[number] if labels else None)


class Archive:
    """Reads the images of a file."""

    def __init__(self, path: Path):
        self.header = header_of(path)
        self.file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        """An image as the bytes of a BMP file, grey as RGB; OSError if it cannot be read."""
        (number,) = entry.place
        self.file.seek(HEADER.size + number * self.header.pixels)
        data = self.file.read(self.header.pixels)
        if len(data) < self.header.pixels:
            raise OSError("cut off with the file")
        grey = np.frombuffer(data, np.uint8).reshape(self.header.height, self.header.width, 1)
        return bmp(grey.repeat(3, axis=2))

    def close(self) -> None:
        self.file.close()
