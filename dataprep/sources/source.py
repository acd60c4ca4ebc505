"""SOURCE on the command line: a folder, an archive, or a list or pattern of these."""

import codecs
import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dataprep.images.names import rule_of
from dataprep.manifest import NAME, DatasetError
from dataprep.sources import (
    cifar,
    folder,
    idx,
    mat,
    parquet,
    svhn,
    tarballs,
    tfrecord,
    video,
    zips,
)
from dataprep.sources.contents import archive_kind, explain, kind_of, refuse_broken
from dataprep.sources.entry import Entry, Note, Options, Reject, Skipped, normalized

KINDS: dict[str, ModuleType] = {
    "folder": folder,
    "zip": zips,
    "tar": tarballs,
    "parquet": parquet,
    "tfrecord": tfrecord,
    "cifar": cifar,
    "idx": idx,
    "mat": mat,
    "svhn": svhn,
    "video": video,
}
NO_IMAGES = "table without images"
MOST_SHARDS = 1_000_000
LISTS = (".txt", ".lst", ".list")
KNOWN = (
    "a folder, zip, tar, parquet, TFRecord, CIFAR .bin, MNIST idx, Cars3D or SVHN .mat, or AVI "
    "of images, or a .txt that lists some"
)
Item = Entry | Reject | Skipped | Note


class Container(NamedTuple):
    """A folder or an archive of images.

    `prefix` is prepended to the names in it. `bytes` and `mtime_ns` (0 for folders) detect whether
    an archive was changed after it was listed.
    """

    kind: str
    path: str
    prefix: str
    bytes: int
    mtime_ns: int


Listed = tuple[Container, Item]


def container(kind: str, path: Path, prefix: str = "") -> Container:
    if kind == "folder":
        return Container(kind, str(path.absolute()), prefix, 0, 0)
    status = path.stat()
    return Container(kind, str(path.absolute()), prefix, status.st_size, status.st_mtime_ns)


def listing(source: str, options: Options) -> Iterator[Listed]:
    """All files of `source`, in no order, each with its container; archives are opened.

    DatasetError if the source does not exist, cannot be listed, or is ambiguous.
    """
    path = Path(source)
    if (path / NAME).exists() and any((path / made).is_dir() for made in ("webdataset", "ffcv")):
        raise DatasetError(f"{source} is a prepared dataset: name what it was made of")
    if path.is_dir():
        yield from from_folder(path, "", options)
    elif path.is_file():
        kind = kind_of(path)
        if kind:
            yield from inside(container(kind, path), options)
        elif path.suffix.lower() in LISTS:
            yield from from_paths(path.parent, lines(path), options, listed=True)
        else:
            raise DatasetError(f"{source} {explain(path) or f'is not {KNOWN}'}")
    elif glob.has_magic(source):
        root = Path(*fixed_parts(path))
        found = (os.path.relpath(match, root) for match in glob.iglob(source, recursive=True))
        # a pattern like ** matches folders, and everything in them as well
        on_the_way = "**" in path.parts and path.name in ("*", "**")
        yield from from_paths(root, found, options, folders=not on_the_way)
    else:
        raise DatasetError(f"{source} does not exist: SOURCE is {KNOWN}, or a pattern of them")


def inside(container: Container, options: Options) -> Iterator[Listed]:
    empty = True
    for item in KINDS[container.kind].entries(Path(container.path), options):
        if not isinstance(item, Note):
            item, empty = item._replace(name=container.prefix + item.name), False
        yield container, item
    if empty:
        yield container, Note(f"{container.path} holds no files")


def from_folder(path: Path, prefix: str, options: Options) -> Iterator[Listed]:
    """The files in a folder tree, or in its archives. DatasetError if it has both images and
    archives of images, as one may be a copy of the other."""
    tree, archives, first = container("folder", path, prefix), [], None
    for item in folder.entries(path, options):
        name = item.name
        if (
            isinstance(item, Skipped)
            and item.rule != "hidden"
            and not (path / name).is_dir()
            and (kind := archive_kind(path / name))
        ):
            archives.append((name, kind))
            continue
        if isinstance(item, Entry) and first is None:
            first = name
        yield tree, item._replace(name=prefix + name)
    if first is None:
        yield from from_archives(path, prefix, archives, options)
        return
    for found in sorted(archives):
        if holds_images(path, *found, options):
            raise DatasetError(
                f"{path} contains images ({first}) and archives ({len(archives):,}, as "
                f"{found[0]}): choose with a pattern, as "
                f"'{path}/**/*{os.path.splitext(found[0])[1]}' or "
                f"'{path}/**/*{os.path.splitext(first)[1]}', or '{path}/**' for both"
            )
        yield tree, Skipped(prefix + found[0], NO_IMAGES)


