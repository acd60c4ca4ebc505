"""Reads training and test images from a prepared dataset: with FFCV, from local tars, or from tars
at an address.

All readers give the same images for the same indices; `pipeline.data.order` gives the indices.
"""

import os
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from dataprep.manifest import Manifest
from pipeline.data import order
from pipeline.data.batch import Batch
from pipeline.data.config import DataConfig
from pipeline.data.ffcv import FFCVReader
from pipeline.data.streaming import StreamReader
from pipeline.data.tars import TarReader

SEGMENT = 1 << 17  # images of one process whose order is computed at a time


def reader(config: DataConfig, manifest: Manifest, resolution: int, split: str, size: int):
    """A reader of batches of `size` samples of one resolution and split, by index."""
    workers = min(config.workers, os.cpu_count() or 1)
    if config.loader == "webdataset" and (config.remote or config.order == "shards"):
        return StreamReader(config, manifest, resolution, split, size, workers)
    if config.loader == "ffcv":
        manifest.check_beton(resolution, split)
        return FFCVReader(manifest, resolution, split, size, workers)
    return TarReader(manifest, resolution, split, size, workers)


def to_float(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, R, R, 3) to float32 (B, 3, R, R) in [-1, 1] on `device`, channels last."""
    return sent(images, device).permute(0, 3, 1, 2).float() / 127.5 - 1


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; copies to a GPU asynchronously, from page-locked memory."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


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
) -> Iterator[Batch]:
    """The micro-batches at the positions `starts`: x (micro_batch, 3, R, R) and labels."""
    source = reader(config, manifest, resolution, "train", micro_batch)
    size, offsets = manifest.count("train"), np.arange(micro_batch)
    shards = None
    if config.order == "shards":
        counts = tuple(shard.samples for shard in manifest.tars(resolution, "train"))
        shards = order.Shards(counts, config.window)
    while segment := list(islice(starts, max(1, SEGMENT // micro_batch))):
        positions = (np.array(segment)[:, None] + offsets).ravel()
        indices, flips = order.samples(seed, positions, size, shards)
        flips = torch.from_numpy(flips & config.flip).view(-1, micro_batch, 1, 1, 1)
        for batch, mirrored in zip(source.batches(indices), flips, strict=True):
            x, labels = on_device(batch, device)
            yield Batch(torch.where(sent(mirrored, device), x.flip(3), x), labels)


def split_images(
    config: DataConfig,
    manifest: Manifest,
    resolution: int,
    split: str,
    indices: np.ndarray,
    size: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Samples of a split at `indices`: x (up to size, 3, R, R), not mirrored, and labels."""
    for batch in reader(config, manifest, resolution, split, size).batches(indices):
        yield on_device(batch, device)


def drawn_images(
    config: DataConfig,
    manifest: Manifest,
    resolution: int,
    seed: int,
    device: torch.device,
    batches: int,
    size: int,
) -> Iterator[Batch]:
    """Up to `batches` batches of `size` random training images, without repetition or mirroring.

    A training split smaller than `size` is one batch.
    """
    count = manifest.count("train")
    indices = np.random.default_rng(seed).permutation(count)[: batches * size]
    whole = max(len(indices) // size * size, min(size, count))
    return split_images(config, manifest, resolution, "train", indices[:whole], size, device)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """uint8 images as floats in [-1, 1] (`to_float`), and labels, both on `device`."""
    images, labels = batch
    return Batch(to_float(images, device), None if labels is None else sent(labels, device))
