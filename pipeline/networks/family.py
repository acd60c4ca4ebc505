"""The interface of a family of networks, for training (`Networks`) and users (`pipeline.load`).

A family is a package beside this module: a shape, which `pipeline.networks.Shape` lists, and an
`nn.Module` built from the shape. Trainer, schedule, checkpoints and metrics use only these methods.
Styles, noise, fade-in, labels, the partition of batches and the range of pixel values are internal
to the family.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.objective import Model

# Precision of convolutions and linear maps in training; parameters are float32.
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PRECISIONS = ("fp32", "bf16", "fp64")
"""Precisions of a trained model."""


Alpha = float | Tensor
"""Weight of a fade-in. A tensor () is below 1, and its value may change between replays."""


class ModelError(Exception):
    """A request that the model does not support; the message names the supported ones."""


class ResolutionModel(Model, Protocol):
    """Networks at one resolution and one alpha of its fade-in: an objective's `Model`."""

    resolution: int
    device: torch.device

    def on(self, x: Tensor, labels: Tensor | None) -> "ResolutionModel":
        """The networks for a batch of images (B, 3, R, R) and their labels (B,), if any."""

    def prepare(self, x: Tensor) -> Tensor:
        """Training images (B, 3, R, R) as input of the networks, faded in like their outputs."""


class Shape(Protocol):
    """The section `shape` of a configuration."""

    kind: str
    """Name of the family."""
    resolution: int
    """Side of the largest image."""
    resolutions: list[int]
    """Sides at which the networks train, ascending."""
    classes: int
    """Number of classes that condition the networks; 0 is unconditional."""
    WHOLE_BATCHES: str | None
    """The reason why a batch cannot be split into micro-batches; None if it can."""


Images = Callable[[int, int], Iterator[tuple[Tensor, Tensor | None]]]
"""(batches, size) to that number of batches: training images (size, 3, R, R), labels (size,)."""


class Networks(Protocol):
    """The networks of a family: an `nn.Module` whose state is what a checkpoint holds."""

    DERIVED: tuple[str, ...]
    """Names of the tensors that `derived` gives."""
    device: torch.device

    def initialize(self, seed: int) -> None:
        """Draws the initial weights, deterministic in `seed`."""

    def parameters_at(self, resolution: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters that train at `resolution`: the encoder's and the decoder's."""

    def training_at(self, resolution: int, alpha: Alpha, precision: str) -> ResolutionModel:
        """The networks for training, in `precision`, a key of DTYPES."""

    def stepped(self, images: int, batch: int) -> None:
        """The trainer calls this after each step of `batch` images, with the images seen."""

    def derived(self, images: Images) -> dict[str, Tensor]:
        """Tensors computed from the weights, and from training images if a family needs them; saved
        with the averaged weights."""

    def at(
        self, resolution: int, alpha: float, derived: dict[str, Tensor], precision: str = "fp32"
    ) -> ResolutionModel:
        """The networks for evaluation and pictures."""

    def trained(self, derived: dict[str, Tensor], about: dict[str, Any], precision: str) -> Any:
        """The model that `pipeline.load` returns, in one of PRECISIONS. `derived` are the derived
        tensors of the checkpoint, or {}; `about` is its checkpoint.json. Its attribute `measured`
        is the result of `at`."""


def autocast(device: torch.device, precision: str):
    """The context in which networks compute in `precision`, a key of DTYPES."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def full_precision(x: Tensor) -> Tensor:
    """`x` in at least float32, for statistics, norms and sums."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


_kept: dict | None = None


@contextmanager
def weights_kept() -> Iterator[None]:
    """Prepares each weight once inside the context, not once per pass: casts it to half precision,
    and what `kept` computes.

    The weights must not change inside the context.
    """
    global _kept
    before, _kept = _kept, {}
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        _kept = before
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def kept(key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
    """`compute()`; inside `weights_kept` the first result for `key`, with its graph."""
    if _kept is None:
        return compute()
    key = (key, torch.is_grad_enabled())
    if key not in _kept:
        _kept[key] = compute()
    return _kept[key]


def prior(count: int, latent: int, seed: int | None) -> Tensor:
    """Draws of z, (count, latent), on the CPU. For a seed, the first n are equal for every count.

    (torch.randn of a larger size begins with other numbers.)
    """
    generator = torch.default_generator
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(latent, generator=generator) for _ in range(count)])


def check_images(x: Tensor, side: int) -> None:
    """ModelError if x is not of shape (B, 3, side, side)."""
    if x.dim() != 4 or x.shape[1:] != (3, side, side):
        raise ModelError(f"images must have shape (B, 3, {side}, {side}), not {tuple(x.shape)}")


def check_latents(z: Tensor, latent: int) -> None:
    """ModelError if z is not of shape (N, latent)."""
    if z.dim() != 2 or z.shape[1] != latent:
        raise ModelError(f"latents must have shape (N, {latent}), not {tuple(z.shape)}")


def check_fixed(resolution: int, alpha: float | None, only: int) -> None:
    """ModelError if networks of the one resolution `only` are asked for another, or to fade."""
    if resolution != only or alpha not in (None, 1):
        raise ModelError(
            f"the networks have one resolution, {only}, and alpha 1, not {resolution} and {alpha}"
        )
