"""A zip archive of image files, stored or deflated; nothing is unpacked to the disk.

The standard library's reader holds the whole directory, about 500 bytes a name, in each process.
Here the directory is gone through once, and the place of each image kept in the plan.

An entry's place: [offset of its local header, stored bytes, bytes, method, crc32, flags].
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dataprep.manifest import DatasetError
from dataprep.sources import labels
from dataprep.sources.entry import (
    Asked,
    Entry,
    Passed,
    Refused,
    check_size,
    clean,
    in_archive,
    labels_read,
    rule_of,
)

END = struct.Struct("<4s4H2LH")  # of the directory: signature PK\5\6
END64 = struct.Struct("<4sQ2H2L4Q")  # PK\6\6
LOCATOR64 = struct.Struct("<4sLQL")  # PK\6\7, right before END
DIRECTORY = struct.Struct("<4s6H3L5H2L")  # an entry of the directory: PK\1\2
LOCAL = struct.Struct("<4s5H3L2H")  # an entry's own header: PK\3\4
STORED, DEFLATED = 0, 8
ENCRYPTED, UTF8 = 1, 1 << 11
WINDOWS = (0, 10)  # who made an entry: FAT, NTFS
MAX_COMMENT = 2**16


def entries(path: Path, asked: Asked) -> Iterator[Entry | Refused | Passed]:
    """Every file in the archive; labels are those of a dataset.json in it."""
    with path.open("rb") as file:
        try:
            plain, labelled = True, None
            for name, place in directory_entries(file):
                plain &= "/" not in name
                if asked.labels and f"/{name}".endswith(f"/{labels.NAME}") and not labelled:
                    labelled = Entry(name, place)
            found = labels_of(path, labelled) if labelled else {}
            for name, place in directory_entries(file):
                if labelled and name == labelled.name:
                    yield labels_read(name)
                    continue
                label = found.get(name)
                name = clean(name.replace("\\", "/") if plain else name)
                rule = rule_of(name)
                if not rule:
                    yield in_archive(Entry(name, place, label))
                elif not name.endswith("/"):
                    yield Passed(name, rule)
        except (struct.error, IndexError, ValueError) as error:
            raise DatasetError(f"{path} has a damaged directory ({error}): get it again") from None


def labels_of(path: Path, stored: Entry) -> dict[str, int | str | None]:
    """The labels in a dataset.json, whose names begin where it lies, by name in the archive."""
    where, above = f"{path}: {stored.name}", stored.name.removesuffix(labels.NAME)
    archive = Archive(path)
    try:
        found = labels.of_names(archive.read(stored), where)
    except OSError as error:
        raise DatasetError(f"{where} cannot be read: {error}") from None
    finally:
        archive.close()
    return {above + name: label for name, label in found.items()}


def directory_entries(file: BinaryIO) -> Iterator[tuple[str, list[int]]]:
    """The name and the place of each entry of the directory."""
    start, size = directory(file)
    file.seek(start)
    while file.tell() < start + size:
        yield directory_entry(file, start)


def directory(file: BinaryIO) -> tuple[int, int]:
    """Where the directory starts, and its size in bytes."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - END.size - MAX_COMMENT))
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    while found >= 0 and not ends_there(tail[found:]):  # a comment may hold the same bytes
        found = tail.rfind(b"PK\5\6", 0, found)
    if found < 0:
        raise ValueError("it has no end: is it cut off?")
    end = length - len(tail) + found
    *_, size, offset, _ = END.unpack_from(tail, found)
    file.seek(max(0, end - LOCATOR64.size))
    locator = file.read(LOCATOR64.size)
    if locator[:4] == b"PK\6\7":
        *_, end, _ = LOCATOR64.unpack(locator)
        file.seek(end)
        signature, *_, size, offset = END64.unpack(file.read(END64.size))
        if signature != b"PK\6\6":
            raise ValueError("its 64-bit end is not where it should be")
    if end - size != offset:
        raise ValueError("it is not where it should be")
    return offset, size


def ends_there(tail: bytes) -> bool:
    """Whether what begins with the signature of the end is one, comment and all."""
    return len(tail) >= END.size and len(tail) == END.size + END.unpack_from(tail)[-1]


def directory_entry(file: BinaryIO, end: int) -> tuple[str, list[int]]:
    """The name and the place that the next entry of the directory tells; `end` of the data."""
    fields = DIRECTORY.unpack(file.read(DIRECTORY.size))
    signature, flags, method, crc, packed, size = fields[0], *fields[3:5], *fields[7:10]
    name_length, extra_length, comment_length, *_, offset = fields[10:]
    if signature != b"PK\1\2":
        raise ValueError("an entry is not where it should be")
    name = file.read(name_length).decode("utf-8" if flags & UTF8 else "cp437")
    if fields[1] >> 8 in WINDOWS:
        name = name.replace("\\", "/")
    extra = file.read(extra_length)
    file.seek(comment_length, os.SEEK_CUR)
    size, packed, offset = zip64((size, packed, offset), extra)
    if offset >= end:
        raise ValueError(f"{name} lies outside of the archive")
    return name, [offset, packed, size, method, crc, flags]


def zip64(values: tuple[int, ...], extra: bytes) -> list[int]:
    """`values`, those that did not fit into 32 bits taken from the extra field 1."""
    numbers = iter(())
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
        extra = extra[4 + length :]
    full = [next(numbers, None) if value == 0xFFFFFFFF else value for value in values]
    if None in full:
        raise ValueError("a 64-bit size is missing")
    return full


class Archive:
    """Reads the images of a zip."""

    def __init__(self, path: Path):
        self.file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        """The bytes of an image file; OSError or BadImageError where it cannot be had."""
        offset, packed, size, method, crc, flags = entry.place
        check_size(max(packed, size))
        if flags & ENCRYPTED:
            raise OSError("encrypted")
        if method not in (STORED, DEFLATED):
            raise OSError(f"compressed by method {method}: only stored and deflated are read")
        self.file.seek(offset)
        header = self.file.read(LOCAL.size)
        if len(header) < LOCAL.size or header[:4] != b"PK\3\4":
            raise OSError("damaged in the archive: it is not where the directory says")
        self.file.seek(sum(LOCAL.unpack(header)[-2:]), os.SEEK_CUR)
        data = self.file.read(packed)
        if method == DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
            except zlib.error as error:
                raise OSError(f"damaged in the archive: {error}") from None
        if len(data) != size or zlib.crc32(data) != crc:
            raise OSError("damaged in the archive: its CRC-32 differs")
        return data

    def close(self) -> None:
        self.file.close()
