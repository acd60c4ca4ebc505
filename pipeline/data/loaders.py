"""Images to train on and to measure by, read from a prepared dataset with FFCV or from its tars.

Both readers give the same images for the same indices; which indices, `pipeline.data.order` says.
"""

import os
import resource
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from dataprep.manifest import DatasetError, Manifest
from pipeline.data import order

SEGMENT = 1 << 17  # images of one process for which the order is laid out at a time


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DataConfig:
    """The dataset and how it is read."""

    path: str
    """The folder that dataprep/shard.py made."""
    loader: Literal["ffcv", "webdataset"] = "ffcv"
    flip: bool = True
    """Mirror half of the images, drawn anew in each pass over the data."""
    workers: Annotated[int, Field(ge=1)] = 4
    """Threads of each process that read and decode."""


def reader(config: DataConfig, manifest: Manifest, resolution: int, split: str, size: int):
    """What reads batches of `size` images of one resolution and split: see `FFCVReader`."""
    manifest.check(resolution)
    workers = min(config.workers, os.cpu_count())
    if config.loader == "ffcv":
        return FFCVReader(manifest, resolution, split, size, workers)
    return WebDatasetReader(manifest, resolution, split, size, workers)


class FFCVReader:
    """Batches of uint8 RGB images (size, R, R, 3) by index, read ahead by FFCV's threads."""

    def __init__(self, manifest: Manifest, resolution: int, split: str, size: int, workers: int):
        with torch_threads():
            from ffcv.fields.decoders import SimpleRGBImageDecoder  # compiles for seconds
            from ffcv.loader import Loader, OrderOption, epoch_iterator
            from ffcv.transforms import ToTensor

            # These pipelines stay on the CPU; FFCV's threads would claim memory of the first GPU.
            epoch_iterator.IS_CUDA = False
            self.loader = Loader(
                str(manifest.beton(resolution, split)),
                batch_size=size,
                num_workers=workers,
                os_cache=True,
                order=OrderOption.SEQUENTIAL,
                drop_last=False,
                pipelines={"image": [SimpleRGBImageDecoder(), ToTensor()], "label": None},
            )

    def batches(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The images at `indices`, in that order; the last batch may be smaller.

        A batch is valid until the next is asked for: FFCV uses its memory again.
        """
        # FFCV takes an order of its own making by name only; the loader reads it from here.
        self.loader.traversal_order.indices = indices
        self.loader.first_traversal_order = indices
        with torch_threads():
            batches = iter(self.loader)
        for (images,) in batches:
            yield images


@contextmanager
def torch_threads() -> Iterator[None]:
    """Gives torch back its number of threads: FFCV sets it to that of its own readers."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class WebDatasetReader:
    """Batches of uint8 RGB images (size, R, R, 3) by index, from the tars at their offsets."""

    def __init__(self, manifest: Manifest, resolution: int, split: str, size: int, workers: int):
        self.size, self.workers, self.members, self.files = size, workers, [], []
        allow_files()
        for shard in manifest.tars(resolution, split):
            found = list(self._members(shard.path))
            if len(found) != shard.samples:
                raise DatasetError(
                    f"{shard.path} holds {len(found)} images instead of {shard.samples}: "
                    "copy it again, or prepare the dataset again"
                )
            self.members += found

    def _members(self, path):
        """(file descriptor, path, name, offset, bytes) of each image in a tar, in order."""
        file = path.open("rb", buffering=0)
        self.files.append(file)  # to be closed with this reader
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.name.endswith((".cls", ".json")):
                    yield file.fileno(), path, member.name, member.offset_data, member.size

    def batches(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The images at `indices`, in that order; the last batch may be smaller."""
        pending = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for first in range(0, len(indices), self.size):
                chosen = indices[first : first + self.size]
                pending.append([pool.submit(self._decode, i) for i in chosen])
                if len(pending) > 3:
                    yield self._stack(pending.popleft())
            while pending:
                yield self._stack(pending.popleft())

    @staticmethod
    def _stack(images) -> Tensor:
        return torch.from_numpy(np.stack([image.result() for image in images]))

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


def to_float(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, R, R, 3) to float32 (B, 3, R, R) in [-1, 1] on `device`, channels last inside."""
    return images.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """(B, 3, R, R) about [-1, 1] to uint8 of the same shape, clipped and rounded."""
    return (x * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)


def training_images(
    config: DataConfig,
    manifest: Manifest,
    resolution: int,
    seed: int,
    starts: Iterator[int],
    micro_batch: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """The micro-batches (micro_batch, 3, R, R) that begin at the positions `starts`."""
    source = reader(config, manifest, resolution, "train", micro_batch)
    size, offsets = manifest.count("train"), np.arange(micro_batch)
    while segment := list(islice(starts, max(1, SEGMENT // micro_batch))):
        positions = (np.array(segment)[:, None] + offsets).ravel()
        indices, flips = order.samples(seed, positions, size)
        flips = torch.from_numpy(flips & config.flip).view(-1, micro_batch, 1, 1, 1)
        for images, mirrored in zip(source.batches(indices), flips, strict=True):
            x = to_float(images, device)
            yield torch.where(mirrored.to(device), x.flip(3), x)


def split_images(
    config: DataConfig,
    manifest: Manifest,
    resolution: int,
    split: str,
    indices: np.ndarray,
    size: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """The images of a split at `indices`, float (size or fewer, 3, R, R), not mirrored."""
    for images in reader(config, manifest, resolution, split, size).batches(indices):
        yield to_float(images, device)
