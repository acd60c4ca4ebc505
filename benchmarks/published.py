"""The operations of the published layers, as a baseline of `benchmarks/step.py` for a step's cost.

Bias, noise, leaky ReLU, instance norm and style are separate operations of torch, each layer has
matrix products of its own for its styles, resampling convolutions are fused from 128 px on, and
feature maps are contiguous. The results are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.networks.style import decoder, encoder, layers


def norm(
    x: Tensor,
    bias: Tensor,
    eps: float,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    style: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `pipeline.networks.style.norm.norm`; mean and variance are zero-sized with a style."""
    if noise is not None:
        x = torch.addcmul(x, strength, noise)
    x = F.leaky_relu(x + bias, 0.2)
    if style is None:
        mean = x.mean((2, 3), keepdim=True)
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        return F.instance_norm(x, eps=eps), mean, variance
    x = F.instance_norm(x, eps=eps)
    scale, shift = style[:, :, None, None].chunk(2, dim=1)
    return torch.addcmul(shift, x, scale + 1), shift.new_empty(0), shift.new_empty(0)


def blur(x: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype, device=x.device) / 4
    kernel = kernel.outer(kernel).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def side_by_side(maps: list[layers.Linear], w: Tensor) -> Tensor:
    return torch.cat([each(w) for each in maps], dim=1)


def features_of(blocks: list[encoder.EncoderBlock], statistics: list[encoder.Statistics]) -> Tensor:
    maps = [each for block in blocks for each in (block.style_1, block.style_2)]
    features = []
    for each, (mean, variance) in zip(maps, statistics, strict=True):
        deviation = layers.standard_deviation(variance)
        features.append(each(torch.cat([mean, deviation], dim=1).flatten(1)))
    return reduce(torch.add, features)


@contextmanager
def layers_as_published() -> Iterator[None]:
    """Inside, encoder and decoder use the published operations."""
    replaced = {
        (encoder, "norm"): norm,
        (decoder, "norm"): norm,
        (encoder, "blur"): blur,
        (decoder, "blur"): blur,
        (encoder, "layout"): lambda device, channels: torch.contiguous_format,
        (decoder, "layout"): lambda device, channels: torch.contiguous_format,
        (encoder, "features_of"): features_of,
        (decoder, "side_by_side"): side_by_side,
        (layers, "FUSED_FROM"): 128,
    }
    patches = [patch.object(*place, value) for place, value in replaced.items()]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()
