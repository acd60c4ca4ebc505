"""Differentiable augmentation of the encoder's input (spec F)."""

import torch
import torch.nn.functional as F
from torch import Tensor

PROBABILITY = 0.5
SHIFT = 1 / 8  # of the side, at most
AREA, ASPECT = (
    (0.0, 0.5),
    (0.3, 3.3),
)  # of the erased rectangle: share of the image, height to width


def augment(x: Tensor) -> Tensor:
    """Shifts half of the images x (B, C, R, R), and erases a rectangle in half; fills with 0.

    The gradient passes through the remaining pixels.
    """
    return erase(shift(x))


def shift(x: Tensor) -> Tensor:
    """Shifts half of the images by fractions of a pixel, bilinearly."""
    chosen = (_uniform(x, 0, 1) < PROBABILITY).to(x.dtype)
    theta = torch.eye(2, 3, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    # The unit is half the image's side: the image spans -1 to 1.
    theta[:, :, 2] = 2 * torch.stack([_uniform(x, -SHIFT, SHIFT) for _ in range(2)], 1)
    theta[:, :, 2] *= chosen[:, None]
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def erase(x: Tensor) -> Tensor:
    """Erases one rectangle inside the image, in half of the images."""
    side = x.shape[-1]
    chosen = _uniform(x, 0, 1) < PROBABILITY
    area, aspect = _uniform(x, *AREA) * side**2, _uniform(x, *ASPECT)
    height = (area * aspect).sqrt().clamp(max=side)
    width = (area / aspect).sqrt().clamp(max=side)
    top, left = _uniform(x, 0, 1) * (side - height), _uniform(x, 0, 1) * (side - width)
    pixels = torch.arange(side, dtype=x.dtype, device=x.device) + 0.5
    rows = (pixels > top[:, None]) & (pixels < (top + height)[:, None])
    columns = (pixels > left[:, None]) & (pixels < (left + width)[:, None])
    erased = rows[:, None, :, None] & columns[:, None, None, :] & chosen[:, None, None, None]
    return x.masked_fill(erased, 0)


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    """A uniform draw per image, (B,)."""
    return torch.empty(len(x), dtype=x.dtype, device=x.device).uniform_(low, high)
