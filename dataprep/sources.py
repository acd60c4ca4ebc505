"""Where images come from: a folder tree or a zip. Each source tells the names of its images (paths
inside it with forward slashes) and reads one image's bytes by its name.
"""

import itertools
import os
import zipfile
import zlib
from pathlib import Path

from dataprep.manifest import DatasetError

# What zipfile raises on damaged, encrypted or oddly compressed members.
UNREADABLE = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError)
ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def open_source(path: str | Path) -> "Folder | Zip":
    """The source at `path`; DatasetError where there is none of a known kind."""
    path = Path(path)
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise DatasetError(f"{path} does not exist: SOURCE is a folder or a zip of images")
    if zipfile.is_zipfile(path):
        return Zip(path)
    raise DatasetError(f"{path} is neither a folder nor a readable zip of images")


def is_image(name: str) -> bool:
    """Whether a path inside a source is taken for an image: by its ending, hidden files apart."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and name.lower().endswith(ENDINGS)


class Folder:
    """A folder tree of image files; links to files are followed, links to folders are not."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        """Names of all images in the tree, sorted by code points."""
        found = []
        for folder, _, files in os.walk(self.path, onerror=unreadable):
            inside = Path(folder).relative_to(self.path).as_posix()
            prefix = "" if inside == "." else inside + "/"
            found += [prefix + file for file in files if is_image(prefix + file)]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The bytes of one image file; OSError where it cannot be read."""
        return (self.path / name).read_bytes()


class Zip:
    """A zip archive of image files, stored or deflated; nothing is unpacked to the disk."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path} cannot be opened as a zip: {error}") from None

    def names(self) -> list[str]:
        """Names of all images, sorted by code points; DatasetError where one comes twice."""
        found = sorted(name for name in self.archive.namelist() if is_image(name))
        for one, following in itertools.pairwise(found):
            if one == following:
                raise DatasetError(f"{self.path} holds two images named {one!r}: rename one")
        return found

    def read(self, name: str) -> bytes:
        """The bytes of one image file; OSError where they are damaged or encrypted."""
        try:
            return self.archive.read(name)
        except UNREADABLE as error:
            raise OSError(f"damaged in the archive: {error}") from None


def unreadable(error: OSError) -> None:
    raise DatasetError(f"{error.filename} cannot be listed: {error.strerror}") from None