def from_paths(
    root: Path, paths: Iterable[str], options: Options, listed: bool = False, folders: bool = True
) -> Iterator[Listed]:
    """The images at `paths` below `root`, and those in archives and `folders` among them.

    Anything else is rejected if it is `listed`, and skipped if not.
    """
    tree, archives = container("folder", root), []
    for path in map(normalized, paths):
        if listed and path != path.strip() and not os.path.lexists(root / path):
            path = path.strip()
        rule = rule_of(path)
        if rule is None:
            yield tree, Entry(path)
        elif (root / path).is_dir():
            if folders:
                yield from from_folder(root / path, path + "/", options)
        elif (root / path).is_file() and (kind := kind_of(root / path)):
            archives.append((path, kind))
        else:
            refuse_broken(root / path)
            if not listed:
                yield tree, Skipped(path, rule)
            elif os.path.lexists(root / path):
                yield tree, Reject(path, "unreadable", f"neither image nor archive: {rule}")
            else:
                yield tree, Reject(path, "unreadable", "not there; a line is a path and no more")
    yield from from_archives(root, "", archives, options)


def from_archives(
    root: Path, prefix: str, archives: list[tuple[str, str]], options: Options
) -> Iterator[Listed]:
    """The files in `archives`, (path, kind) below `root`.

    TFRecords of other resolutions, and tables without images, are skipped as one file each.
    """
    tree, archives = container("folder", root, prefix), sorted(archives)
    for text in incomplete(path for path, _ in archives):
        yield tree, Note(f"{root}: {text}")
    read = one_resolution(archives, options.resolution)
    for path, _ in sorted({*archives} - {*read}):
        yield tree, Skipped(prefix + path, "TFRecord of another resolution")
    others = {path for path, kind in read if not holds_images(root, path, kind, options)}
    for path, kind in read:
        if path in others and len(others) < len(read):
            yield tree, Skipped(prefix + path, NO_IMAGES)
        else:
            yield from inside(container(kind, root / path, prefix + path + "/"), options)


def incomplete(names: Iterable[str]) -> Iterator[str]:
    """Notes about archives that are missing: their names contain how many there should be."""
    sets: dict[tuple[str, ...], set[int]] = {}
    for name in names:
        if found := re.fullmatch(r"(.*-)(\d+)(-of-)(\d+)(.*)", name, re.DOTALL):
            before, number, of, total, ending = found.groups()
            sets.setdefault((before, of + total + ending, total), set()).add(int(number))
    for (before, behind, total), numbers in sets.items():
        missing = sorted(set(range(int(total))) - numbers) if int(total) < MOST_SHARDS else []
        if missing:
            first = f"{before}{missing[0]:0{len(total)}d}{behind}"
            yield f"{len(missing):,} of {int(total):,} archives are missing, {first} the first"


def holds_images(root: Path, path: str, kind: str, options: Options) -> bool:
    """Whether a table does; another archive may, which its listing shows."""
    if kind == "parquet":
        return parquet.holds_images(root / path, options)
    return kind != "mat" or mat.holds_images(root / path)


def one_resolution(archives: list[tuple[str, str]], resolution: int) -> list[tuple[str, str]]:
    """Of TFRecords with the same images at several resolutions, only the one to read.

    That is the smallest resolution of at least `resolution`, else the largest.
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
    """The lines of a list that are not empty: UTF-8, or UTF-16 with a byte order mark."""
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
    with path.open(encoding=encoding, errors=errors) as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n")


def fixed_parts(path: Path) -> list[str]:
    """The leading parts of a pattern without wildcards."""
    parts: list[str] = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


class Reader:
    """Reads listed images; keeps the last archive open."""

    def __init__(self, containers: list[Container], image_column: str | None = None):
        self.containers, self.image_column = containers, image_column
        self.number = -1
        self.archive: Any = None

    def read(self, number: int, entry: Entry) -> bytes:
        """The bytes of an image in container `number`; OSError or BadImageError if it cannot be
        read, DatasetError if the archive was changed."""
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
                    "prepare it again"
                )
            if listed.kind == "parquet":
                return parquet.Archive(path, self.image_column)
            return KINDS[listed.kind].Archive(path)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from None

    def close(self) -> None:
        if self.archive is not None:
            self.archive.close()
        self.number, self.archive = -1, None
