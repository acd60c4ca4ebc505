"""Compares implementations of a layer, forward and backward, on the available device:

    python benchmarks/layers.py [--channels 64] [--batch 8] [--precision fp32]

  resampling  the fused 4x4 form of downsample_conv and upsample_conv; baseline: the plain form
  norm        noise to style as one operation; baseline: torch's operations and autograd

Each figure is the baseline's time divided by ours, at the side of the larger image; above 1 ours is
faster. It is a ratio of medians of alternating runs, so that other load affects both equally.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.networks.family import DTYPES
from pipeline.networks.style.layers import downsample_conv, upsample_conv
from pipeline.networks.style.norm import norm

SIDES = [8, 16, 32, 64, 128, 256]
ROUNDS = 15


def composed_norm(x: Tensor, bias: Tensor, eps: float, noise: Tensor, strength: Tensor, style):
    """`norm` as a composition of torch's operations."""
    x = torch.nn.functional.leaky_relu(x + strength * noise + bias, 0.2)
    x = torch.nn.functional.instance_norm(x, eps=eps)
    scale, shift = style[:, :, None, None].chunk(2, dim=1)
    return torch.addcmul(shift, x, 1 + scale)


def ratio(baseline: Callable, ours: Callable) -> float:
    """Time of `baseline` divided by time of `ours`."""
    times = {baseline: [], ours: []}
    for _ in range(ROUNDS):
        for function in times:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[function].append(time.perf_counter() - started)
    before, after = (statistics.median(t[2:]) for t in times.values())  # the first two warm up
    return before / after


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[given.precision]
    weight = torch.randn(given.channels, given.channels, 3, 3, device=device, dtype=dtype)
    weight = nn.Parameter(weight)

    vector = nn.Parameter(torch.randn(1, given.channels, 1, 1, device=device, dtype=dtype))
    style = torch.randn(given.batch, 2 * given.channels, device=device, dtype=dtype)
    style.requires_grad_()

    def images(side: int) -> Tensor:
        x = torch.randn(given.batch, given.channels, side, side, device=device, dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def both_ways(function: Callable, x: Tensor, *arguments) -> Callable:
        def run() -> None:
            out = function(x, *arguments)
            out = out[0] if isinstance(out, tuple) else out
            out.backward(torch.ones_like(out))

        return run

    print(f"{device}, {given.precision}, {given.batch} x {given.channels} channels")
    print(f"{'side':>5} {'downsample':>11} {'upsample':>9} {'norm':>7}")
    for side in SIDES:
        large, small = images(side), images(side // 2)
        found = [
            ratio(both_ways(f, x, weight, False), both_ways(f, x, weight, True))
            for f, x in ((downsample_conv, large), (upsample_conv, small))
        ]
        noise = torch.randn(given.batch, 1, side, side, device=device, dtype=dtype)
        rest = [1e-8, noise, vector, style]
        found.append(
            ratio(
                both_ways(composed_norm, large, vector, *rest),
                both_ways(norm, large, vector, *rest),
            )
        )
        print(f"{side:>5} {found[0]:>11.2f} {found[1]:>9.2f} {found[2]:>7.2f}")


if __name__ == "__main__":
    main()
