"""A zip archive of image files, stored or deflated; nothing is unpacked to the disk.

zipfile lists it, once, and holds 600 bytes a name meanwhile. Workers read by offset, by hand:
with zipfile, each would read and hold the whole directory.

An entry's place: [offset of its local header, stored bytes, bytes, method, crc32, flags].
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from dataprep.images.names import rule_of
from dataprep.manifest import DatasetError
from dataprep.sources import labels
from dataprep.sources.entry import (
    Entry,
    Options,
    Reject,
    Skipped,
    check_size,
    checked_name,
    label_file,
    normalized,
)

LOCAL = struct.Struct("<4s5H3L2H")  # the header of a file: PK\3\4
STORED, DEFLATED = 0, 8
ENCRYPTED = 1
WINDOWS = (0, 10)  # creators whose paths may have backslashes: FAT, NTFS


def entries(path: Path, options: Options) -> Iterator[Entry | Reject | Skipped]:
    """All files in the archive, with the labels of its dataset.json."""
    files = directory(path)
    plain = not any("/" in name_of(info) for info in files)
    stored = [i for i in files if options.labels and name_of(i).split("/")[-1] == labels.NAME]
    labelled = Entry(name_of(stored[0]), place_of(stored[0])) if stored else None
    found = labels_of(path, labelled) if labelled else {}
    for info in files:
        name = name_of(info)
        if labelled and name == labelled.name:
            yield label_file(name)
            continue
        label = found.get(name)
        name = normalized(name.replace("\\", "/") if plain else name)
        rule = rule_of(name)
        if not rule:
            yield checked_name(Entry(name, place_of(info), label))
        elif not name.endswith("/"):
            yield Skipped(name, rule)


def labels_of(path: Path, stored: Entry) -> dict[str, int | str | None]:
    """The labels in a dataset.json, whose names are relative to it, by name in the archive."""
    where, above = f"{path}: {stored.name}", stored.name.removesuffix(labels.NAME)
    archive = Archive(path)
    try:
        found = labels.of_names(archive.read(stored), where)
    except OSError as error:
        raise DatasetError(f"{where} cannot be read: {error}") from None
    finally:
        archive.close()
    return {above + name: label for name, label in found.items()}


def directory(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise DatasetError(f"{path} has a damaged directory ({error}): download it again") from None


def name_of(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/") if info.create_system in WINDOWS else info.filename


def place_of(info: zipfile.ZipInfo) -> list[int]:
    size = [info.compress_size, info.file_size]
    return [info.header_offset, *size, info.compress_type, info.CRC, info.flag_bits]


class Archive:
    """Reads the images of a zip."""

    def __init__(self, path: Path):
        self.file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        """The bytes of an image file; OSError or BadImageError if it cannot be read."""
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
