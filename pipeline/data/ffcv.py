"""Reads images and labels from a beton with FFCV."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from dataprep.manifest import DatasetError, Manifest
from pipeline.data.batch import Batch
from pipeline.data.decode import AGAIN, sample


class FFCVReader:
    """Reads batches by index; FFCV's threads prefetch."""

    def __init__(self, manifest: Manifest, resolution: int, split: str, size: int, workers: int):
        with torch_threads():
            from ffcv.loader import Loader, OrderOption, epoch_iterator  # compiles for seconds
            from ffcv.transforms import ToTensor

            from pipeline.data.ffcv_decoder import CheckedDecoder, check_tables

            # These pipelines run on the CPU; FFCV's threads would allocate on the first GPU.
            epoch_iterator.IS_CUDA = False
            self.path, self.decoder = manifest.beton(resolution, split), CheckedDecoder()
            self.loader = Loader(
                str(self.path),
                batch_size=size,
                num_workers=workers,
                os_cache=True,
                order=OrderOption.SEQUENTIAL,
                drop_last=False,
                pipelines={"image": [self.decoder, ToTensor()], "label": None},
            )
        # FFCV holds the samples' metadata in memory. A label pipeline would need compilation.
        reader = self.loader.reader
        check_tables(reader, self.path, resolution)
        field = f"f{reader.field_names.index('label')}"
        self.labels = torch.from_numpy(reader.metadata[field].copy()) if manifest.classes else None

    def batches(self, indices: np.ndarray) -> Iterator[Batch]:
        """The samples at `indices`, in that order; the last batch may be smaller.

        The images of a batch are valid until the next batch: FFCV reuses their memory.
        """
        # FFCV's API accepts named orders only; the loader reads the indices from here.
        self.loader.traversal_order.indices = indices
        self.loader.first_traversal_order = indices
        with torch_threads():
            batches = iter(self.loader)
        done = 0
        for (images,) in batches:
            self._check()
            chosen = indices[done : done + len(images)]
            done += len(images)
            yield Batch(images, None if self.labels is None else self.labels[chosen])

    def _check(self) -> None:
        """DatasetError if an image of this batch or of a prefetched one cannot be decoded.

        Damage of raw pixels goes undetected here; dataprep/shard.py --verify finds it.
        """
        if (number := int(self.decoder.damaged[0])) >= 0:
            raise DatasetError(f"{self.path}: {sample(number)} cannot be decoded; {AGAIN}")


@contextmanager
def torch_threads() -> Iterator[None]:
    """Restores torch's number of threads, which FFCV sets to the number of its readers."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
