"""The style encoder: image to mean and log-variance of its latent (spec A.5, A.6)."""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.family import Alpha, full_precision
from pipeline.networks.style.layers import (
    Linear,
    blend,
    blur,
    conv,
    conv_weight,
    downsample_conv,
    fades,
    leaky_relu,
    parameter,
    share,
    standard_deviation,
    sum_of,
)
from pipeline.networks.style.norm import layout, norm
from pipeline.networks.style.shape import Shape

Statistics = list[Tensor]
"""Mean and variance, (B, C, 1, 1), that the norm removes from a layer."""


class FromRGB(nn.Module):
    """1x1 convolution (B, 3, R, R) to (B, C, R, R) with two leaky ReLUs, as published."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = conv_weight(3, channels, 1)
        self.bias = parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(F.conv2d(x, self.weight, self.bias), 0.2 * 0.2)


class EncoderBlock(nn.Module):
    """(B, C, R, R) to (B, C', R/2, R/2) and the statistics of its two layers.

    Each layer's `style_1` or `style_2` maps its statistics to style features (B, latent).
    """

    def __init__(self, inputs: int, outputs: int, latent: int):
        super().__init__()
        self.conv_1 = conv_weight(inputs, inputs, 3)
        self.bias_1 = parameter(torch.zeros(1, inputs, 1, 1))
        self.conv_2 = conv_weight(inputs, outputs, 3)
        self.bias_2 = parameter(torch.zeros(1, outputs, 1, 1))
        self.style_1 = Linear(2 * inputs, latent)
        self.style_2 = Linear(2 * outputs, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Statistics]]:
        x, *first = norm(conv(x, self.conv_1), self.bias_1, eps=1e-5)
        x, *second = norm(downsample_conv(blur(x), self.conv_2), self.bias_2, eps=1e-5)
        return x, [first, second]


def features_of(blocks: list[EncoderBlock], statistics: list[Statistics]) -> Tensor:
    """The sum of the style features of all layers of `blocks`, (B, latent), as one product."""
    layers = [layer for block in blocks for layer in (block.style_1, block.style_2)]
    means, variances = (torch.cat(kind, dim=1) for kind in zip(*statistics, strict=True))
    x = torch.cat([means, standard_deviation(variances)], dim=1).flatten(1)
    return sum_of(layers, x)


class Encoder(nn.Module):
    """Image (B, 3, R, R) in [-1, 1] to (mu, logvar), each (B, latent), R up to `shape.resolution`.

    Parts are keyed by their resolution ("256" ... "4"). `alpha` below 1 blends the first block's
    output with the features of the downsampled input (spec A.5).
    """

    def __init__(self, shape: Shape):
        super().__init__()
        sides = shape.resolutions
        self.from_rgb = nn.ModuleDict({str(r): FromRGB(shape.channels(r)) for r in sides})
        self.blocks = nn.ModuleDict(
            {
                str(r): EncoderBlock(shape.channels(r), shape.channels(r // 2), shape.latent)
                for r in sides
            }
        )
        widths = [shape.latent] * shape.posterior_layers + [2 * shape.latent]
        self.max_logvar, self.widest = shape.max_logvar, shape.channels(4)
        self.posterior = nn.ModuleList(Linear(i, o, lr_mul=0.1) for i, o in pairwise(widths))

    def forward(self, x: Tensor, alpha: Alpha = 1.0) -> tuple[Tensor, Tensor]:
        features = self.features(x, alpha)
        for layer in self.posterior:
            features = leaky_relu(layer(features))
        mu, logvar = full_precision(features).chunk(2, dim=1)
        if self.max_logvar is not None:
            logvar = logvar - (logvar - self.max_logvar).clamp_min(0).detach()
        return mu, logvar

    def features(self, x: Tensor, alpha: Alpha) -> Tensor:
        """The sum of the blocks' style features, (B, latent)."""
        side = x.shape[-1]
        x = x.contiguous(memory_format=layout(x.device, self.widest))
        sides = [side >> i for i in range((side // 4).bit_length())]
        blocks = [cast(EncoderBlock, self.blocks[str(r)]) for r in sides]
        h, first = blocks[0](self.from_rgb[str(side)](x))
        fading = fades(alpha) and side > 4
        if fading:
            h = blend(self.from_rgb[str(side // 2)](F.avg_pool2d(x, 2)), h, alpha)
        others = []
        for block in blocks[1:]:
            h, statistics = block(h)
            others += statistics
        if not fading:
            return features_of(blocks, first + others)
        return share(features_of(blocks[:1], first), alpha) + features_of(blocks[1:], others)

    def active(self, resolution: int) -> list[nn.Parameter]:
        """The parameters in use at `resolution`, including those of the fade-in."""
        return active_parameters(self, resolution, self.blocks, self.from_rgb)


def active_parameters(
    network: nn.Module, resolution: int, blocks: nn.ModuleDict, rgb: nn.ModuleDict
) -> list[nn.Parameter]:
    """The parameters of `network` without parts above `resolution` and unused RGB layers."""
    idle = {id(p) for r, part in blocks.items() if int(r) > resolution for p in part.parameters()}
    idle |= {
        id(p)
        for r, part in rgb.items()
        if int(r) not in (resolution, resolution // 2)
        for p in part.parameters()
    }
    return [p for p in network.parameters() if id(p) not in idle]
