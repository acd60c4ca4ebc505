"""Counts the bytes that a process sends, without other processes.

    with fake_group(256), Traffic() as traffic:
        ...  # collectives do nothing
    traffic.sent

Bytes are those of a ring, the least that a process can send: of n processes, an all-reduce sends
2 (n - 1) / n of its tensor, an all-gather (n - 1) / n of its result, a broadcast or a reduction to
one process the whole tensor.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import deepspeed
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline import processes  # noqa: F401 (sets DeepSpeed up)


@contextmanager
def fake_group(world: int, rank: int = 0) -> Iterator[None]:
    """This process as `rank` of `world`, on the CPU; the others do not exist."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        deepspeed.init_distributed("fake", auto_mpi_discovery=False, verbose=False)
        yield
    finally:
        deepspeed.comm.destroy_process_group()


class Traffic(TorchDispatchMode):
    """Records the collectives that run inside the context."""

    def __init__(self):
        super().__init__()
        self.rows: list[tuple[str, int]] = []
        """Name of each collective and bytes of its largest tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            size = max((t.numel() * t.element_size() for t in tensors), default=0)
            self.rows.append((func.overloadpacket.__name__.strip("_"), size))
        return func(*args, **(kwargs or {}))

    @property
    def sent(self) -> int:
        """Bytes that this process sends."""
        return round(sum(share(name, dist.get_world_size()) * size for name, size in self.rows))


def share(collective: str, world: int) -> float:
    """The part of its largest tensor that a process sends in a ring of `world` processes."""
    ring = (world - 1) / world
    if collective.startswith("allreduce"):
        return 2 * ring
    return ring if collective.startswith(("allgather", "reduce_scatter")) else min(1, world - 1)
