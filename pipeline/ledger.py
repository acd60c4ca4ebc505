"""What one micro-batch costs, counted on fake tensors: no GPU, no memory, and the same each time.

    with FakeTensorMode(), Ledger() as ledger:
        ...
    ledger.kernels, ledger.bytes, ledger.macs, ledger.peak

A kernel is an operation that reaches the device; views do not. Its bytes are those of the tensors
that it reads and writes, each once (what is expanded counts as what it holds): what a cache saves
and what a kernel reads a second time are left out.
"""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pipeline.networks.family import casts_kept
from pipeline.networks.style import norm
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.grown import Grown
from pipeline.networks.style.shape import Shape
from pipeline.objective import Objective

# Operations that only make room for a tensor.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift"}
# Operations whose arguments tell a shape only.
FACTORIES = {"new_full", "new_zeros", "new_ones", "zeros_like", "ones_like", "full_like"}
FACTORIES |= {"randn_like", "rand_like"}


@dataclass(frozen=True)
class Kernel:
    """One operation on the device."""

    name: str
    macs: int
    """Multiply-accumulates of matrix products and convolutions; others count none."""
    bytes: int

    def seconds(self, macs_per_s: float, bytes_per_s: float) -> float:
        """The roofline: the longer of arithmetic and traffic."""
        return max(self.macs / macs_per_s, self.bytes / bytes_per_s)


class Ledger(TorchDispatchMode):
    """Records each kernel that is run inside, and the memory that tensors made inside hold."""

    def __init__(self):
        super().__init__()
        self.rows: list[Kernel] = []
        self.held = self.peak = 0
        """Bytes held now, and the most at any time. Allocation is taken to be exact."""
        self._storages: dict[int, int] = {}

    @property
    def kernels(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        return sum(kernel.bytes for kernel in self.rows)

    @property
    def macs(self) -> int:
        return sum(kernel.macs for kernel in self.rows)

    def seconds(self, macs_per_s: float, bytes_per_s: float) -> float:
        """The time of all kernels, one after the other, each at the roofline."""
        return sum(kernel.seconds(macs_per_s, bytes_per_s) for kernel in self.rows)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        written = _tensors(result)
        for tensor in written:
            self._hold(tensor)
        name = func.overloadpacket.__name__
        if func.is_view or name in FREE or func.namespace == "prim":
            return result
        macs = 0
        if func.overloadpacket in flop_registry:
            macs = flop_registry[func.overloadpacket](*args, **kwargs, out_val=result) // 2
        read = [] if name in FACTORIES else _tensors((args, kwargs))
        moved = sum(map(size, read)) + sum(map(size, written))
        self.rows.append(Kernel(name, macs, moved))
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        self._storages[key] = storage.nbytes()
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.held -= self._storages.pop(key)


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def size(tensor: Tensor) -> int:
    """Bytes in memory behind `tensor`: what is expanded counts once."""
    count = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else 1
    return count


def micro_batch(
    shape: Shape,
    objective: Objective,
    resolution: int,
    images: int,
    precision: str = "bf16",
    kernels: bool = True,
) -> Ledger:
    """Both updates of one micro-batch of `images`, past the fade-in and without style mixing.

    With the kernels that compute on a GPU, or as everything else does without them.
    Optimiser, average and loader are left out. `peak` holds weights, activations and gradients of
    one process; Adam's v and the average are two more float32 copies of the weights.
    """
    with FakeTensorMode():
        weights = Ledger()
        with weights:
            autoencoder = Autoencoder(shape)
        x = torch.empty(images, 3, resolution, resolution)
        x = x.contiguous(memory_format=torch.channels_last)
        model = Grown(autoencoder, resolution, precision=precision)
        # without the draw of mixing
        model.generate = lambda count: model.decode(autoencoder.prior(count))  # type: ignore
        ledger = Ledger()
        ledger.held = ledger.peak = weights.held
        before, norm.USE_KERNELS = norm.USE_KERNELS, kernels
        try:
            with ledger:
                _both_updates(model, objective, x)
        finally:
            norm.USE_KERNELS = before
        return ledger


def _both_updates(model: Grown, objective: Objective, x: Tensor) -> None:
    """As `stages.stage` runs them, with plain backward calls in the place of the engines'."""
    autoencoder, side = model.autoencoder, model.resolution
    with casts_kept():
        product, images, _ = objective.encoder_step(model, x)
    product.backward(inputs=autoencoder.encoder.active(side), retain_graph=True)
    del product
    product, _ = objective.decoder_step(model, x, images)
    product.backward(inputs=autoencoder.decoder.active(side))
