"""Batch norm without running statistics, and the residual block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE, EPS = 0.2, 1e-5


class BatchNorm(nn.Module):
    """Normalises x (B, C, R, R) by batch statistics, or by `mean` and `variance` if they are set.

    Training keeps no running statistics: training does not use them, and they would average over
    real images, reconstructions and samples (spec A.5). `pipeline.networks.residual.population`
    measures the statistics for a trained network.
    """

    mean: Tensor | None
    variance: Tensor | None

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("variance", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        own = self.mean is None
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, own, eps=EPS)


def inside(x: Tensor, channels: int) -> Tensor:
    """Images (B, 3, R, R) in [-1, 1] to the networks' input (B, channels, R, R) in [0, 1]."""
    x = (x + 1) / 2
    return x if channels == 3 else x.mean(1, keepdim=True)


def outside(x: Tensor) -> Tensor:
    """The networks' output about [0, 1] to (B, 3, R, R) about [-1, 1]; repeats a grey channel."""
    return (x * 2 - 1).expand(-1, 3, -1, -1)


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions: (B, inputs, R, R) to (B, outputs, R, R)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv_expand: nn.Module = nn.Identity()
        if inputs != outputs:
            self.conv_expand = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = BatchNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.bn1(self.conv1(x)), SLOPE)
        return F.leaky_relu(self.bn2(self.conv2(y)) + self.conv_expand(x), SLOPE)
