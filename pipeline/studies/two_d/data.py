"""The four distributions (spec G), drawn in whole batches, and what was published for each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distribution:
    """A distribution over the plane."""

    title: str
    draw: Callable[..., Tensor]
    """`count` independent points, (count, 2), from torch's generator of the device."""
    half_range: float
    """h: metrics and figures look at [-h, h]^2."""
    beta_rec: float
    beta_kl: float
    beta_neg: float
    """The published hyper-parameters of Soft-IntroVAE."""


def eight_gaussians(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Eight centres on a circle of radius 2 / 1.414, standard deviation 0.02 / 1.414."""
    angle = torch.randint(8, (count,), device=device) * (math.pi / 4)
    centre = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return (centre + 0.02 * torch.randn(count, 2, device=device)) / 1.414


def spirals(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Two arms of one and a half turns, each the other's mirror image through the origin."""
    turn = 3 * math.pi * torch.rand(count, device=device).sqrt()
    arm = torch.stack([-turn * turn.cos(), turn * turn.sin()], 1)
    arm = (arm + 0.5 * torch.rand(count, 2, device=device)) / 3
    sign = torch.randint(2, (count, 1), device=device) * 2 - 1
    return sign * arm + 0.1 * torch.randn(count, 2, device=device)


def checkerboard(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Eight of sixteen squares of side 2 in [-4, 4]^2, uniformly."""
    x1 = 4 * torch.rand(count, device=device) - 2
    row = -2 * torch.randint(2, (count,), device=device)
    x2 = torch.rand(count, device=device) + row + x1.floor() % 2
    return 2 * torch.stack([x1, x2], 1)


def rings(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Four circles of radii 0.75, 1.5, 2.25 and 3 of equal mass, standard deviation 0.08."""
    radius = 0.75 * torch.randint(1, 5, (count, 1), device=device)
    angle = 2 * math.pi * torch.rand(count, device=device)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    return radius * circle + 0.08 * torch.randn(count, 2, device=device)


DISTRIBUTIONS = {
    "8gaussians": Distribution("8 Gaussians", eight_gaussians, 2.0, 0.2, 0.3, 0.9),
    "spirals": Distribution("Spirals", spirals, 4.0, 0.2, 0.5, 1.0),
    "checkerboard": Distribution("Checkerboard", checkerboard, 4.0, 0.2, 0.1, 0.2),
    "rings": Distribution("Rings", rings, 4.0, 0.2, 0.2, 1.0),
}
