"""What a file is, by its content: which kind of archive, and if it is none, what else."""

import re
import tarfile
import zipfile
from pathlib import Path

from dataprep.images.decode import LFS_POINTER
from dataprep.manifest import DatasetError
from dataprep.sources import cifar, mat, tfrecord

ARCHIVE = re.compile(r"\.(zip|tar|parquet|mat|avi|tfrecords?(-\d+-of-\d+)?)$", re.IGNORECASE)
COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)

START = 512  # bytes that are looked at
STARTS = {  # what else a file may be: its first bytes, and what to do about it
    LFS_POINTER: "is a Git LFS pointer, and not the file itself: get that with `git lfs pull`",
    b"<!doctype html": "is an HTML page, which came instead of the file: get it again",
    b"<html": "is an HTML page, which came instead of the file: get it again",
    b"<?xml": "is XML, which came instead of the file: get it again",
    b"\x1f\x8b": "is compressed as a whole (gzip): unpack it with gunzip first",
    b"bzh": "is compressed as a whole (bzip2): unpack it with bunzip2 first",
    b"\xfd7zxz\0": "is compressed as a whole (xz): unpack it with unxz first",
    b"\x28\xb5\x2f\xfd": "is compressed as a whole (zstandard): unpack it with unzstd first",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive: unpack it into a folder first",
    b"rar!": "is a RAR archive: unpack it into a folder first",
}


def named_as_archive(name: str) -> bool:
    """Whether a file's name says that it is an archive, or one that is compressed as a whole."""
    return bool(ARCHIVE.search(name) or COMPRESSED.search(name) or cifar.NAMES.search(name))


def kind_of(path: Path) -> str | None:
    """Which kind of archive a file is; None for none that is read. DatasetError."""
    if cifar.is_cifar(path):
        return "cifar"
    start = start_of(path)
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return "zip"
    if start[:4] == b"PAR1":
        return "parquet"
    if start.startswith(mat.START):
        return "mat"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "video"
    if tfrecord.record_length(start[: tfrecord.HEAD.size]) is not None:
        return "tfrecord"
    return "tar" if is_tar(path) else None


def what_else(path: Path) -> str | None:
    """What a file is that is no archive, and what to do about it; None where that is not known."""
    start = start_of(path)
    if not start:
        return "is empty (0 bytes): get it again"
    if not any(start):
        return f"holds zeros where it should begin ({path.stat().st_size:,} bytes): get it again"
    lower = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for first, text in STARTS.items():
        if lower.startswith(first):
            return text
    if zipfile.is_zipfile(path):  # by its end
        return "is a zip behind something else, a program perhaps: unpack it with unzip first"
    return None


def no_archive(path: Path) -> DatasetError:
    """What to tell of a file that is named as an archive and is none."""
    return DatasetError(f"{path} {what_else(path) or 'is damaged, or no archive: get it again'}")


def start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(START)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None


def is_tar(path: Path) -> bool:
    """Whether it is a tar that is not compressed, and begins with a member.

    A file of zeros is to tarfile a tar without members; it is rather a download that broke.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return archive.next() is not None
    except (tarfile.TarError, OSError):
        return False
