"""Reads images and labels from local tars by offset.

A dataset may have any number of tars: few are open at a time, and a tar is indexed when one of its
images is first needed.
"""

import os
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from dataprep.manifest import DatasetError, Manifest, Shard
from pipeline.data.batch import Batch
from pipeline.data.decode import decode, ending_of, is_image

OPEN = 16  # tars that a reader keeps open
MEMBER = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4")])


class TarReader:
    """Reads batches by index; threads decode ahead."""

    def __init__(self, manifest: Manifest, resolution: int, split: str, size: int, workers: int):
        self.side, self.size, self.workers = resolution, size, workers
        self.labelled = bool(manifest.classes)
        self.shards = manifest.tars(resolution, split)
        self.ends = np.cumsum([shard.samples for shard in self.shards])
        self.members: dict[int, np.ndarray] = {}  # of the shards used so far
        self.opened = lru_cache(OPEN)(File)

    def batches(self, indices: np.ndarray) -> Iterator[Batch]:
        """The samples at `indices`, in that order; the last batch may be smaller."""
        pending = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for first in range(0, len(indices), self.size):
                chosen = indices[first : first + self.size]
                pending.append([pool.submit(self._sample, i) for i in chosen])
                if len(pending) > 3:
                    yield self._batch(pending.popleft())
            while pending:
                yield self._batch(pending.popleft())

    def _batch(self, pending) -> Batch:
        images, labels = zip(*(sample.result() for sample in pending))
        labels = torch.tensor(labels, dtype=torch.int64) if self.labelled else None
        return Batch(torch.from_numpy(np.stack(images)), labels)

    def _sample(self, index: int) -> tuple[np.ndarray, int]:
        number = int(np.searchsorted(self.ends, index, "right"))
        shard = self.shards[number]
        file = self.opened(shard)
        if number not in self.members:  # two threads may both compute it, with equal results
            self.members[number] = members(shard)
        offset, size, label = self.members[number][index - self.ends[number]].tolist()
        data = file.read(offset, size)
        return decode(data, self.side, shard.path, Name(shard.path, offset)), label


class File:
    """An open tar; closed with its last reference, which may outlive its entry in the cache."""

    def __init__(self, shard: Shard):
        self.descriptor = None
        try:
            self.descriptor = os.open(shard.path, os.O_RDONLY)
        except OSError as error:
            raise DatasetError(f"{shard.path}: {error.strerror}; copy it again") from None
        size = os.fstat(self.descriptor).st_size
        if size != shard.bytes:
            raise DatasetError(
                f"{shard.path} has {size} bytes instead of {shard.bytes}: copy it again"
            )

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def __del__(self):
        if self.descriptor is not None:
            os.close(self.descriptor)


class Name:
    """The name of the image at an offset of a tar, looked up when it is printed."""

    def __init__(self, path: Path | str, offset: int):
        self.path, self.offset = path, offset

    def __str__(self) -> str:
        with tarfile.open(self.path, "r:") as tar:
            return next(member.name for member in tar if member.offset_data == self.offset)


def members(shard: Shard) -> np.ndarray:
    """Offsets, sizes and labels (-1 if none) of the images of a tar: (samples,) of MEMBER."""
    found, labels = [], {}
    try:
        with tarfile.open(shard.path, "r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps a list of all that it has seen
                key = member.name[: len(member.name) - len(ending_of(member.name))]
                if is_image(member.name):
                    found.append((key, member.offset_data, member.size))
                elif ending_of(member.name) == "cls":
                    labels[key] = int(tar.extractfile(member).read())
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DatasetError(
            f"{shard.path} is damaged ({error}): copy it again, or prepare the dataset again"
        ) from None
    if len(found) != shard.samples:
        raise DatasetError(
            f"{shard.path} holds {len(found)} images instead of {shard.samples}: "
            "copy it again, or prepare the dataset again"
        )
    return np.array([(*where, labels.get(key, -1)) for key, *where in found], MEMBER)
