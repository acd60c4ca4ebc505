"""Which image comes when: a pure function of (seed, images seen), whatever reads it and wherever.

Positions count the images that a training sees, from 0 and without end. Each pass over the data
has a permutation and a set of flips of its own. A step sees the `batch` positions from where it
starts; they fall into micro-batches of neighbours, and micro-batch j of each step belongs to the
process of rank j modulo the number of processes.

The permutation is of all images, or, so that they can be read in sequence, of the shards that hold
them, and then of the images in each window of several shards.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Shards:
    """The order in which images are read in sequence."""

    samples: tuple[int, ...]
    """Images in each shard."""
    window: int
    """Shards that are mixed with each other."""

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """All images, (N,) int64: shards in random order, mixed by the window."""
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
    """One pass over `size` images: their order, and which of the positions are mirrored."""
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(size) if shards is None else shards.permutation(rng)
    return order, rng.random(size) < 0.5


def samples(
    seed: int, positions: np.ndarray, size: int, shards: Shards | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The images at `positions` of a training on `size` images: indices, and whether mirrored."""
    indices, flips = np.empty(len(positions), np.int64), np.empty(len(positions), bool)
    epochs, places = np.divmod(positions, size)
    for epoch in np.unique(epochs):
        order, mirrored = _epoch(seed, int(epoch), size, shards)
        chosen = epochs == epoch
        indices[chosen], flips[chosen] = order[places[chosen]], mirrored[places[chosen]]
    return indices, flips


def starts(first: int, last: int, batch: int, micro_batch: int, rank: int, world: int):
    """Where the micro-batches of one process start, in steps from `first` up to `last` images."""
    for step in range(first, last, batch):
        yield from range(step + rank * micro_batch, step + batch, world * micro_batch)
