"""LPIPS(vgg): a distance between two images as people see it (spec image-systems, J).

Features of VGG16's five blocks, each pixel's channels normalised to length one, squared differences
weighted by channel with what was learned from people's judgements, averaged over pixels and added
up. Those weights, v0.1, are in the package `lpips`; VGG16 is in a file that the user names, where
the package would download it.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.metrics.features import VGG16, FeaturesError
from pipeline.records.files import sha256

LAYERS = (3, 8, 15, 22, 29)  # of VGG16's `features`: the last activation before each pooling
LEARNED = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
SIDE = 32  # what smaller images are enlarged to


class LPIPS(nn.Module):
    """uint8 pairs (B, 3, R, R) to (B,), equal to the package's to rounding. FeaturesError."""

    def __init__(self, weights: Path):
        super().__init__()
        self.network = VGG16(weights).requires_grad_(False).eval()
        for number, weight in enumerate(learned()):
            self.register_buffer(f"weight_{number}", weight)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(len(a), device=a.device, dtype=self.get_buffer("weight_0").dtype)
        x = self.network.normalised(torch.cat([a, b]))
        for place, layer in enumerate(self.network.features):
            x = layer(x)
            if place in LAYERS:
                weight = self.get_buffer(f"weight_{LAYERS.index(place)}")
                unit = x / (x.norm(dim=1, keepdim=True) + 1e-10)
                first, second = unit.chunk(2)
                total += ((first - second).square() * weight).sum(1).mean((1, 2))
        return total


def name(resolution: int) -> str:
    """What a distance at this resolution is called."""
    return "lpips_vgg" if resolution >= SIDE else f"lpips_vgg_enlarged_to_{SIDE}"


def learned() -> list[Tensor]:
    """The weights of each layer's channels, (1, C, 1, 1)."""
    folder = Path(next(iter(find_spec("lpips").submodule_search_locations)))
    path = folder / "weights" / "v0.1" / "vgg.pth"
    if sha256(path) != LEARNED:
        raise FeaturesError(f"{path} does not hold version 0.1 of LPIPS(vgg): install lpips 0.1.4")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return [tensors[f"lin{number}.model.1.weight"] for number in range(len(LAYERS))]
