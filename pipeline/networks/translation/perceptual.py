"""LORD's reconstruction error in VGG16's feature space (spec C.3)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.metrics.features import VGG16

TAPS = (3, 8, 13, 22, 30)  # of VGG16's `features`: relu1_2, 2_2, 3_2, 4_3 and the last pooling


class PerceptualError(nn.Module):
    """P(x, y) = mean |x - y| + sum over taps of mean |f(x) - f(y)|, for images in [0, 1].

    Images are not normalised for VGG16, as in LORD's PyTorch code.
    """

    def __init__(self, weights: Path):
        super().__init__()
        self.layers = VGG16(weights).features[: TAPS[-1] + 1].requires_grad_(False).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        """x (B, 3, R, R) and its VGG16 features at each tap."""
        found = [x]
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place in TAPS:
                found.append(x)
        return found

    def forward(self, of_x: list[Tensor], of_y: list[Tensor]) -> Tensor:
        """P of images by their `features`, (B,)."""
        means = [(a - b).abs().flatten(1).mean(1, dtype=_wide(a)) for a, b in zip(of_x, of_y)]
        return torch.stack(means).sum(0)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
