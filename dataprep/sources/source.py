"""SOURCE on the command line: a folder, an archive, or a list or a pattern of any of these."""

import glob
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from dataprep.manifest import DatasetError
from dataprep.sources import folder, parquet, tarballs, tfrecord, zips
from dataprep.sources.entry import Entry, Refused, is_image

KINDS: dict[str, ModuleType] = {
    "folder": folder,
    "zip": zips,
    "tar": tarballs,
    "parquet": parquet,
    "tfrecord": tfrecord,
}
LISTS = (".txt", ".lst", ".list")
KNOWN = "a folder, zip, tar, parquet or TFRecord of images, or a .txt that lists some"


class Container(NamedTuple):
    """A folder or an archive that holds images.

    `prefix` goes before the names inside it; `bytes` and `mtime_ns` tell whether an archive is
    still the one that was listed (0 for folders).
    """

    kind: str
    path: str
    prefix: str
    bytes: int
    mtime_ns: int


Listed = tuple[Container, Entry | Refused]


def container(kind: str, path: Path, prefix: str = "") -> Container:
    if kind == "folder":
        return Container(kind, str(path.absolute()), prefix, 0, 0)
    status = path.stat()
    return Container(kind, str(path.absolute()), prefix, status.st_size, status.st_mtime_ns)


def listing(source: str, resolution: int, labels: bool) -> Iterator[Listed]:
    """Every image of `source` in the order of the disk, with the container that holds it.

    `resolution` chooses among the files of a multi-resolution TFRecord set; `labels` asks for the
    labels stored in archives. DatasetError where the source is not there or cannot be listed.
    """
    path = Path(source)
    if path.is_dir():
        yield from from_folder(path, resolution, labels)
    elif path.is_file():
        kind = kind_of(path)
        if kind:
            yield from inside(container(kind, path), labels)
        elif path.suffix in LISTS:
            yield from from_paths(path.parent, lines(path), resolution, labels, strict=True)
        else:
            raise DatasetError(f"{source} is not {KNOWN}")
    elif glob.has_magic(source):
        root = Path(*fixed_parts(path))
        found = (os.path.relpath(match, root) for match in glob.iglob(source, recursive=True))
        yield from from_paths(root, found, resolution, labels, strict=False)
    else:
        raise DatasetError(f"{source} does not exist: SOURCE is {KNOWN}, or a pattern of them")


def kind_of(path: Path) -> str | None:
    """Which kind of archive a file is, by its content; None for no known one."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    if start[:2] == b"\x1f\x8b":
        raise DatasetError(f"{path} is compressed as a whole: unpack it with gunzip first")
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return "zip"
    if start[:4] == b"PAR1":
        return "parquet"
    if tfrecord.record_length(start[: tfrecord.HEAD.size]) is not None:
        return "tfrecord"
    return "tar" if start and tarfile.is_tarfile(path) else None


def inside(container: Container, labels: bool) -> Iterator[Listed]:
    for entry in KINDS[container.kind].entries(Path(container.path), labels):
        yield container, entry._replace(name=container.prefix + entry.name)


def from_folder(path: Path, resolution: int, labels: bool) -> Iterator[Listed]:
    """The images in a folder tree; where there is none, those in the archives in it."""
    tree, images, others = container("folder", path), False, []
    for name in folder.files(path):
        if is_image(name):
            images = True
            yield tree, Entry(name)
        elif not images and name.endswith((".zip", ".tar", ".parquet", ".tfrecord", ".tfrecords")):
            others.append(name)
    if not images:
        yield from from_paths(path, others, resolution, labels, strict=False)


def from_paths(
    root: Path, paths: Iterable[str], resolution: int, labels: bool, strict: bool
) -> Iterator[Listed]:
    """The images at `paths` below `root`, and those in the folders and archives among them.

    What is nothing of that kind is refused where `strict`, and passed over where not.
    """
    tree, archives = container("folder", root), []
    for path in paths:
        if is_image(path):
            yield tree, Entry(path)
        elif (root / path).is_dir():
            if strict:  # a pattern like ** matches the folders on the way as well
                yield from inside(container("folder", root / path, path + "/"), labels)
        elif (root / path).is_file() and (kind := kind_of(root / path)):
            archives.append((path, kind))
        elif strict:
            yield tree, Refused(path, "unreadable", "not there, or no image or archive of images")
    for path, kind in one_resolution(sorted(archives), resolution):
        yield from inside(container(kind, root / path, path + "/"), labels)


def one_resolution(archives: list[tuple[str, str]], resolution: int) -> list[tuple[str, str]]:
    """Of TFRecords that hold the same images at several resolutions, the ones to read.

    That is the resolution asked for, else the least above, else the highest there is.
    """
    sets: dict[str, list[tuple[int, str]]] = {}
    for path, kind in archives:
        side = tfrecord.side_of(Path(path)) if kind == "tfrecord" else 0
        if side:
            sets.setdefault(path.rpartition("-r")[0], []).append((side, path))
    read = set()
    for found in sets.values():
        enough = [pair for pair in found if pair[0] >= resolution]
        read.add(min(enough)[1] if enough else max(found)[1])
    several = {path for found in sets.values() for _, path in found}
    return [(path, kind) for path, kind in archives if path not in several or path in read]


def lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n")


def fixed_parts(path: Path) -> list[str]:
    """The leading parts of a pattern that are no pattern."""
    parts: list[str] = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


class Reader:
    """Reads images by what the listing told of them; keeps the last archive open."""

    def __init__(self, containers: list[Container]):
        self.containers = containers
        self.number, self.archive = -1, None

    def read(self, number: int, entry: Entry) -> bytes:
        """The bytes of an image in container `number`; OSError or BadImageError where it cannot
        be had, DatasetError where the archive is not the one that was listed."""
        if number != self.number:
            self.close()
            self.archive, self.number = self.open(self.containers[number]), number
        prefix = self.containers[number].prefix
        return self.archive.read(entry._replace(name=entry.name[len(prefix) :]))

    def open(self, listed: Container):
        path = Path(listed.path)
        try:
            if container(listed.kind, path, listed.prefix) != listed:
                raise DatasetError(
                    f"{path} was changed after it was listed: remove the unfinished dataset and "
                    "prepare it anew"
                )
            return KINDS[listed.kind].Archive(path)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from None

    def close(self) -> None:
        if self.archive is not None:
            self.archive.close()
        self.number, self.archive = -1, None
