"""A distance between two images in VGG16's features.

It is LPIPS before anything was learned for it: features of the five blocks, each pixel's channels
normalised to length one, squared differences summed over channels, averaged over pixels and added
up. LPIPS weights the channels by what people said about pairs of images; those weights are not in a
VGG16 file, so this is not LPIPS and does not bear its name.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.metrics.features import VGG16

LAYERS = (3, 8, 15, 22, 29)  # of VGG16's `features`: the last activation before each pooling


class VGG16Distance(nn.Module):
    """uint8 pairs (B, 3, R, R) to (B,); images below 32x32 are enlarged to it. FeaturesError."""

    def __init__(self, weights: Path):
        super().__init__()
        self.network = VGG16(weights).requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(len(a), device=a.device)
        x = self.network.normalised(torch.cat([a, b]))
        for place, layer in enumerate(self.network.features):
            x = layer(x)
            if place in LAYERS:
                first, second = F.normalize(x, dim=1, eps=1e-10).chunk(2)
                total += (first - second).square().sum(1).mean((1, 2))
        return total
