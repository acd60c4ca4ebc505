"""Reads images and labels sequentially from tars with webdataset: from files, HTTP or S3.

A tar is read completely and its sha256 verified before any of its images is yielded. Memory holds
two windows of tars, and of these only the images for this process.
"""

import hashlib
import io
import tarfile
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import webdataset
from webdataset.gopen import gopen_schemes
from webdataset.tariterators import group_by_keys, tar_file_expander

from dataprep.manifest import DatasetError, Manifest, Shard
from dataprep.store import Stream
from pipeline.data.batch import Batch
from pipeline.data.cache import Cache, Copy
from pipeline.data.config import DataConfig
from pipeline.data.decode import ENDINGS, decode

CHUNK = 1 << 18


class Sample(NamedTuple):
    """One sample of a tar, encoded."""

    shard: str
    name: str
    image: bytes
    label: int


class StreamReader:
    """Reads batches by index; prefetches the next group of indices, which needs few shards."""

    def __init__(
        self,
        config: DataConfig,
        manifest: Manifest,
        resolution: int,
        split: str,
        size: int,
        workers: int,
    ):
        self.side, self.size, self.workers, self.window = resolution, size, workers, config.window
        self.patience, self.labelled = config.patience, bool(manifest.classes)
        self.shards = manifest.tars(resolution, split)
        self.ends = np.cumsum([shard.samples for shard in self.shards])
        self.cache = None
        if config.cache and config.remote:
            self.cache = Cache(Path(config.cache), int(config.cache_gib * 2**30))
        self.stopped = threading.Event()
        register_openers()

    def batches(self, indices: np.ndarray) -> Iterator[Batch]:
        """The samples at `indices`, in that order; the last batch may be smaller."""
        self.stopped = threading.Event()
        readers, decoders = (ThreadPoolExecutor(self.workers) for _ in range(2))
        try:
            pending, batch = deque(), []
            for sample in self._samples(indices, readers):
                batch.append(decoders.submit(self._decode, sample))
                if len(batch) == self.size:
                    pending.append(batch)
                    batch = []
                if len(pending) > 3:
                    yield self._batch(pending.popleft())
            for rest in [*pending, *([batch] if batch else [])]:
                yield self._batch(rest)
        finally:
            self.stopped.set()
            for pool in (readers, decoders):
                pool.shutdown(wait=False, cancel_futures=True)

    def _batch(self, pending: list[Future]) -> Batch:
        images, labels = zip(*(sample.result() for sample in pending))
        labels = torch.tensor(labels, dtype=torch.int64) if self.labelled else None
        return Batch(torch.from_numpy(np.stack(images)), labels)

    def _decode(self, sample: Sample) -> tuple[np.ndarray, int]:
        return decode(sample.image, self.side, sample.shard, sample.name), sample.label

    def _samples(self, indices: np.ndarray, pool: ThreadPoolExecutor) -> Iterator[Sample]:
        """The encoded samples at `indices`; reads the next group while it yields one."""
        numbers = np.searchsorted(self.ends, indices, "right")
        ahead = deque()
        for first, last in groups(numbers, self.window):
            wanted = defaultdict(set)
            for number, index in zip(numbers[first:last].tolist(), indices[first:last].tolist()):
                wanted[number].add(index)
            reading = [pool.submit(self._read, number, wanted[number]) for number in wanted]
            ahead.append((indices[first:last], reading))
            if len(ahead) > 1:
                yield from self._given(*ahead.popleft())
        if ahead:
            yield from self._given(*ahead.popleft())

    @staticmethod
    def _given(indices: np.ndarray, reading: list[Future]) -> Iterator[Sample]:
        found = {}
        for shard in reading:
            found |= shard.result()
        reading.clear()
        for index in indices.tolist():
            yield found[index]

    def _read(self, number: int, wanted: set[int]) -> dict[int, Sample]:
        """The samples at the indices `wanted` of a shard, from the cache if there is one."""
        shard = self.shards[number]
        first = int(self.ends[number]) - shard.samples
        wanted = {index - first for index in wanted}
        if self.cache is None:
            found = self._stream(shard, shard.path, wanted)
        else:
            with self.cache.lock(shard):
                found = self._cached(shard, wanted)
        return {first + place: sample for place, sample in found.items()}

    def _cached(self, shard: Shard, wanted: set[int]) -> dict[int, Sample]:
        path = self.cache.find(shard)
        if path is not None:
            try:
                return self._stream(shard, path, wanted)
            except DatasetError as error:
                print(f"{error}; reading {shard.path} again", flush=True)
                self.cache.drop(shard)
        copy = self.cache.begin(shard)
        try:
            found = self._stream(shard, shard.path, wanted, copy)
            self.cache.keep(shard, copy)
            return found
        finally:
            copy.leave()

    def _stream(
        self, shard: Shard, path: Path | str, wanted: set[int], copy: Copy | None = None
    ) -> dict[int, Sample]:
        """The samples at the places `wanted` in a tar, after it is verified. DatasetError."""
        try:
            source = webdataset.gopen(str(path), **self._how(shard, path))
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror}; copy it again") from None
        with source, Checked(path, source, copy) as checked:
            reason, found, count = "", {}, 0
            try:
                for sample in self._tar(path, checked):
                    if count in wanted:
                        found[count] = sample
                    count += 1
            except (tarfile.TarError, ValueError, EOFError, DatasetError) as error:
                reason = f" ({error.args[0]})"  # webdataset appends to the arguments
            checked.drain()
            checked.compare(shard)
        if reason or count != shard.samples:
            raise DatasetError(
                f"{path} holds {count} images instead of {shard.samples}{reason}: "
                "prepare the dataset again"
            )
        return found

    def _how(self, shard: Shard, path: Path | str) -> dict:
        """Arguments of the opener of a file at an address."""
        if isinstance(path, Path):
            return {}
        return {"size": shard.bytes, "patience": self.patience, "stopped": self.stopped}

    @staticmethod
    def _tar(path: Path | str, stream: io.RawIOBase) -> Iterator[Sample]:
        """The samples of a tar that have an image, by webdataset's pipeline."""
        source = {"url": str(path), "stream": io.BufferedReader(stream, CHUNK)}
        for sample in group_by_keys(tar_file_expander([source])):
            for ending in ENDINGS:
                if ending in sample:
                    name = f"{sample['__key__']}.{ending}"
                    label = int(sample.get("cls", -1))
                    yield Sample(str(path), name, sample[ending], label)
                    break


