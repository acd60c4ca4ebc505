"""The memory that a process needs for a step, counted; and the largest micro-batch that fits.

The count (`pipeline.ledger`) is linear in images, so two small ones give all others. It has
weights, activations and gradients. Added are four float32 copies of the weights: the average,
Adam's state, and the buffers of a reduction. Not counted are cuDNN's workspaces, fragments and the
CUDA context: they have the rest of USABLE.
"""

from functools import cache
from typing import NamedTuple, TypeGuard

from pipeline import ledger
from pipeline.networks.style.shape import Shape
from pipeline.objective import Objective

GIB = 2**30
USABLE = 0.8
"""Of a card's memory. A step of 16 images at 256x256 took 10.0 GiB on a GPU; the count is 9.45."""
LEAST, MORE = 2, 4  # images of the two counts
BYTES = 400.0  # of `bound` for each value of a feature map: more than any count


class Step(NamedTuple):
    """Bytes that a process needs for a step at one resolution."""

    fixed: float
    image: float
    """For each image of a micro-batch."""
    kept_fixed: float
    """For each of a step's other micro-batches: decoded images wait for the decoder's update."""
    kept_image: float
    """For each image of those."""

    def of(self, images: int, micro_batches: int) -> float:
        """With so many images in a micro-batch, and so many micro-batches of this process."""
        kept = self.kept_fixed + images * self.kept_image
        return self.fixed + images * self.image + (micro_batches - 1) * kept


def countable(shape: object) -> TypeGuard[Shape]:
    """Whether the ledger counts this family of networks."""
    return isinstance(shape, Shape)


@cache
def step(
    shape: Shape, objective: Objective, resolution: int, precision: str, kernels: bool
) -> Step:
    """The memory of a step, 2 to 5 seconds of counting.

    `kernels` as of `ledger.micro_batch`: true on a GPU.
    """
    little, more = (
        ledger.micro_batch(shape, objective, resolution, images, precision, kernels)
        for images in (LEAST, MORE)
    )
    image = (more.peak - little.peak) / (MORE - LEAST)
    kept = (more.kept - little.kept) / (MORE - LEAST)
    return Step(
        little.peak - LEAST * image + 4 * little.weights,
        image,
        little.kept - LEAST * kept - little.weights - little.gradients,
        kept,
    )


def bound(shape: Shape, resolution: int, images: int) -> float:
    """An upper bound of `Step.of` for `images` images of a step in all, without counting."""
    sides = [side for side in shape.resolutions if side <= resolution]
    values = sum(side**2 * shape.channels(side) for side in sides)
    widest = shape.channels(4)
    weights = sum(2 * 12 * widest * shape.channels(side) for side in shape.resolutions)
    weights += 2 * 16 * shape.latent * (shape.latent + widest)
    return BYTES * values * images + 8 * 4 * weights
