"""What a family of networks offers: to a training (`Networks`), and to users (`pipeline.load`).

A family is a module or package beside this one: a shape, which `pipeline.networks.Shape` lists, and
an `nn.Module` that the shape builds. Whatever is peculiar to a family (styles, noise, fade-in,
labels, the partition of batches, ranges of images) stays in it: trainer, schedule, checkpoints and
metrics use these methods alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.objective import Model

# What convolutions and linear maps compute in; parameters stay float32.
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PRECISIONS = ("fp32", "bf16", "fp64")
"""What a trained model computes in."""


class ModelError(Exception):
    """Something a model cannot do; the message says what it can."""


class ResolutionModel(Model, Protocol):
    """Networks at a resolution and at one alpha of its fade-in, as an objective's `Model`."""

    resolution: int
    device: torch.device

    def on(self, x: Tensor, labels: Tensor | None) -> "ResolutionModel":
        """The networks for a batch of images (B, 3, R, R) and their labels (B,), if there are."""

    def prepare(self, x: Tensor) -> Tensor:
        """Training images (B, 3, R, R) as the networks are to see them at this moment."""


class Shape(Protocol):
    """What a configuration says of the networks."""

    kind: str
    """Of the family."""
    resolution: int
    """Side of the largest image."""
    resolutions: list[int]
    """Sides at which the networks train, ascending."""
    classes: int
    """Classes that the networks are told; 0 where they are not."""
    WHOLE_BATCHES: str | None
    """Why the networks cannot compute a batch in parts, where they cannot."""


Images = Callable[[int, int], Iterator[tuple[Tensor, Tensor | None]]]
"""(batches, size) to so many batches of training images (size, 3, R, R) and labels (size,)."""


class Networks(Protocol):
    """The networks of a family: an `nn.Module` whose state is what a checkpoint holds."""

    DERIVED: tuple[str, ...]
    """Names of the tensors that `derived` gives."""
    device: torch.device

    def initialize(self, seed: int) -> None:
        """Draws the initial weights, each by its name: larger networks begin with the same."""

    def parameters_at(self, resolution: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters that train at `resolution`: the encoder's, and the decoder's."""

    def training_at(self, resolution: int, alpha: float, precision: str) -> ResolutionModel:
        """The networks as they are trained, computing in `precision`, a key of DTYPES."""

    def stepped(self, images: int, batch: int) -> None:
        """Called after each step of both networks, of `batch` images, with the images seen."""

    def derived(self, images: Images) -> dict[str, Tensor]:
        """Tensors that follow from the weights, and from training images where a family needs them;
        saved with the averaged weights."""

    def at(
        self, resolution: int, alpha: float, derived: dict[str, Tensor], precision: str = "fp32"
    ) -> ResolutionModel:
        """The networks as they are measured and shown."""

    def trained(self, derived: dict[str, Tensor], about: dict[str, Any], precision: str) -> Any:
        """The model that `pipeline.load` gives: of a checkpoint's `derived` tensors (empty where it
        has none) and `checkpoint.json`, in one of PRECISIONS. Its `measured` is what `at` gives."""


def autocast(device: torch.device, precision: str):
    """The context in which networks compute in `precision`, a key of DTYPES."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def full_precision(x: Tensor) -> Tensor:
    """`x` in at least float32: statistics, norms and sums are never taken in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


@contextmanager
def casts_kept() -> Iterator[None]:
    """Each weight is cast to half precision once in here, not once for each pass.

    Not to be held over a change of the weights.
    """
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
