"""TFRecords in the format of FFHQ's multi-resolution files, read without TensorFlow.

A file is a sequence of records, little-endian: length (8 bytes), masked CRC-32C of the length (4),
that many bytes, masked CRC-32C of them (4). The bytes are a tf.Example, a protocol buffer that maps
names to lists: `shape` is 3, H, W; `data` is the pixels (3, H, W); `label` is optional.
An entry's place: [offset of its bytes, length].
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from dataprep.images.decode import BadImageError
from dataprep.manifest import DatasetError
from dataprep.sources.entry import Entry, Options, check_size
from dataprep.sources.example import Example

HEAD = struct.Struct("<QL")
TAIL = struct.Struct("<L")


def entries(path: Path, options: Options) -> Iterator[Entry]:
    """All records, named by their number, with their labels if `options.labels`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        number = 0
        while file.tell() < size:
            start = file.tell()
            length = record_length(file.read(HEAD.size))
            if length is None or start + HEAD.size + length + TAIL.size > size:
                raise DatasetError(
                    f"{path} is damaged or cut off at byte {start:,} (record {number:,}): "
                    "download it again"
                )
            place = [start + HEAD.size, length]
            label = stored_label(file.read(length)) if options.labels else None
            file.seek(place[0] + length + TAIL.size)
            yield Entry(f"record-{number:09d}", place, label)
            number += 1


def masked_crc32c(data: bytes) -> int:
    """The checksum of a TFRecord: rotated and shifted, as it guards data that holds checksums."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record_length(head: bytes) -> int | None:
    """The length of a record by its head; None if the checksum differs."""
    if len(head) < HEAD.size:
        return None
    length, crc = HEAD.unpack(head)
    return length if masked_crc32c(head[:8]) == crc else None


def stored_label(data: bytes) -> int | None:
    try:
        labels = Example.FromString(data).features.feature["label"].int64_list.value
    except DecodeError:
        return None  # reading the image reports what is wrong with it
    return labels[0] if labels and labels[0] != -1 else None


class Archive:
    """Reads the records of a file."""

    def __init__(self, path: Path):
        self.file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        """The tf.Example of a record; OSError or BadImageError if it cannot be read."""
        offset, length = entry.place
        check_size(length)
        self.file.seek(offset)
        data, tail = self.file.read(length), self.file.read(TAIL.size)
        if len(tail) < TAIL.size or masked_crc32c(data) != TAIL.unpack(tail)[0]:
            raise OSError("damaged in the archive: its CRC-32C differs")
        return data

    def close(self) -> None:
        self.file.close()


def pixels(data: bytes) -> np.ndarray:
    """The pixels (H, W, 3) uint8 in a tf.Example; BadImageError if it has none."""
    try:
        features = Example.FromString(data).features.feature
        shape = tuple(features["shape"].int64_list.value)
        [values] = features["data"].bytes_list.value
        image = np.frombuffer(values, np.uint8).reshape(shape)
    except (DecodeError, ValueError):
        raise BadImageError(
            "not an image", "its tf.Example has no `shape` and `data` that agree"
        ) from None
    if image.ndim != 3 or len(image) not in (1, 3):
        raise BadImageError("not an image", f"its shape {shape} is not (3, H, W)")
    return np.ascontiguousarray(np.broadcast_to(image, (3, *shape[1:])).transpose(1, 2, 0))


def side_of(path: Path) -> int:
    """The side of the images by a name like ffhq-r08.tfrecords; 0 for other names."""
    _, dash, exponent = os.path.splitext(path.name)[0].rpartition("-r")
    return 2 ** int(exponent) if dash and exponent.isdecimal() and len(exponent) == 2 else 0
