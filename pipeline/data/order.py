"""Which image comes when: a pure function of (seed, images seen), whatever reads it and wherever.

Positions count the images that a training sees, from 0 and without end. Each pass over the data
has a permutation and a set of flips of its own. A step sees the `batch` positions from where it
starts; they fall into micro-batches of neighbours, and micro-batch j of each step belongs to the
process of rank j modulo the number of processes.
"""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One pass over `size` images: their order, and which of the positions are mirrored."""
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    return rng.permutation(size), rng.random(size) < 0.5


def samples(seed: int, positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The images at `positions` of a training on `size` images: indices, and whether mirrored."""
    indices, flips = np.empty(len(positions), np.int64), np.empty(len(positions), bool)
    epochs, places = np.divmod(positions, size)
    for epoch in np.unique(epochs):
        order, mirrored = _epoch(seed, int(epoch), size)
        chosen = epochs == epoch
        indices[chosen], flips[chosen] = order[places[chosen]], mirrored[places[chosen]]
    return indices, flips


def starts(first: int, last: int, batch: int, micro_batch: int, rank: int, world: int):
    """Where the micro-batches of one process start, in steps from `first` up to `last` images."""
    for step in range(first, last, batch):
        yield from range(step + rank * micro_batch, step + batch, world * micro_batch)
