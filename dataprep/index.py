"""--index: writes a manifest for existing WebDataset tars.

Nothing is copied. Each tar is read once, for its sha256 and to check what training relies on: each
sample has one image, all images are RGB squares of one size, and all samples have labels or none.
"""

import glob
import hashlib
import io
import math
import os
import re
import tarfile
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from dataprep import manifest, store
from dataprep.manifest import DatasetError, Manifest

ENDINGS = ("png", "webp", "jpeg", "jpg")
CHUNK = 1 << 18
OTHERWISE = "prepare a dataset of it with  python dataprep/shard.py SOURCE --out DIR"


@dataclass
class Found:
    """What a tar holds."""

    images: int = 0
    sides: frozenset[int] = frozenset()
    labels: frozenset[int | None] = frozenset()
    bytes: int = 0
    sha256: str = ""


def index(pattern: str, out: Path, test_fraction: float, workers: int) -> Manifest:
    """Write `out`/manifest.json for the tars of `pattern`; the last of them are the test split.

    `pattern` is a tar, a folder of tars, a pattern of paths, or an address, each with {000..099}
    for a range of numbers. DatasetError if training cannot read them.
    """
    tars = listed(pattern)
    if len(tars) < 2:
        raise DatasetError(f"{pattern} is one tar: the test split needs a second; {OTHERWISE}")
    root, paths = common(tars)
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(look, tars))
    sides = frozenset.union(*(one.sides for one in found))
    labels = frozenset.union(*(one.labels for one in found))
    if len(sides) != 1:
        raise DatasetError(f"{pattern} has images of {sorted(sides)} pixels: {OTHERWISE}")
    (side,) = sides
    if side < 4 or side & (side - 1):
        raise DatasetError(f"{pattern} has images of {side} pixels, no power of two: {OTHERWISE}")
    if None in labels and len(labels) > 1:
        raise DatasetError(f"{pattern} has labels (.cls) for some samples only: {OTHERWISE}")
    held_out = min(math.ceil(test_fraction * len(tars)), len(tars) - 1)
    splits = ["train"] * (len(tars) - held_out) + ["test"] * held_out
    files: list[dict[str, Any]] = [
        {
            "path": path,
            "format": "webdataset",
            "resolution": side,
            "split": split,
            "samples": one.images,
            "bytes": one.bytes,
            "sha256": one.sha256,
        }
        for path, one, split in zip(paths, found, splits)
    ]
    counts = dict.fromkeys(manifest.SPLITS, 0)
    for one, split in zip(found, splits):
        counts[split] += one.images
    classes = [] if None in labels else [str(i) for i in range(max(labels) + 1)]
    content: dict[str, Any] = {
        "root": str(root),
        "source": {"name": pattern, "images": sum(counts.values()), "rejects": 0},
        "split": {"rule": "shards", "test_fraction": test_fraction},
        "resolutions": [side],
        "samples": counts,
        "classes": classes,
        "files": files,
    }
    out.mkdir(parents=True, exist_ok=True)
    manifest.write(out, content)
    return Manifest.load(out)


def listed(pattern: str) -> list[str]:
    """The paths or addresses of a pattern, in order."""
    expanded = list(braces(pattern))
    if store.is_remote(pattern):
        if pattern.startswith("pipe:"):
            raise DatasetError("--index reads files and addresses, and no commands")
        return expanded
    paths = []
    for path in expanded:
        if os.path.isdir(path):
            path = os.path.join(glob.escape(path), "*.tar")
        paths += sorted(glob.glob(path))
    if not paths:
        raise DatasetError(f"{pattern}: there is no such tar")
    return [os.path.abspath(path) for path in paths]


def braces(pattern: str) -> Iterator[str]:
    """`pattern` for every number of each {000..099} in it."""
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    ranges = [
        [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3])
    ]
    for numbers in product(*ranges):
        yield "".join(a + b for a, b in zip(parts[::3], [*numbers, ""]))


def common(tars: list[str]) -> tuple[str, list[str]]:
    """What the paths or addresses have in common, up to a slash, and the rest of each."""
    start = os.path.commonprefix(  # noqa: RUF071 (cut at a slash below, and addresses are no paths)
        [tar[: tar.rfind("/") + 1] for tar in tars]
    )
    root = start[: start.rfind("/") + 1]
    paths = [tar[len(root) :] for tar in tars]
    if store.is_remote(root):
        paths = [urllib.parse.unquote(path) for path in paths]
    return root.rstrip("/") or "/", paths


class Hashed(io.RawIOBase):
    """A stream that is hashed as it is read."""

    def __init__(self, source):
        self.source, self.sha256, self.bytes = source, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self.source.read(len(buffer))
        self.sha256.update(data)
        self.bytes += len(data)
        buffer[: len(data)] = data
        return len(data)


def look(tar: str) -> Found:
    """What a tar contains; DatasetError if training cannot read it."""
    try:
        with store.Stream(tar) if store.is_remote(tar) else open(tar, "rb") as source:
            hashed = Hashed(source)
            with tarfile.open(fileobj=io.BufferedReader(hashed, CHUNK), mode="r|") as archive:
                found = samples(tar, archive)
            while hashed.read(CHUNK):
                pass
    except (tarfile.TarError, ValueError, OSError) as error:
        raise DatasetError(f"{tar} cannot be read as a plain tar ({error}): {OTHERWISE}") from None
    if not found.images:
        raise DatasetError(f"{tar} holds no images (.{', .'.join(ENDINGS)}): {OTHERWISE}")
    if any(label is not None and label < 0 for label in found.labels):
        raise DatasetError(f"{tar} has negative labels: {OTHERWISE}")
    found.bytes, found.sha256 = hashed.bytes, hashed.sha256.hexdigest()
    return found


def samples(tar: str, archive: tarfile.TarFile) -> Found:
    """The samples of an open tar: members are consecutive, and one of them is an image."""
    sides, labels, image = set(), {}, {}
    current = None
    for member in archive:
        archive.members.clear()  # type: ignore[attr-defined]  # it keeps all members
        folder, slash, name = member.name.rpartition("/")
        key, _, ending = name.partition(".")
        key = folder + slash + key
        if not member.isreg():
            continue
        if key != current and key in labels:
            raise DatasetError(f"{tar}: the members of {key} are not consecutive: {OTHERWISE}")
        current = key
        labels.setdefault(key, None)
        if ending.lower() == "cls":
            labels[key] = int(archive.extractfile(member).read())
        elif ending.lower() in ENDINGS:
            if key in image:
                raise DatasetError(f"{tar}: {key} has two images: {OTHERWISE}")
            image[key] = member.name
            sides.add(side_of(tar, member.name, archive.extractfile(member).read()))
    return Found(len(image), frozenset(sides), frozenset(labels[key] for key in image))


def side_of(tar: str, name: str, data: bytes) -> int:
    """The side of a square RGB image; DatasetError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            (width, height), mode = image.size, image.mode
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DatasetError(f"{tar}: {name} cannot be read ({error}): {OTHERWISE}") from None
    if width != height or mode != "RGB":
        raise DatasetError(f"{tar}: {name} is {width}x{height} {mode}, no RGB square: {OTHERWISE}")
    return width
