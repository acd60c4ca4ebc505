"""FFCV's file format, version 2, for square RGB images stored raw and an integer label.

Written here and not by ffcv's DatasetWriter, whose pages come in the order in which its workers
happen to be ready and which waits for ever when one of them dies. A raw sample has a constant size,
so its place in the file is known beforehand: samples may be written in any order, by any number of
processes, and the bytes come out the same. No ffcv is imported (that takes seconds, with torch).

The file, little-endian:

    header            version, number of fields, page size, samples, place of the allocation table
    2 descriptors     type and name of the fields `image` (RGBImageField) and `label` (IntField)
    metadata          one record per sample: mode 1 = raw, width, height, place of the pixels; label
    pages             from a multiple of the page size on; no sample crosses from one to the next
    allocation table  sample, place and size of every stretch of pixels
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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

VERSION = 2
FIELDS = (("image", 2), ("label", 1))  # names, and ffcv's numbers for RGBImageField and IntField
RAW = 1
MIN_PAGE = 2**21  # ffcv's least
PER_PAGE = 10  # at least so many samples in a page, so that at most a tenth of it is empty


@dataclass(frozen=True)
class Layout:
    """Where everything lies in a beton with room for `slots` images of `side` x `side`."""

    side: int
    slots: int

    @property
    def sample_bytes(self) -> int:
        return 3 * self.side**2

    @property
    def page_bytes(self) -> int:
        """The least power of two that is at least MIN_PAGE and PER_PAGE samples."""
        return max(MIN_PAGE, 1 << (PER_PAGE * self.sample_bytes - 1).bit_length())

    @property
    def metadata_start(self) -> int:
        return HEADER.itemsize + len(FIELDS) * DESCRIPTOR.itemsize

    @property
    def pages_start(self) -> int:
        end = self.metadata_start + self.slots * METADATA.itemsize
        return -(-end // self.page_bytes) * self.page_bytes

    def place(self, slot):
        """Byte offset of a slot's pixels; `slot` is an int or an int64 array (N,)."""
        per_page = self.page_bytes // self.sample_bytes
        return (
            self.pages_start
            + slot // per_page * self.page_bytes
            + slot % per_page * self.sample_bytes
        )

    @property
    def end(self) -> int:
        """Where the last slot ends: the allocation table follows."""
        return self.place(self.slots - 1) + self.sample_bytes


class BetonWriter:
    """Makes one file: pixels go into their slots in any order, `finish` adds all the rest."""

    def __init__(self, path: Path, layout: Layout):
        self.layout = layout
        self.file = path.open("wb", buffering=0)
        self.fd = self.file.fileno()

    def put(self, slot: int, pixels: np.ndarray) -> None:
        """Write (side, side, 3) uint8 pixels into `slot`."""
        write_all(self.fd, np.ascontiguousarray(pixels).data.cast("B"), self.layout.place(slot))

    def finish(self, slots: Sequence[int], labels: Sequence[int]) -> None:
        """Write all but the pixels: sample i is what lies in slots[i], with the label labels[i]."""
        layout, count = self.layout, len(slots)
        places = layout.place(np.asarray(slots, dtype=np.int64))

        header = np.zeros((), HEADER)
        header["version"] = VERSION
        header["num_fields"] = len(FIELDS)
        header["page_size"] = layout.page_bytes
        header["num_samples"] = count
        header["alloc_table_ptr"] = layout.end

        descriptors = np.zeros(len(FIELDS), DESCRIPTOR)
        for descriptor, (name, type_id) in zip(descriptors, FIELDS):
            descriptor["type_id"] = type_id
            descriptor["name"][: len(name)] = list(name.encode())

        metadata = np.zeros(count, METADATA)
        metadata["image"]["mode"] = RAW
        metadata["image"]["width"] = metadata["image"]["height"] = layout.side
        metadata["image"]["data_ptr"] = places
        metadata["label"] = labels

        table = np.zeros(count, ALLOCATION)
        table["sample_id"] = np.arange(count)
        table["ptr"] = places
        table["size"] = layout.sample_bytes

        os.ftruncate(self.fd, layout.end)
        write_all(self.fd, table.tobytes(), layout.end)
        write_all(self.fd, metadata.tobytes(), layout.metadata_start)
        write_all(self.fd, header.tobytes() + descriptors.tobytes(), 0)

    def close(self) -> None:
        self.file.close()


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """os.pwrite until nothing is left of `data`: one call may write less than it is given."""
    data = memoryview(data)
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
