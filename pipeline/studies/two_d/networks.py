"""K pairs of networks as one: every product is a batch of K products (spec G: 2-256-256-256-256-).

Points of K models lie in one batch (B K, 2), model k's at n = k, K + k, 2 K + k, ...: the order
for which `pipeline.objective` takes a coefficient for each model.
"""

import copy
import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

WIDTH, HIDDEN, LATENT = 256, 3, 2
Precision = Literal["fp32", "bf16"]


class Readout(torch.autograd.Function):
    """h (K, B, w), W (K, w, o), b (K, 1, o) to h W + b, for few outputs o.

    Products with a narrow right side are slow on CPUs: here each is formed from its wide side.
    """

    @staticmethod
    def forward(ctx, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(h, weight)
        product = torch.bmm(weight.transpose(1, 2), h.transpose(1, 2))
        return product.transpose(1, 2) + bias

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, weight = ctx.saved_tensors
        of_weight = torch.bmm(g.transpose(1, 2), h).transpose(1, 2)
        return torch.bmm(g, weight.transpose(1, 2)), of_weight, g.sum(1, keepdim=True)


class Perceptrons(nn.Module):
    """K perceptrons of four hidden layers with ReLU; (K, B, inputs) to (K, B, outputs).

    With `precision` bf16 the products between hidden layers are of bfloat16 factors, summed in
    float32. The first and last layers, which hold the points' own coordinates, stay in float32.
    """

    def __init__(self, seeds: list[int], inputs: int, outputs: int, precision: Precision):
        super().__init__()
        self.inner = torch.bfloat16 if precision == "bf16" else torch.float32
        sizes = [inputs, *[WIDTH] * (HIDDEN + 1), outputs]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for rows, columns in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(rows)  # as torch initialises its linear layers
            for shape, kind in (((rows, columns), self.weights), ((1, columns), self.biases)):
                drawn = [torch.rand(shape, generator=g) for g in generators]
                kind.append(nn.Parameter((2 * torch.stack(drawn) - 1) * bound))

    def forward(self, x: Tensor) -> Tensor:
        first, *inner, last = zip(self.weights, self.biases)
        h = torch.baddbmm(first[1], x, first[0]).to(self.inner).relu()
        for weight, bias in inner:
            h = torch.baddbmm(bias.to(self.inner), h, weight.to(self.inner)).relu()
        return Readout.apply(h.float(), *last)


class Ensemble(nn.Module):
    """K encoders and K decoders: the `Model` of `pipeline.objective`, on (B K, 2)."""

    def __init__(self, seeds: list[int], precision: Precision = "fp32"):
        super().__init__()
        self.count = len(seeds)
        self.encoder = Perceptrons([2 * seed for seed in seeds], 2, 2 * LATENT, precision)
        self.decoder = Perceptrons([2 * seed + 1 for seed in seeds], LATENT, 2, precision)

        self.target: Perceptrons | None = None
        """The second decoder of the bootstrap form, once there is one."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self._each(self.encoder, x).chunk(2, 1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        return self._each(self.decoder, z)

    def generate(self, count: int) -> Tensor:
        return self.decode(torch.randn(count, LATENT, device=self.encoder.weights[0].device))

    def decode_again(self, z: Tensor) -> Tensor:
        return self._each(self.decoder if self.target is None else self.target, z)

    def renew_target(self) -> None:
        """Makes the second decoder a copy of the decoder as it is."""
        self.target = copy.deepcopy(self.decoder).requires_grad_(False)

    def _each(self, network: Perceptrons, x: Tensor) -> Tensor:
        apart = x.view(-1, self.count, x.shape[1]).transpose(0, 1)
        return network(apart).transpose(0, 1).reshape(len(x), -1)
