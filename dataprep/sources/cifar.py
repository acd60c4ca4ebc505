"""CIFAR-10 and CIFAR-100 in their binary version, unpacked: data_batch_1.bin, ..., test_batch.bin,
or train.bin and test.bin, beside the file that names the classes.

A record is its label, of CIFAR-100 the coarse and the fine one, and 32x32 pixels as three planes,
red, green and blue. Labels are the fine ones. Images of the test file are in a folder `test`, the
others in `train`: `--split folder` is the official split.

An entry's place: [number of the record].
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataprep.images.encode import bmp
from dataprep.manifest import DatasetError
from dataprep.sources.entry import Entry, Options

NAMES = re.compile(r"(?:^|/)(?:data_batch_[1-5]|test_batch|train|test)\.bin$")
SIDE = 32
PIXELS = 3 * SIDE * SIDE


class Layout(NamedTuple):
    """The file of class names, and the bytes of labels in a record (the last is the fine one)."""

    names: str
    labels: int

    @property
    def record(self) -> int:
        return self.labels + PIXELS


LAYOUTS = (Layout("batches.meta.txt", 1), Layout("fine_label_names.txt", 2))


def is_cifar(path: Path) -> bool:
    """Whether a file has a name of CIFAR and its class names are beside it."""
    return bool(NAMES.search(path.as_posix())) and any(
        (path.parent / layout.names).is_file() for layout in LAYOUTS
    )


def layout_of(path: Path) -> Layout:
    """How the records of a file are laid out; DatasetError if the last is cut off."""
    layout = next(known for known in LAYOUTS if (path.parent / known.names).is_file())
    size = path.stat().st_size
    if not size or size % layout.record:
        raise DatasetError(
            f"{path} is damaged: {size:,} bytes are not a whole number of records of "
            f"{layout.record:,}; download it again"
        )
    return layout


def class_names(path: Path) -> list[str]:
    """The names of the labels 0, 1, ..."""
    text = (path.parent / layout_of(path).names).read_text("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def entries(path: Path, options: Options) -> Iterator[Entry]:
    """All records, with their labels if `options.labels`."""
    layout, side = layout_of(path), "test" if path.name.startswith("test") else "train"
    with path.open("rb") as file:
        for number in range(path.stat().st_size // layout.record):
            label = None
            if options.labels:
                file.seek(number * layout.record + layout.labels - 1)
                label = file.read(1)[0]
            yield Entry(f"{side}/{number:05d}", [number], label)


class Archive:
    """Reads the images of a file."""

    def __init__(self, path: Path):
        self.layout = layout_of(path)
        self.file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        """An image as the bytes of a BMP file; OSError if it cannot be read."""
        (number,) = entry.place
        self.file.seek(number * self.layout.record + self.layout.labels)
        data = self.file.read(PIXELS)
        if len(data) < PIXELS:
            raise OSError("cut off with the file")
        return bmp(np.frombuffer(data, np.uint8).reshape(3, SIDE, SIDE).transpose(1, 2, 0))

    def close(self) -> None:
        self.file.close()
