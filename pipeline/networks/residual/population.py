"""Population statistics for the batch norm of a trained network (spec A.5).

They are the means, over batches, of the batch mean and of the unbiased batch variance. The decoder
has one set for draws of the prior and one for codes of real images. The statistics depend only on
weights, data and seed, and are not state of a training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.networks.family import Images
from pipeline.networks.residual.layers import BatchNorm
from pipeline.objective import draw

if TYPE_CHECKING:
    from pipeline.networks.residual.step import Step

BATCHES, SIZE = 100, 32
ITERATIONS, MOMENTUM = 20, 0.1  # of running statistics
Moments = dict[str, Tensor]


@contextmanager
def gathered(network: nn.Module, momentum: float | None = None) -> Iterator[Moments]:
    """Yields a dict; on exit it holds the moments of the passes of `network` in the context.

    They are the means over the passes, or with `momentum` PyTorch's running statistics: a moving
    average to which each pass contributes that share.
    """
    moments, passes, found = {}, {}, {}

    def gather(name: str):
        def hook(module, arguments):
            x = arguments[0].double()
            passes[name] = passes.get(name, 0) + 1
            share = max(momentum or 0, 1 / passes[name])
            for kind, value in (("mean", x.mean((0, 2, 3))), ("variance", x.var((0, 2, 3)))):
                before = moments.get(f"{name}.{kind}", 0)
                moments[f"{name}.{kind}"] = before + share * (value - before)

        return hook

    hooks = [module.register_forward_pre_hook(gather(name)) for name, module in norms(network)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    for name, module in norms(network):
        for kind in ("mean", "variance"):
            found[f"{name}.{kind}"] = moments[f"{name}.{kind}"].to(module.weight.dtype)


def of_published_training(step: Step, images: Images) -> Moments:
    """The decoder's running statistics as published training keeps them, for these weights.

    The decoder of an iteration decodes samples, reconstructions, and both again, once for each
    network's update (spec A.3, A.5). The moving average holds no more than a few iterations.
    """
    with torch.no_grad(), gathered(step.networks.decoder, MOMENTUM) as found:
        for x, labels in images(ITERATIONS, SIZE):
            on = step.on(x, labels)
            again = getattr(on, "decode_again", on.decode)
            for _ in range(2):
                x_f = on.generate(len(x))
                x_r = on.decode(draw(*on.encode(x)))
                for y in (x_r, x_f):
                    again(draw(*on.encode(y)))
    return found


def normalised_by(network: nn.Module, moments: Moments) -> nn.Module:
    """A copy of `network` that shares its parameters and normalises by `moments`."""
    shared = copy.deepcopy(network, {id(p): p for p in network.parameters()})
    for name, module in norms(shared):
        module.mean, module.variance = (
            moments[f"{name}.{kind}"].to(module.weight) for kind in ("mean", "variance")
        )
    return shared


def names(network: nn.Module) -> list[str]:
    """Names of the moments of `gathered`."""
    return [f"{name}.{kind}" for name, _ in norms(network) for kind in ("mean", "variance")]


def norms(network: nn.Module) -> list[tuple[str, BatchNorm]]:
    return [(n, module) for n, module in network.named_modules() if isinstance(module, BatchNorm)]
