"""Counts the kernels that torch.compile would generate for `norm`, without compiling or running it:

    python benchmarks/compiler.py [--side 256] [--channels 64] [--images 16]

The table has the plain form and the Triton kernels of `norm` in bf16, with noise and style, forward
and backward: number of kernels, and bytes read and written in units of the map (images x channels x
side x side, bf16). The ledger counts the eager form. Inductor's scheduler for a CPU counts the
compiled form after fusion; its scheduler for a GPU needs a driver. The minimum is 3 maps forward
and 5 backward, plus the noise.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pipeline.ledger import Ledger
from pipeline.networks.style import norm

EPS = 1e-8


def forward(run, x, bias, noise, strength, style) -> tuple[Tensor, ...]:
    return run.forward(x, bias, EPS, noise, strength, style)


def backward(run, g, kept, bias, noise, strength, style, mean, variance) -> list[Tensor]:
    found = run.backward(g, kept, bias, noise, strength, style, mean, variance, EPS, None, None)
    return [t for t in found if t is not None]


def eager(function: Callable, run, inputs: list[Tensor]) -> tuple[int, int]:
    """(kernels, bytes)."""
    with Ledger() as ledger:
        function(run, *inputs)
    return ledger.kernels, ledger.bytes


def compiled(function: Callable, run, inputs: list[Tensor], fake: FakeTensorMode):
    """(kernels, bytes)."""
    traced = make_fx(lambda *given: function(run, *given), select_decomp_table())(*inputs)
    graph = GraphLowering(traced, example_inputs=inputs)
    with V.set_graph_handler(graph), V.set_fake_mode(fake), V.set_debug_handler(DebugContext()):
        graph.run(*inputs)
        graph._update_scheduler()
        nodes = graph.scheduler.nodes
        return sum(not isinstance(n, NopKernelSchedulerNode) for n in nodes), graph.count_bytes()[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--images", type=int, default=16)
    given = parser.parse_args()
    images, channels, side = given.images, given.channels, given.side
    with FakeTensorMode() as fake:
        x = torch.empty(images, channels, side, side, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        bias, strength = torch.empty(2, 1, channels, 1, 1)
        noise = torch.empty(images, 1, side, side, dtype=torch.bfloat16)
        style = torch.empty(images, 2 * channels, dtype=torch.bfloat16)
        mean, variance = torch.empty(2, images, channels, 1, 1)
        ways = {
            forward: [x, bias, noise, strength, style],
            backward: [torch.empty_like(x), x, bias, noise, strength, style, mean, variance],
        }
        print("|  | eager | compiled | kernels of norm |")
        print("| --- | --- | --- | --- |")
        for function, inputs in ways.items():
            counts = [
                eager(function, norm.plain, inputs),
                compiled(function, norm.plain, inputs, fake),
                eager(function, norm.kernels, inputs),
            ]
            cells = (f"{n} kernels, {moved / (2 * x.numel()):.1f} maps" for n, moved in counts)
            print(f"| {function.__name__} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
