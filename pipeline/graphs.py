"""The passes of a step as CUDA graphs: the GPU replays their kernels without waiting for Python.

Launching the kernels of a step one by one takes the host longer than the GPU needs to compute them
(benchmarks/README.md). Kernels, random draws and results are those of `pipeline.updates`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks.family import ModelError, Networks
from pipeline.objective import Terms
from pipeline.updates import Updates


class Graphs:
    """Replays the passes of `networks` for `count` micro-batches like `x` and `labels`.

    Called like `Updates`, with micro-batches in the same order in each step: the graphs share
    memory in the order of their capture. The gradients of each micro-batch stay in memory.
    ModelError if a pass cannot be captured.
    """

    def __init__(
        self,
        updates: Updates,
        networks: Networks,
        x: Tensor,
        labels: Tensor | None,
        count: int,
    ):
        self.inputs = [
            (torch.empty_like(x), None if labels is None else torch.empty_like(labels))
            for _ in range(count)
        ]
        of_encoder, of_decoder = networks.parameters_at(x.shape[-1])
        pool = torch.cuda.graph_pool_handle()
        assert isinstance(networks, nn.Module)
        try:
            with aliases(networks) as leaves:
                self.encoders = [
                    Captured(partial(updates.encoder, *given, 1.0), of_encoder, leaves, pool, True)
                    for given in self.inputs
                ]
                self.decoders = [
                    Captured(partial(updates.decoder, 1.0), of_decoder, leaves, pool, False)
                    for _ in range(count)
                ]
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ModelError(
                f"the passes of a step cannot be captured as CUDA graphs; engine.graphs=false "
                f"trains without: {error.__context__ or error}"
            ) from error
        self.next = [0, 0]

    def encoder(self, x: Tensor, labels: Tensor | None, scale: float) -> tuple[Tensor, Terms]:
        """As `Updates.encoder`; `scale` must be 1."""
        number = self._take(0)
        images, classes = self.inputs[number]
        images.copy_(x)
        if classes is not None:
            classes.copy_(labels)
        return self.encoders[number].replay()

    def decoder(self, scale: float) -> tuple[Tensor, Terms]:
        """As `Updates.decoder`; `scale` must be 1."""
        return self.decoders[self._take(1)].replay()

    def _take(self, update: int) -> int:
        number = self.next[update]
        self.next[update] = (number + 1) % len(self.inputs)
        return number


@contextmanager
def aliases(networks: nn.Module) -> Iterator[dict[nn.Parameter, nn.Parameter]]:
    """Inside, the networks compute with other leaves in the memory of their parameters; yields
    the leaf of each parameter.

    DeepSpeed holds autograd's nodes of the parameters. These belong to the stream that made them,
    and a backward pass that is captured must not wait for another stream.
    """
    modules = list(networks.modules())
    leaves = {p: nn.Parameter(p.detach(), p.requires_grad) for p in networks.parameters()}
    held = [(module, name, p) for module in modules for name, p in module._parameters.items()]
    try:
        for module, name, p in held:
            module._parameters[name] = None if p is None else leaves[p]
        yield leaves
    finally:
        for module, name, p in held:
            module._parameters[name] = p


class Captured:
    """A captured pass: its product, its terms and the gradients of `parameters`.

    `leaves` are as of `aliases`. `keep` keeps the pass's autograd graph for a later one.
    """

    def __init__(
        self,
        compute: Callable[[], tuple[Tensor, Terms]],
        parameters: list[nn.Parameter],
        leaves: dict[nn.Parameter, nn.Parameter],
        pool: Any,
        keep: bool,
    ):
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, as of the loader and of NCCL, may call CUDA meanwhile.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            product, terms = compute()
            gradients = torch.autograd.grad(
                product, [leaves[p] for p in parameters], retain_graph=keep, allow_unused=True
            )
            self.product, self.names = product.detach(), sorted(terms)
            self.terms = torch.stack([terms[name] for name in self.names])
        used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        self.parameters, self.gradients = [p for p, _ in used], [g for _, g in used]

    def replay(self) -> tuple[Tensor, Terms]:
        """A product whose gradient is that of the pass, and the terms."""
        self.graph.replay()
        terms = dict(zip(self.names, self.terms.clone().unbind(), strict=True))
        return Known.apply(self.product, self.gradients, *self.parameters), terms


class Known(torch.autograd.Function):
    """The scalar `product` with known `gradients` by `parameters`."""

    @staticmethod
    def forward(ctx, product: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return product.clone()

    @staticmethod
    def backward(ctx, g):
        return None, None, *torch._foreach_mul(ctx.gradients, g)
