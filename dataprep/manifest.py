"""The manifest of a prepared dataset, and its reader. Standard library only: of this package,
training imports this module alone, and so can other code.

A dataset is a folder that `dataprep/shard.py` wrote:

    manifest.json
    index/{train,test}.jsonl                           the source image of each sample
    rejects.jsonl                                      rejected images: name, kind, reason
    webdataset/r004 ... r256/{train,test}-000000.tar   <key>.png (.webp, .jpeg), and <key>.cls
                                                       where labelled
    ffcv/r004-{train,test}.beton ... r256-...          fields `image` (RGB, raw or JPEG) and `label`

Sample i of a split is the same image in every resolution and format: the i-th member of the tars
taken in order, sample i of the beton, line i of the index. Its key is its position before any image
was rejected. `manifest.json` is an object of

    format        1
    digest        identity of the data: sha256 of `files` as canonical JSON
    made_with     versions that decide the bytes: this package, deflate, numpy, Pillow
    source        {"name", "files", "images", "rejects", "skipped", "not_square"}: file or
                  folder name; numbers of files (those in archives, rows and records count), of
                  images among them, of rejected images; the other files as {rule: {"files",
                  "first"}}, with the rule `labels in ...` if labels were read from them; the images
                  that were cropped or padded to a square, as {"images", "first"}, or null
    settings      the options: see dataprep/settings.py
    split         {"rule": "ffhq" | "celebahq" | "folder" | "fraction" | "classes" | "tail",
                  "test_fraction"?, "asked", "why"}
    resolutions   ascending powers of two
    samples       {"train": n, "test": n}
    classes       names of the labels 0, 1, ...; empty without labels
    root          the folder or address of the files, if not beside the manifest (`--index` only)
    files         [{"path", "format", "resolution", "split", "samples", "bytes", "sha256"}, ...]
                  in order; "format" is "webdataset", "ffcv", "index" (resolution null) or
                  "rejects" (split null as well)
    checksum      sha256 of the other keys as canonical JSON

Canonical JSON: keys sorted, no spaces, ASCII.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataprep import store
from dataprep.errors import DatasetError

NAME = "manifest.json"
FORMAT = 1
SPLITS = ("train", "test")


class Shard(NamedTuple):
    """One tar: its path or address, how many samples it holds, and what its bytes are."""

    path: Path | str
    samples: int
    bytes: int
    sha256: str


def canonical_sha256(value: Any) -> str:
    """sha256 of `value` as canonical JSON, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def checksum_of(content: dict[str, Any]) -> str:
    return canonical_sha256({key: value for key, value in content.items() if key != "checksum"})


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write `folder`/manifest.json, whole or not at all; format, digest and checksum are added."""
    content = {"format": FORMAT, "digest": canonical_sha256(content["files"]), **content}
    content["checksum"] = checksum_of(content)
    beside = folder / f".{NAME}.partial"
    with beside.open("w", encoding="ascii") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.rename(folder / NAME)


def at(folder: Path | str, path: str) -> Path | str:
    """The path or address of the file `path` of the dataset in `folder` or at an address."""
    return folder / path if isinstance(folder, Path) else store.join(folder, path)


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset; `folder` is where its files are. Make it with `Manifest.load(folder)`."""

    folder: Path | str
    content: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """Read `folder`/manifest.json; DatasetError if it is missing, damaged or altered.

        `folder` may be an address, too: see `dataprep.store`.
        """
        if not store.is_remote(str(folder)):
            folder = Path(folder)
        path = at(folder, NAME)
        try:
            data = path.read_bytes() if isinstance(path, Path) else store.read(path)
            content = json.loads(data.decode("ascii"))
        except FileNotFoundError:
            raise DatasetError(
                f"{path} does not exist: the dataset is not there or its preparation did not end; "
                f"make it with  python dataprep/shard.py SOURCE --out {folder}"
            ) from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read ({error}): prepare it again") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DatasetError(
                f"{path} is not a manifest of format {FORMAT}: prepare the dataset again with "
                "this version of dataprep/shard.py"
            )
        if content.get("checksum") != checksum_of(content):
            raise DatasetError(
                f"{path} was altered: its content does not match its checksum; prepare it again"
            )
        for file in content["files"]:
            if os.path.isabs(file["path"]) or ".." in file["path"].split("/"):
                raise DatasetError(f"{path} names {file['path']!r}, which lies outside of it")
        if "root" in content:
            if not isinstance(folder, Path) or content["root"].startswith("pipe:"):
                raise DatasetError(f"{path} names files elsewhere, which a folder's alone may do")
            root = content["root"]
            return cls(root if store.is_remote(root) else Path(root), content)
        return cls(folder, content)

    @property
    def digest(self) -> str:
        """Identity of the data: equal where every file has the same bytes, and nowhere else."""
        return self.content["digest"]

    @property
    def place(self) -> str:
        """Its absolute path, or its address."""
        return str(self.folder.resolve() if isinstance(self.folder, Path) else self.folder)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sides of the images, ascending."""
        return tuple(self.content["resolutions"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ...; empty where the samples have none (their label is -1)."""
        return tuple(self.content["classes"])

    def count(self, split: str) -> int:
        """Number of samples of "train" or "test", the same at every resolution."""
        if split not in SPLITS:
            raise DatasetError(f"there is no split {split!r}: the splits are {', '.join(SPLITS)}")
        return self.content["samples"][split]

    def tars(self, resolution: int, split: str) -> list[Shard]:
        """The WebDataset tars of one resolution and split, in the order of their samples."""
        files = self._select("webdataset", resolution, split)
        return [
            Shard(at(self.folder, file["path"]), file["samples"], file["bytes"], file["sha256"])
            for file in files
        ]

    def beton(self, resolution: int, split: str) -> Path:
        """The FFCV file of one resolution and split, in a folder."""
        return Path(self.folder, self._select("ffcv", resolution, split)[0]["path"])

    def _select(self, format: str, resolution: int, split: str) -> list[dict[str, Any]]:
        self.count(split)
        self._has(resolution)
        want = (format, resolution, split)
        files = [
            file
            for file in self.content["files"]
            if (file["format"], file["resolution"], file["split"]) == want
        ]
        if not files:
            raise DatasetError(f"{self.folder} holds no {format} files: prepare it again with them")
        return files

    def _has(self, resolution: int) -> None:
        if resolution not in self.resolutions:
            raise DatasetError(
                f"{self.folder} holds no images at resolution {resolution}, only "
                f"{', '.join(map(str, self.resolutions))}: choose one of these, or prepare the "
                f"dataset again with another --max-resolution"
            )

    def check(self, resolution: int | None = None) -> None:
        """The cheap check before training: every file (of one resolution) is there, in full size.

        Reads no content. DatasetError names the first file that is not as it should be. Files at
        an address are checked when they are read, by their sha256.
        """
        if resolution is not None:
            self._has(resolution)
        if not isinstance(self.folder, Path):
            return
        for file in self.content["files"]:
            if resolution is None or file["resolution"] in (resolution, None):
                self._check(file)

    def check_beton(self, resolution: int, split: str) -> None:
        """`check` for one FFCV file."""
        self._check(self._select("ffcv", resolution, split)[0])

    def _check(self, file: dict[str, Any]) -> None:
        path = self.folder / file["path"]
        again = f"copy it again, or remove {self.folder} and prepare it again"
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror or error}; {again}") from None
        if size != file["bytes"]:
            raise DatasetError(f"{path} has {size} bytes instead of {file['bytes']}: {again}")
