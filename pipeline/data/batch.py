"""The batch that a reader yields."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Images and their classes: `images, labels = batch`."""

    images: Tensor
    """uint8 (B, R, R, 3) from a reader; float32 (B, 3, R, R) in [-1, 1] for training."""
    labels: Tensor | None
    """int64 (B,), indices into `Manifest.classes`; None if the dataset has no classes."""
