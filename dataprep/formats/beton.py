"""FFCV's file format, version 2, for square RGB images (raw or JPEG) and an integer label.

Written here and not by ffcv's DatasetWriter, whose pages come in the order in which its workers
happen to be ready and which waits for ever when one of them dies. Every unit of work leaves a part,
a plain file of images; `assemble` copies the parts into one beton, front to back, so that the bytes
are the same whoever made the parts and in which order, and so that no two machines ever write into
one file. No ffcv is imported (that takes seconds, with torch).

A part, little-endian: the images one after the other, then one SAMPLE (size, label) for each.

The beton, little-endian:

    header            version, number of fields, page size, samples, place of the allocation table
    2 descriptors     type and name of the fields `image` (RGBImageField) and `label` (IntField)
    metadata          one record per sample: mode (0 JPEG, 1 raw), width, height, place; label
    pages             from a multiple of the page size on; no sample crosses from one to the next
    allocation table  sample, place and size of every image
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataprep.runtime.files import Facts, HashingFile

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
DESCRIPTOR = np.dtype(
    [("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True
)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
METADATA = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
SAMPLE = np.dtype([("size", "<i8"), ("label", "<i8")])

VERSION = 2
FIELDS = (("image", 2), ("label", 1))  # names, and ffcv's numbers for RGBImageField and IntField
MODES = {"jpeg": 0, "raw": 1}
METADATA_START = HEADER.itemsize + len(FIELDS) * DESCRIPTOR.itemsize
MIN_PAGE = 2**21  # ffcv's least
PER_PAGE = 10  # at least so many samples in a page, so that at most a tenth of it is empty


class PartWriter:
    """The images of one unit of work at one resolution."""

    def __init__(self, path: Path):
        self.file = HashingFile(path, passing=True)
        self.samples: list[tuple[int, int]] = []

    def add(self, image: bytes | memoryview, label: int) -> None:
        self.file.write(image)
        self.samples.append((len(image), label))

    def close(self) -> dict[str, int | str]:
        """End the part; tells its "samples", "bytes" and "sha256"."""
        self.file.write(np.array(self.samples, SAMPLE).tobytes())
        return {"samples": len(self.samples), **self.file.close()._asdict()}

    def abandon(self) -> None:
        self.file.abandon()


class Part(NamedTuple):
    """A finished part: its path and how many images it holds."""

    path: Path
    samples: int

    def table(self) -> np.ndarray:
        """Size and label of each image, as an array (samples,) of SAMPLE."""
        length = self.samples * SAMPLE.itemsize
        with self.path.open("rb") as file:
            file.seek(-length, 2)
            return np.frombuffer(file.read(length), SAMPLE)


class Placer:
    """Tells where one image after the other is to lie: behind its predecessor, or in a new page."""

    def __init__(self, count: int, largest: int):
        wanted = max(MIN_PAGE, PER_PAGE * largest)
        self.page_bytes = 1 << (wanted - 1).bit_length()  # a power of two, as ffcv's own
        end = METADATA_START + count * METADATA.itemsize
        self.start = self.end = -(-end // self.page_bytes) * self.page_bytes

    def place(self, sizes: Iterable[int]) -> np.ndarray:
        """Byte offsets (N,) int64 of the next N images."""
        places = []
        for size in sizes:
            left = -self.end % self.page_bytes
            if size > left > 0:
                self.end += left
            places.append(self.end)
            self.end += size
        return np.array(places, np.int64)


def assemble(path: Path, parts: list[Part], side: int, images: str) -> Facts:
    """Make the beton `path` of the images in `parts`; `images` is "raw" or "jpeg".

    Goes through the parts several times, holding the table of one and a page of its images.
    """
    count = sum(part.samples for part in parts)
    largest = max((int(part.table()["size"].max()) for part in parts if part.samples), default=0)
    measure = Placer(count, largest)
    for _ in placed(parts, measure):
        pass

    header = np.zeros((), HEADER)
    header["version"] = VERSION
    header["num_fields"] = len(FIELDS)
    header["page_size"] = measure.page_bytes
    header["num_samples"] = count
    header["alloc_table_ptr"] = measure.end

    descriptors = np.zeros(len(FIELDS), DESCRIPTOR)
    for descriptor, (name, type_id) in zip(descriptors, FIELDS):
        descriptor["type_id"] = type_id
        descriptor["name"][: len(name)] = list(name.encode())

    file = HashingFile(path)
    try:
        file.write(header.tobytes() + descriptors.tobytes())
        write_metadata(file, placed(parts, Placer(count, largest)), side, MODES[images])
        write_pages(file, placed(parts, Placer(count, largest)), measure.page_bytes)
        write_allocations(file, placed(parts, Placer(count, largest)))
        return file.close()
    except BaseException:
        file.abandon()
        raise


Placed = Iterator[tuple[Part, np.ndarray, np.ndarray]]  # a part, its table, and its places


def placed(parts: list[Part], placer: Placer) -> Placed:
    for part in parts:
        table = part.table()
        yield part, table, placer.place(table["size"].tolist())


def write_metadata(file: HashingFile, parts: Placed, side: int, mode: int) -> None:
    for _, table, places in parts:
        metadata = np.zeros(len(table), METADATA)
        metadata["image"]["mode"] = mode
        metadata["image"]["width"] = metadata["image"]["height"] = side
        metadata["image"]["data_ptr"] = places
        metadata["label"] = table["label"]
        file.write(metadata.tobytes())


def write_pages(file: HashingFile, parts: Placed, page_bytes: int) -> None:
    for part, table, places in parts:
        page = places // page_bytes
        stretches = np.split(np.arange(len(page)), np.flatnonzero(np.diff(page)) + 1)
        with part.path.open("rb") as images:
            for stretch in stretches:
                if len(stretch) == 0:
                    continue  # a part without images
                file.write(bytes(int(places[stretch[0]]) - file.bytes))
                file.write(images.read(int(table["size"][stretch].sum())))


def write_allocations(file: HashingFile, parts: Placed) -> None:
    first = 0
    for _, table, places in parts:
        allocations = np.zeros(len(table), ALLOCATION)
        allocations["sample_id"] = np.arange(first, first + len(table))
        allocations["ptr"] = places
        allocations["size"] = table["size"]
        file.write(allocations.tobytes())
        first += len(table)
