"""TFRecords as FFHQ's multi-resolution files hold them, read without TensorFlow.

A file is a row of records: length (8 bytes), masked CRC-32C of the length (4), that many bytes, a
masked CRC-32C of them (4); little-endian. The bytes are a tf.Example, a protocol buffer that maps
names to lists: `shape` is 3, H, W, `data` the pixels (3, H, W), and `label` may be there.
An entry's place: [offset of its bytes, how many].
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataprep.images.decode import BadImageError
from dataprep.manifest import DatasetError
from dataprep.sources.crc32c import masked_crc32c
from dataprep.sources.entry import Entry, check_size

HEAD = struct.Struct("<QL")
TAIL = struct.Struct("<L")
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def entries(path: Path, labels: bool) -> Iterator[Entry]:
    """All records, named by their number, with the label of each where labels are asked for."""
    size = path.stat().st_size
    with path.open("rb") as file:
        number = 0
        while file.tell() < size:
            start = file.tell()
            length = record_length(file.read(HEAD.size))
            if length is None or start + HEAD.size + length + TAIL.size > size:
                raise DatasetError(
                    f"{path} is damaged or cut off at byte {start:,} (record {number:,}): "
                    "get it again"
                )
            place = [start + HEAD.size, length]
            label = stored_label(file.read(length)) if labels else None
            file.seek(place[0] + length + TAIL.size)
            yield Entry(f"record-{number:09d}", place, label)
            number += 1


def record_length(head: bytes) -> int | None:
    """The length that a record's head tells; None where its checksum differs."""
    if len(head) < HEAD.size:
        return None
    length, crc = HEAD.unpack(head)
    return length if masked_crc32c(head[:8]) == crc else None


def stored_label(data: bytes) -> int | None:
    try:
        labels = example(data).get("label", [])
    except (IndexError, ValueError, TypeError):
        return None  # reading the image will say what is wrong with it
    return labels[0] if labels and labels[0] != -1 else None


class Archive:
    """Reads the records of a file."""

    def __init__(self, path: Path):
        self.file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        """The tf.Example of a record; OSError or BadImageError where it cannot be had."""
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
    """The pixels (H, W, 3) uint8 in a tf.Example; BadImageError where it holds none."""
    try:
        found = example(data)
        shape, [values] = tuple(found["shape"]), found["data"]
        image = np.frombuffer(values, np.uint8).reshape(shape)
    except (KeyError, IndexError, ValueError, TypeError):
        raise BadImageError(
            "not an image", "its tf.Example has no `shape` and `data` that agree"
        ) from None
    if image.ndim != 3 or len(image) not in (1, 3):
        raise BadImageError("not an image", f"its shape {shape} is not (3, H, W)")
    return np.ascontiguousarray(np.broadcast_to(image, (3, *shape[1:])).transpose(1, 2, 0))


def example(data: bytes) -> dict[str, list]:
    """The features of a tf.Example: lists of ints or of bytes, by name; floats are left out.

    Example {1: Features {1: entries of a map {1: name, 2: Feature}}}, where a Feature is
    {1: {1: bytes ...}} or {3: {1: ints, one by one or packed}}.
    """
    found: dict[str, list] = {}
    for _, features in fields(data, number=1):
        for _, entry in fields(features, number=1):
            parts = {number: value for number, value in fields(entry)}
            values: list = []
            for kind, value_list in fields(parts.get(2, b"")):
                for _, value in fields(value_list, number=1) if kind in (1, 3) else ():
                    if kind == 1:
                        values.append(value)
                    else:
                        values += [value] if isinstance(value, int) else varints(value)
            found[bytes(parts.get(1, b"")).decode()] = [
                v - 2**64 if isinstance(v, int) and v >= 2**63 else v for v in values
            ]
    return found


def fields(data: bytes, number: int | None = None) -> Iterator[tuple[int, int | memoryview]]:
    """The (number, value) of each field of a message, or of those of one number."""
    data, at = memoryview(data), 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == VARINT:
            value, at = varint(data, at)
        else:
            if tag & 7 == BYTES:
                length, at = varint(data, at)
            elif tag & 7 in (FIXED32, FIXED64):
                length = 4 if tag & 7 == FIXED32 else 8
            else:
                raise ValueError(f"wire type {tag & 7}")
            if at + length > len(data):
                raise ValueError("cut off")
            value, at = data[at : at + length], at + length
        if number in (None, tag >> 3):
            yield tag >> 3, value


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def varints(data: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values


def side_of(path: Path) -> int:
    """The side of the images, by a name like ffhq-r08.tfrecords; 0 where it does not tell."""
    _, dash, exponent = os.path.splitext(path.name)[0].rpartition("-r")
    return 2 ** int(exponent) if dash and exponent.isdecimal() and len(exponent) == 2 else 0
