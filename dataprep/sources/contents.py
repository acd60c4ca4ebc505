"""What a file is, by its content: a kind of archive, or something else."""

import re
import tarfile
import zipfile
from pathlib import Path

from dataprep.images.decode import LFS_POINTER
from dataprep.manifest import DatasetError
from dataprep.sources import cifar, idx, mat, svhn, tfrecord

ARCHIVE = re.compile(r"\.(zip|tar|parquet|tfrecords?(-\d+-of-\d+)?)$", re.IGNORECASE)
PERHAPS = re.compile(r"\.(mat|avi)$", re.IGNORECASE)  # other programs use these endings, too
COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)

START = 512  # bytes that are read
STARTS = {  # first bytes of files that are no archives, and what to do about them
    LFS_POINTER: "is a Git LFS pointer, and not the file itself: get that with `git lfs pull`",
    b"<!doctype html": "is an HTML page, that was served instead of the file: download it again",
    b"<html": "is an HTML page, that was served instead of the file: download it again",
    b"<?xml": "is XML, that was served instead of the file: download it again",
    b"\x1f\x8b": "is compressed as a whole (gzip): unpack it with gunzip first",
    b"bzh": "is compressed as a whole (bzip2): unpack it with bunzip2 first",
    b"\xfd7zxz\0": "is compressed as a whole (xz): unpack it with unxz first",
    b"\x28\xb5\x2f\xfd": "is compressed as a whole (zstandard): unpack it with unzstd first",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive: unpack it into a folder first",
    b"rar!": "is a RAR archive: unpack it into a folder first",
}


def named_as_archive(name: str) -> bool:
    """Whether a file has the name of an archive, compressed or not."""
    known = (ARCHIVE, COMPRESSED, cifar.NAMES, idx.NAMES)
    return any(names.search(name) for names in known)


def archive_kind(path: Path) -> str | None:
    """The kind of a file that has the name of an archive; None if it is another file.

    DatasetError if it should be an archive and is none.
    """
    if not named_as_archive(path.name) and not PERHAPS.search(path.name):
        return None
    kind = kind_of(path)
    if kind is None:
        refuse_broken(path)
    return kind


def refuse_broken(path: Path) -> None:
    """DatasetError if a file that is no archive has the name of one."""
    if named_as_archive(path.name) or (PERHAPS.search(path.name) and explain(path)):
        raise DatasetError(
            f"{path} {explain(path) or 'is damaged, or not an archive: download it again'}"
        )


def kind_of(path: Path) -> str | None:
    """The kind of archive a file is, or None; DatasetError if it cannot be read."""
    if cifar.is_cifar(path):
        return "cifar"
    start = start_of(path)
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return "zip"
    if start[:4] == b"PAR1":
        return "parquet"
    if start.startswith(idx.IMAGES):
        return "idx"
    if start.startswith(mat.START):
        return "svhn" if svhn.is_svhn(path) else "mat"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "video"
    if tfrecord.record_length(start[: tfrecord.HEAD.size]) is not None:
        return "tfrecord"
    return "tar" if is_tar(path) else None


def explain(path: Path) -> str | None:
    """What a file is that is no archive, and what to do about it; None if unknown."""
    start = start_of(path)
    if not start:
        return "is empty (0 bytes): download it again"
    if not any(start):
        return f"begins with zeros ({path.stat().st_size:,} bytes): download it again"
    lower = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for first, text in STARTS.items():
        if lower.startswith(first):
            return text
    if zipfile.is_zipfile(path):  # by its end
        return "is a zip after other data, perhaps a program: unpack it with unzip first"
    return None


def start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(START)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None


def is_tar(path: Path) -> bool:
    """Whether it is an uncompressed tar with a member.

    (To tarfile, a file of zeros is a tar without members; it is rather a broken download.)
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return archive.next() is not None
    except (tarfile.TarError, OSError):
        return False
