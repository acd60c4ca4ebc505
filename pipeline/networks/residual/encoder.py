"""The residual encoder: images to posteriors. Names as in the published code (spec S-F.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.residual.layers import SLOPE, BatchNorm, Residual
from pipeline.networks.residual.shape import Shape


class Encoder(nn.Module):
    """x (B, C, R, R) in [0, 1] and labels (B,) to mu and logvar (B, latent)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        width = shape.channels[0]
        self.main = nn.Sequential(
            nn.Conv2d(shape.image_channels, width, 5, padding=2, bias=False),
            BatchNorm(width),
            nn.LeakyReLU(SLOPE),
            nn.AvgPool2d(2),
        )
        side = shape.resolution // 2
        for inputs, outputs in zip(shape.channels, shape.channels[1:]):
            self.main.add_module(f"res_in_{side}", Residual(inputs, outputs))
            side //= 2
            self.main.add_module(f"down_to_{side}", nn.AvgPool2d(2))
        self.main.add_module(f"res_in_{side}", Residual(shape.channels[-1], shape.channels[-1]))
        features = shape.channels[-1] * side * side
        self.fc = nn.Linear(features + shape.classes, 2 * shape.latent)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = with_labels(self.main(x).flatten(1), labels, self.shape.classes)
        mu, logvar = self.fc(y).chunk(2, dim=1)
        return mu, logvar


def with_labels(x: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """Appends one-hot labels to x (B, d): (B, d + classes); returns x if classes is 0."""
    if not classes:
        return x
    return torch.cat([x, F.one_hot(labels, classes).to(x)], dim=1)
