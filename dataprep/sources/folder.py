"""A folder tree of image files. Links to files are followed; so are links to folders, unless they
lead to what is in the tree already."""

import os
from collections.abc import Iterator
from pathlib import Path

from dataprep.manifest import DatasetError
from dataprep.sources import labels
from dataprep.sources.entry import Asked, Entry, Passed, labels_read, read_file, sorted_in


def entries(path: Path, asked: Asked) -> Iterator[Entry | Passed]:
    """Every file in the tree; labels are those of a dataset.json in it."""
    found = {}
    if asked.labels and (path / labels.NAME).is_file():
        found = labels.of_names(read_file(path / labels.NAME), path / labels.NAME)
    for item in files(path):
        if isinstance(item, Passed):
            yield item
        elif item == labels.NAME and asked.labels:
            yield labels_read(item)
        else:
            yield sorted_in(Entry(item, (), found.get(item)))


def files(path: Path) -> Iterator[str | Passed]:
    """The paths of all files in the tree, relative to it, in no order; holds no folder's names.

    Linked folders come last and by name, so that what is found twice has its own name. A loop ends
    where a folder was met before, by device and inode.
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
                yield Passed(inside.rstrip("/"), "linked folder (in the source already)")
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path / inside) as listed:
                for item in listed:
                    name = inside + item.name
                    if not is_folder(item):
                        yield name
                    elif item.name == "lost+found":
                        yield Passed(name, "lost+found")  # a file system's own, for root alone
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
        """The bytes of an image file; OSError or BadImageError where it cannot be had."""
        return read_file(os.path.join(self.path, entry.name))

    def close(self) -> None:
        pass
