"""The two encoders, and the decoder whose norms the class code modulates (spec C.2)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.family import full_precision
from pipeline.networks.translation.shape import Shape

SLOPE, EPS = 0.01, 1e-5


class Encoder(nn.Module):
    """x (B, 3, R, R) in [0, 1] to mu and logvar of one code, each (B, latent)."""

    def __init__(self, shape: Shape, latent: int):
        super().__init__()
        widths, hidden = shape.encoder_channels, shape.hidden
        self.convs = nn.ModuleList([nn.Conv2d(3, widths[0], 7, padding=3)])
        self.convs.extend(nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in pairwise(widths))
        features = widths[-1] * shape.inner**2
        sizes = (features, hidden, hidden, 2 * latent)
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
        x = x.flatten(1)
        for linear in self.linears[:-1]:
            x = F.leaky_relu(linear(x), SLOPE)
        mu, logvar = full_precision(self.linears[-1](x)).chunk(2, dim=1)
        return mu, logvar


class Encoders(nn.Module):
    """x (B, 3, R, R) in [0, 1] to mu and logvar of both codes, concatenated, (B, latent)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.of_class = Encoder(shape, shape.class_latent)
        self.of_content = Encoder(shape, shape.content_latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = zip(self.of_class(x), self.of_content(x), strict=True)
        mu, logvar = (torch.cat(pair, dim=1) for pair in found)
        return mu, logvar


class Decoder(nn.Module):
    """z (B, latent), the class code before the content code, to images (B, 3, R, R) in [0, 1]."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        width, area = shape.decoder_channels, shape.inner**2
        sizes = (shape.content_latent, area * width // 8, area * width // 4, area * width)
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        levels = range(shape.halvings)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in levels)
        self.modulations = nn.ModuleList(nn.Linear(shape.class_latent, 2 * width) for _ in levels)
        self.last = nn.ModuleList(
            [nn.Conv2d(width, width // 4, 5, padding=2), nn.Conv2d(width // 4, 3, 7, padding=3)]
        )

    def forward(self, z: Tensor) -> Tensor:
        shape = self.shape
        of_class, x = z.split([shape.class_latent, shape.content_latent], dim=1)
        for linear in self.linears:
            x = F.leaky_relu(linear(x), SLOPE)
        x = x.view(-1, shape.decoder_channels, shape.inner, shape.inner)
        for conv, modulation in zip(self.convs, self.modulations, strict=True):
            x = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = self.modulated(F.leaky_relu(x, SLOPE), modulation(of_class))
        x = F.leaky_relu(self.last[0](x), SLOPE)
        return torch.sigmoid(full_precision(self.last[1](x)))

    def modulated(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Instance norm of x (B, C, H, W) with the offset and scale in `modulation` (B, 2 C), which
        holds (offset, scale) of each channel in turn."""
        offset, scale = full_precision(modulation).view(len(x), -1, 2, 1, 1).unbind(2)
        if self.shape.scale_from_one:
            scale = 1 + scale
        return F.instance_norm(full_precision(x), eps=EPS) * scale + offset
