"""A folder tree of image files. Links to files and folders are followed, except to folders that are
in the tree already."""

import os
from collections.abc import Iterator
from pathlib import Path

from dataprep.manifest import DatasetError
from dataprep.sources import labels
from dataprep.sources.entry import Entry, Options, Skipped, entry_or_skipped, label_file, read_file


def entries(path: Path, options: Options) -> Iterator[Entry | Skipped]:
    """All files in the tree, with the labels of its dataset.json."""
    found = {}
    if options.labels and (path / labels.NAME).is_file():
        found = labels.of_names(read_file(path / labels.NAME), path / labels.NAME)
    for item in files(path):
        if isinstance(item, Skipped):
            yield item
        elif item == labels.NAME and options.labels:
            yield label_file(item)
        else:
            yield entry_or_skipped(Entry(item, (), found.get(item)))


def files(path: Path) -> Iterator[str | Skipped]:
    """The paths of all files, relative to `path`, in no order; no list of names is held.

    Linked folders come last, by name, so a folder that is found twice keeps its own name. A folder
    that was seen, by device and inode, is skipped: loops end.
    """
    seen: set[tuple[int, int]] = set()
    waiting, links = [""], []
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            waiting.append(links.pop())
        inside = waiting.pop()
        try:
            status = os.stat(path / inside)
            if (status.st_dev, status.st_ino) in seen:
                yield Skipped(inside.rstrip("/"), "linked folder (in the source already)")
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path / inside) as listed:
                for item in listed:
                    name = inside + item.name
                    if not is_folder(item):
                        yield name
                    elif item.name == "lost+found":
                        yield Skipped(name, "lost+found")  # of the file system, for root alone
                    else:
                        (links if item.is_symlink() else waiting).append(name + "/")
        except OSError as error:
            raise DatasetError(f"{error.filename} cannot be listed: {error.strerror}") from None


def is_folder(item: os.DirEntry) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


class Archive:
    """Reads the images of a folder."""

    def __init__(self, path: Path):
        self.path = path

    def read(self, entry: Entry) -> bytes:
        """The bytes of an image file; OSError or BadImageError if it cannot be read."""
        return read_file(os.path.join(self.path, entry.name))

    def close(self) -> None:
        pass
