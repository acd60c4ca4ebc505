"""A folder tree of image files; links to files are followed, links to folders are not."""

import os
from collections.abc import Iterator
from pathlib import Path

from dataprep.manifest import DatasetError
from dataprep.sources.entry import Entry, is_image, read_file


def entries(path: Path, labels: bool) -> Iterator[Entry]:
    """All images in the tree; a folder stores no labels, whatever `labels` says."""
    for name in files(path):
        if is_image(name):
            yield Entry(name)


def files(path: Path) -> Iterator[str]:
    """The paths of all files in the tree, relative to it, in no order; holds no folder's names."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(path / inside) as listed:
                for item in listed:
                    if item.is_dir(follow_symlinks=False):
                        waiting.append(inside + item.name + "/")
                    else:
                        yield inside + item.name
        except OSError as error:
            raise DatasetError(f"{error.filename} cannot be listed: {error.strerror}") from None


class Archive:
    """Reads the images of a folder."""

    def __init__(self, path: Path):
        self.path = path

    def read(self, entry: Entry) -> bytes:
        """The bytes of an image file; OSError or BadImageError where it cannot be had."""
        return read_file(os.path.join(self.path, entry.name))

    def close(self) -> None:
        pass
