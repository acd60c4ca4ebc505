"""The style decoder: latent to image (spec A.7 to A.9)."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.family import Alpha, full_precision
from pipeline.networks.style.encoder import active_parameters
from pipeline.networks.style.layers import (
    Linear,
    blend,
    blur,
    conv,
    conv_weight,
    fades,
    leaky_relu,
    parameter,
    pixel_norm,
    side_by_side,
    upsample_conv,
)
from pipeline.networks.style.norm import layout, norm
from pipeline.networks.style.shape import Shape

FIXED_NOISE = 1 << 40  # seed of the fixed noise; no latents use it


class ToRGB(nn.Module):
    """1x1 convolution (B, C, R, R) to (B, 3, R, R)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = conv_weight(channels, 3, 1, gain=0.03)
        self.bias = parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return full_precision(F.conv2d(x, self.weight, self.bias))


class Modulation(nn.Module):
    """Noise, bias, leaky ReLU, instance norm, and a scale and shift that `style` maps w to."""

    def __init__(self, channels: int, latent: int, level: int):
        super().__init__()
        self.noise = parameter(torch.zeros(1, channels, 1, 1))
        self.bias = parameter(torch.zeros(1, channels, 1, 1))
        self.style = Linear(latent, 2 * channels, gain=1.0)
        self.spread = math.sqrt(level + 1)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """x (B or 1, C, R, R), style (B, 2C) to (B, C, R, R); noise (B or 1, 1, R, R), or None for
        the published deterministic term."""
        if noise is None:
            x = self.add_bump(x)
        x = x.expand(style.shape[0], -1, -1, -1)
        return norm(x, self.bias, 1e-8, noise, self.noise, style)[0]

    def add_bump(self, x: Tensor) -> Tensor:
        """The published replacement of noise: adds 0.8 q N(x; 0, q^2), q = `spread` (spec A.8)."""
        q2 = self.spread**2
        return x + 0.8 * self.spread / math.sqrt(2 * math.pi) * torch.exp(-x.square() / (2 * q2))


class DecoderBlock(nn.Module):
    """(B, C, R/2, R/2) to (B, C', R, R); the first block keeps 4x4."""

    def __init__(self, inputs: int, outputs: int, latent: int, level: int):
        super().__init__()
        self.conv_1 = conv_weight(inputs, outputs, 3) if level else None
        self.modulation_1 = Modulation(outputs, latent, level)
        self.conv_2 = conv_weight(outputs, outputs, 3)
        self.modulation_2 = Modulation(outputs, latent, level)

    def forward(self, x: Tensor, style_1: Tensor, style_2: Tensor, noise_1, noise_2) -> Tensor:
        if self.conv_1 is not None:
            x = blur(upsample_conv(x, self.conv_1))
        x = self.modulation_1(x, style_1, noise_1)
        x = conv(x, self.conv_2)
        return self.modulation_2(x, style_2, noise_2)


