"""Reads a prepared dataset, image by image, without ffcv or webdataset."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataprep.formats import beton, tars
from dataprep.images.decode import decode
from dataprep.manifest import Manifest


class Image(NamedTuple):
    """A sample of a file; in betons, keys are ""."""

    key: str
    label: int
    pixels: np.ndarray


def formats(manifest: Manifest) -> list[str]:
    return manifest.content["settings"]["formats"]


def lossless(manifest: Manifest, format: str) -> bool:
    settings = manifest.content["settings"]
    name = "tar_images" if format == "webdataset" else "beton_images"
    return settings[name] != "jpeg"


def images(
    manifest: Manifest, format: str, side: int, split: str, first: int, count: int
) -> Iterator[Image]:
    """Samples `first`, `first` + 1, ... of a split, from "webdataset" or "ffcv" files."""
    read = from_tars if format == "webdataset" else from_beton
    return read(manifest, side, split, first, count)


def from_tars(manifest: Manifest, side: int, split: str, first: int, count: int) -> Iterator[Image]:
    for shard in manifest.tars(side, split):
        if count <= 0:
            return
        if first < shard.samples:
            for member in itertools.islice(tars.read(Path(shard.path)), first, first + count):
                yield Image(member.key, member.label, decode(member.image))
                count -= 1
        first = max(0, first - shard.samples)


def from_beton(
    manifest: Manifest, side: int, split: str, first: int, count: int
) -> Iterator[Image]:
    count = min(count, manifest.count(split) - first)
    with manifest.beton(side, split).open("rb") as file:
        header = np.frombuffer(file.read(beton.HEADER.itemsize), beton.HEADER)[0]
        metadata = rows(file, beton.METADATA_START, beton.METADATA, first, count)
        sizes = rows(file, int(header["alloc_table_ptr"]), beton.ALLOCATION, first, count)["size"]
        for row, size in zip(metadata, sizes.tolist()):
            file.seek(int(row["image"]["data_ptr"]))
            data = file.read(size)
            if row["image"]["mode"] == beton.MODES["raw"]:
                shape = int(row["image"]["height"]), int(row["image"]["width"]), 3
                pixels = np.frombuffer(data, np.uint8).reshape(shape)
            else:
                pixels = decode(data)
            yield Image("", int(row["label"]), pixels)


def rows(file, start: int, dtype: np.dtype, first: int, count: int) -> np.ndarray:
    file.seek(start + first * dtype.itemsize)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def index(manifest: Manifest, split: str, first: int, count: int) -> Iterator[dict]:
    """Lines of the index: key, name in the source, label."""
    with Path(manifest.folder, f"index/{split}.jsonl").open(encoding="ascii") as file:
        yield from map(json.loads, itertools.islice(file, first, first + count))
