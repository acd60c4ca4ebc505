"""Images and labels from local tars, at their offsets."""

import os
import resource
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from dataprep.manifest import DatasetError, Manifest
from pipeline.data.batch import Batch


class TarReader:
    """Batches by index, decoded ahead by threads."""

    def __init__(self, manifest: Manifest, resolution: int, split: str, size: int, workers: int):
        self.size, self.workers, self.members, self.files = size, workers, [], []
        self.labelled, labels = bool(manifest.classes), []
        allow_files()
        for shard in manifest.tars(resolution, split):
            found = list(self._members(shard.path, labels))
            if len(found) != shard.samples:
                raise DatasetError(
                    f"{shard.path} holds {len(found)} images instead of {shard.samples}: "
                    "copy it again, or prepare the dataset again"
                )
            self.members += found
        self.labels = torch.tensor(labels, dtype=torch.int64) if self.labelled else None

    def _members(self, path, labels):
        """(file descriptor, path, name, offset, bytes) of each image in a tar, in order."""
        file = path.open("rb", buffering=0)
        self.files.append(file)  # to be closed with this reader
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.endswith(".cls"):
                    labels.append(int(tar.extractfile(member).read()))
                elif not member.name.endswith(".json"):
                    yield file.fileno(), path, member.name, member.offset_data, member.size

    def batches(self, indices: np.ndarray) -> Iterator[Batch]:
        """The samples at `indices`, in that order; the last batch may be smaller."""
        pending = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for first in range(0, len(indices), self.size):
                chosen = indices[first : first + self.size]
                labels = self.labels[chosen] if self.labelled else None
                pending.append(([pool.submit(self._decode, i) for i in chosen], labels))
                if len(pending) > 3:
                    yield self._batch(*pending.popleft())
            while pending:
                yield self._batch(*pending.popleft())

    @staticmethod
    def _batch(images, labels) -> Batch:
        return Batch(torch.from_numpy(np.stack([image.result() for image in images])), labels)

    def _decode(self, index: int) -> np.ndarray:
        descriptor, path, name, offset, size = self.members[index]
        try:
            with Image.open(BytesIO(os.pread(descriptor, size, offset))) as image:
                return np.asarray(image)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise DatasetError(
                f"{path}: {name} cannot be decoded ({error}); find all damage with "
                f"dataprep/shard.py --verify"
            ) from None


def allow_files() -> None:
    """Lets this process keep as many files open as it may: a dataset can have thousands of tars."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
