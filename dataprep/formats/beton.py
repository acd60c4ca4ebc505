"""FFCV's file format, version 2, for square RGB images (raw or JPEG) and an integer label.

By hand, because ffcv's DatasetWriter hangs when a worker dies, orders pages by chance, and takes
seconds to import (with torch). Each unit of work writes a part, a plain file of images; `assemble`
copies the parts, in order, into one beton. So the bytes do not depend on who made the parts, and no
two machines write to one file.

A part, little-endian: the images, then one SAMPLE (size, label) for each.

The beton, little-endian:

    header            version, number of fields, page size, samples, offset of the allocation table
    2 descriptors     type and name of the fields `image` (RGBImageField) and `label` (IntField)
    metadata          for each sample: mode (0 JPEG, 1 raw), width, height, offset; label
    pages             start at a multiple of the page size; no image crosses a page boundary
    allocation table  sample, offset and size of every image
"""

import itertools
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
FIELDS = (("image", 2), ("label", 1))  # with ffcv's numbers of RGBImageField and IntField
MODES = {"jpeg": 0, "raw": 1}
METADATA_START = HEADER.itemsize + len(FIELDS) * DESCRIPTOR.itemsize
MIN_PAGE = 2**21  # bytes, of ffcv
PER_PAGE = 10  # samples at least: at most a tenth of a page is empty


class PartWriter:
    """Writes the images of one unit of work at one resolution."""

    def __init__(self, path: Path):
        self.file = HashingFile(path, temporary=True)
        self.samples: list[tuple[int, int]] = []

    def add(self, image: bytes | memoryview, label: int) -> None:
        self.file.write(image)
        self.samples.append((len(image), label))

    def close(self) -> dict[str, int | str]:
        """Finish the part; returns its "samples", "bytes" and "sha256"."""
        self.file.write(np.array(self.samples, SAMPLE).tobytes())
        return {"samples": len(self.samples), **self.file.close()._asdict()}


class Part(NamedTuple):
    """A finished part: its path and its number of images."""

    path: Path
    samples: int

    def table(self) -> np.ndarray:
        """Size and label of each image, as an array (samples,) of SAMPLE."""
        length = self.samples * SAMPLE.itemsize
        with self.path.open("rb") as file:
            file.seek(-length, 2)
            return np.frombuffer(file.read(length), SAMPLE)


def layout(sizes: np.ndarray) -> tuple[int, np.ndarray, int]:
    """For image sizes (N,): the page size, the offset of each image (N,), the end of the last."""
    wanted = max(MIN_PAGE, PER_PAGE * int(sizes.max(initial=0)))
    page = 1 << (wanted - 1).bit_length()  # a power of two, as ffcv's own
    end = METADATA_START + len(sizes) * METADATA.itemsize
    end += -end % page
    offsets = np.empty(len(sizes), np.int64)
    for i, size in enumerate(map(int, sizes)):
        left = -end % page
        if size > left > 0:
            end += left
        offsets[i] = end
        end += size
    return page, offsets, end


def assemble(path: Path, parts: list[Part], side: int, images: str) -> Facts:
    """Write the beton `path` of the images in `parts`; `images` is "raw" or "jpeg".

    Holds one image, and 72 bytes for each (ffcv's reader holds 48).
    """
    samples = np.concatenate([np.empty(0, SAMPLE), *(part.table() for part in parts)])
    page, offsets, end = layout(samples["size"])
    file = HashingFile(path)

    header = np.zeros((), HEADER)
    header["version"] = VERSION
    header["num_fields"] = len(FIELDS)
    header["page_size"] = page
    header["num_samples"] = len(samples)
    header["alloc_table_ptr"] = end
    file.write(header.tobytes())

    descriptors = np.zeros(len(FIELDS), DESCRIPTOR)
    for descriptor, (name, type_id) in zip(descriptors, FIELDS):
        descriptor["type_id"] = type_id
        descriptor["name"][: len(name)] = list(name.encode())
    file.write(descriptors.tobytes())

    metadata = np.zeros(len(samples), METADATA)
    metadata["image"]["mode"] = MODES[images]
    metadata["image"]["width"] = metadata["image"]["height"] = side
    metadata["image"]["data_ptr"] = offsets
    metadata["label"] = samples["label"]
    file.write(metadata.tobytes())
    del metadata

    layout_of = zip(map(int, samples["size"]), map(int, offsets))
    for part in parts:
        with part.path.open("rb") as source:
            for size, offset in itertools.islice(layout_of, part.samples):
                file.write(bytes(offset - file.bytes))  # up to the next page
                file.write(source.read(size))

    allocations = np.zeros(len(samples), ALLOCATION)
    allocations["sample_id"] = np.arange(len(samples))
    allocations["ptr"] = offsets
    allocations["size"] = samples["size"]
    file.write(allocations.tobytes())
    return file.close()
