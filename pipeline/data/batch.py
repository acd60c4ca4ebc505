"""What a reader yields."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Images and their classes: `images, labels = batch`."""

    images: Tensor
    """uint8 (B, R, R, 3) as read; float32 (B, 3, R, R) in [-1, 1] as training gets them."""
    labels: Tensor | None
    """int64 (B,), numbers of `Manifest.classes`; None where the dataset has none."""
