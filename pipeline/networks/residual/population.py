"""Population statistics for the batch norm of a trained network (spec A.5).

They are the means, over batches, of the batch mean and of the unbiased batch variance. The decoder
has one set for draws of the prior and one for codes of real images. The statistics depend only on
weights, data and seed, and are not state of a training.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from pipeline.networks.residual.layers import BatchNorm

BATCHES, SIZE = 100, 32
Moments = dict[str, Tensor]


@contextmanager
def gathered(network: nn.Module) -> Iterator[Moments]:
    """Yields a dict; on exit it holds the moments of the passes of `network` in the context."""
    sums, passes, found = {}, {}, {}

    def gather(name: str):
        def hook(module, arguments):
            x = arguments[0].double()
            sums[f"{name}.mean"] = sums.get(f"{name}.mean", 0) + x.mean((0, 2, 3))
            sums[f"{name}.variance"] = sums.get(f"{name}.variance", 0) + x.var((0, 2, 3))
            passes[name] = passes.get(name, 0) + 1

        return hook

    hooks = [module.register_forward_pre_hook(gather(name)) for name, module in norms(network)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    for name, module in norms(network):
        for kind in ("mean", "variance"):
            key = f"{name}.{kind}"
            found[key] = (sums[key] / passes[name]).to(module.weight.dtype)


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
