"""The order of training images: a pure function of (seed, images seen), the same for all readers.

Positions count the images that a training sees, from 0 without end. Each epoch has its own
permutation and mirror flags. A step takes the next `batch` positions and splits them into
contiguous micro-batches; micro-batch j of a step belongs to rank j modulo the number of processes.

The permutation shuffles all images, or, for sequential reading, the shards and then the images in
each window of several shards.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Shards:
    """The order of images for sequential reading."""

    samples: tuple[int, ...]
    """Number of images in each shard."""
    window: int
    """Number of shards whose images are shuffled together."""

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """All images, (N,) int64: shards in random order, images shuffled within each window."""
        ends = np.cumsum(self.samples)
        chosen, order = rng.permutation(len(ends)), []
        for first in range(0, len(chosen), self.window):
            shards = chosen[first : first + self.window]
            images = [np.arange(ends[i] - self.samples[i], ends[i]) for i in shards]
            order.append(rng.permutation(np.concatenate(images)))
        return np.concatenate(order)


@lru_cache(maxsize=2)
def _epoch(
    seed: int, epoch: int, size: int, shards: Shards | None
) -> tuple[np.ndarray, np.ndarray]:
    """One epoch of `size` images: their order, and a mirror flag per position."""
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(size) if shards is None else shards.permutation(rng)
    return order, rng.random(size) < 0.5


def samples(
    seed: int, positions: np.ndarray, size: int, shards: Shards | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The images at `positions` of a training on `size` images: indices and mirror flags, (P,)."""
    indices, flips = np.empty(len(positions), np.int64), np.empty(len(positions), bool)
    epochs, places = np.divmod(positions, size)
    for epoch in np.unique(epochs):
        order, mirrored = _epoch(seed, int(epoch), size, shards)
        chosen = epochs == epoch
        indices[chosen], flips[chosen] = order[places[chosen]], mirrored[places[chosen]]
    return indices, flips


def starts(first: int, last: int, batch: int, micro_batch: int, rank: int, world: int):
    """The start positions of one process's micro-batches, for steps from `first` to `last`."""
    for step in range(first, last, batch):
        yield from range(step + rank * micro_batch, step + batch, world * micro_batch)