class Decoder(nn.Module):
    """Latent z (B, latent) to image (B, 3, R, R), about [-1, 1] but not clamped.

    Parts are keyed by their resolution ("4" ... "256"). `alpha` below 1 blends the output, in RGB,
    with the upsampled output of the resolution below (spec A.8).
    """

    def __init__(self, shape: Shape):
        super().__init__()
        sides = shape.resolutions
        self.mapping = nn.ModuleList(
            Linear(shape.latent, shape.latent, lr_mul=0.1) for _ in range(shape.mapping_layers)
        )
        self.const = parameter(torch.ones(1, shape.channels(4), 4, 4))
        self.blocks = nn.ModuleDict(
            {
                str(r): DecoderBlock(shape.channels(r // 2), shape.channels(r), shape.latent, level)
                for level, r in enumerate(sides)
            }
        )
        self.to_rgb = nn.ModuleDict({str(r): ToRGB(shape.channels(r)) for r in sides})

    def forward(self, z: Tensor, resolution: int, alpha: Alpha = 1.0, noise: bool = True) -> Tensor:
        return self.synthesize(self.styles(z), resolution, alpha, noise)

    def styles(self, z: Tensor) -> Tensor:
        """z (B, latent) to w (B, latent)."""
        w = pixel_norm(z)
        for layer in self.mapping:
            w = leaky_relu(layer(w))
        return w

    def synthesize(
        self,
        w: Tensor,
        resolution: int,
        alpha: Alpha = 1.0,
        noise: bool | list[Tensor] = True,
    ) -> Tensor:
        """Image (B, 3, R, R) from w: (B, latent), or (B, layers, latent) with a row per style.

        Each resolution has two styles; rows go from coarse to fine. `noise` True draws new noise, a
        list gives the `noise_maps`, False uses the published deterministic term (spec A.8).
        """
        layers = self.style_maps(resolution)
        if w.dim() == 2:
            styles = side_by_side(layers, w)
        else:
            styles = torch.cat([layer(w[:, row]) for row, layer in enumerate(layers)], dim=1)
        return self.render(styles, resolution, alpha, noise)

    def mixed(self, coarse: Tensor, fine: Tensor, cut: Tensor, resolution: int, alpha: Alpha):
        """Image (B, 3, R, R) with the styles of `coarse` (B, latent) in the first `cut` layers, and
        those of `fine` in all others; `cut` is a tensor ()."""
        layers = self.style_maps(resolution)
        first, second = side_by_side(layers, torch.cat([coarse, fine])).chunk(2)
        later = torch.arange(len(layers), device=cut.device) >= cut
        later = torch.cat([later[i].expand(len(layer.bias)) for i, layer in enumerate(layers)])
        return self.render(torch.where(later, second, first), resolution, alpha, noise=True)

    def style_maps(self, resolution: int) -> list[Linear]:
        """The maps from w to the scales and shifts of each layer, from coarse to fine."""
        sides = [4 << i for i in range((resolution // 4).bit_length())]
        blocks = [cast(DecoderBlock, self.blocks[str(side)]) for side in sides]
        return [m.style for block in blocks for m in (block.modulation_1, block.modulation_2)]

    def render(self, styles: Tensor, resolution: int, alpha: Alpha, noise) -> Tensor:
        """Image (B, 3, R, R) from the outputs of all `style_maps`, (B, sum of 2C)."""
        each = styles.split([len(layer.bias) for layer in self.style_maps(resolution)], dim=1)
        # Feature maps keep the layout of the constant. It is converted here because DeepSpeed needs
        # contiguous parameters.
        kept = layout(self.const.device, self.const.shape[1])
        x, below = self.const.contiguous(memory_format=kept), None
        maps = noise
        if isinstance(noise, bool):
            maps = self.draw_noise(len(styles), resolution) if noise else [None] * len(each)
        for row in range(0, style_layers(resolution), 2):
            side = 4 << (row // 2)
            x = self.blocks[str(side)](x, each[row], each[row + 1], maps[row], maps[row + 1])
            if side == resolution // 2 and fades(alpha):
                below = self.to_rgb[str(side)](x)
        image = self.to_rgb[str(resolution)](x)
        if below is not None:
            image = blend(F.interpolate(below, scale_factor=2.0, mode="nearest"), image, alpha)
        return image

    def draw_noise(self, count: int, resolution: int) -> list[Tensor]:
        """New noise for `count` images, by one draw: (count, 1, r, r) per style, coarse to fine. As
        published, all images share the first map (spec A.8)."""
        kind = self.const.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        sides = [4 << (row // 2) for row in range(style_layers(resolution))]
        shapes = [(count if row else 1, 1, side, side) for row, side in enumerate(sides)]
        numbers = torch.randn(
            sum(map(math.prod, shapes)), device=self.const.device, dtype=dtype or self.const.dtype
        )
        parts = numbers.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def noise_maps(self, resolution: int) -> list[Tensor]:
        """Fixed noise for `synthesize`, shared by all images: (1, 1, r, r) per style.

        Lower resolutions come first. The maps are equal on all devices.
        """
        generator = torch.Generator().manual_seed(FIXED_NOISE)
        sides = [4 << (row // 2) for row in range(style_layers(resolution))]
        maps = [torch.randn(1, 1, side, side, generator=generator) for side in sides]
        return [m.to(self.const.device) for m in maps]

    def active(self, resolution: int) -> list[nn.Parameter]:
        """The parameters in use at `resolution`, including those of the fade-in."""
        return active_parameters(self, resolution, self.blocks, self.to_rgb)


def style_layers(resolution: int) -> int:
    """Number of styles of an image of `resolution`: two for each of 4, 8, ... resolution."""
    return 2 * ((resolution // 4).bit_length())