def groups(numbers: np.ndarray, window: int) -> list[tuple[int, int]]:
    """Splits `numbers` into ranges with at most `window` distinct numbers each."""
    cuts, seen = [0], set()
    for place, number in enumerate(numbers.tolist()):
        if number not in seen:
            if len(seen) == window:
                cuts.append(place)
                seen = set()
            seen.add(number)
    return list(zip(cuts, [*cuts[1:], len(numbers)]))


class Checked(io.RawIOBase):
    """A stream of the tar at `path` that hashes the bytes, and writes them to `copy` if given."""

    def __init__(self, path: Path | str, source, copy: Copy | None = None):
        self.path, self.source, self.copy = path, source, copy
        self.sha256, self.bytes = hashlib.sha256(), 0
        self.failure: str | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if self.failure is not None:
            raise DatasetError(self.failure)
        try:
            data = self.source.read(len(buffer))
        except OSError as error:
            self.failure = f"{self.path}: {error.strerror}"
        except DatasetError as error:
            self.failure = str(error)
        if self.failure is not None:
            raise DatasetError(self.failure)
        self.sha256.update(data)
        self.bytes += len(data)
        if self.copy is not None:
            self.copy.write(data)
        buffer[: len(data)] = data
        return len(data)

    def drain(self) -> None:
        """Reads the rest after the last sample; DatasetError if reading has failed."""
        while self.read(CHUNK):
            pass

    def compare(self, shard: Shard) -> None:
        """DatasetError unless size and sha256 match the manifest."""
        found = self.sha256.hexdigest()
        if self.bytes != shard.bytes or found != shard.sha256:
            raise DatasetError(
                f"{self.path} was altered or is damaged: {self.bytes} bytes of sha256 "
                f"{found[:12]} instead of {shard.bytes} of {shard.sha256[:12]}; copy it again"
            )


def register_openers() -> None:
    """Makes webdataset open addresses with `dataprep.store`.

    webdataset 1.0.2 opens http:// with curl, which hangs if a response stalls, and silently retries
    30 times if the server is down, but not if a response is cut off. A response that is cut off
    without a Content-Length is no error, and its last samples are lost. webdataset has no opener
    for s3://, and its pipe: runs a shell.
    """
    for scheme in ("http", "https", "s3", "pipe"):
        gopen_schemes[scheme] = open_stream


def open_stream(address: str, mode: str, bufsize: int, **how) -> Stream:
    return Stream(address, **how)
