"""Counts the cost of one micro-batch on fake tensors: needs no GPU and little memory, and repeats
exactly.

    with FakeTensorMode(), Ledger() as ledger:
        ...
    ledger.kernels, ledger.bytes, ledger.macs, ledger.peak

A kernel is an operation that runs on the device; views do not. Its bytes are the bytes of the
tensors that it reads and writes, each once (an expanded tensor counts its memory, not its shape).
Hits of a cache and repeated reads inside a kernel are not counted.
"""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pipeline.networks.family import weights_kept
from pipeline.networks.style import norm
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.grown import Grown
from pipeline.networks.style.shape import Shape
from pipeline.objective import Objective

# Operations that only allocate.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift"}
# Operations that read only the shape of their arguments.
FACTORIES = {"new_full", "new_zeros", "new_ones", "zeros_like", "ones_like", "full_like"}
FACTORIES |= {"randn_like", "rand_like"}


@dataclass(frozen=True)
class Kernel:
    """One operation on the device."""

    name: str
    macs: int
    """Multiply-accumulates of matrix products and convolutions; 0 for all others."""
    bytes: int

    def seconds(self, macs_per_s: float, bytes_per_s: float) -> float:
        """The roofline: the longer of arithmetic and traffic."""
        return max(self.macs / macs_per_s, self.bytes / bytes_per_s)


class Ledger(TorchDispatchMode):
    """Records the kernels that run inside the context, and the memory of tensors created there."""

    def __init__(self):
        super().__init__()
        self.rows: list[Kernel] = []
        self.held = self.peak = 0
        """Bytes held now, and their maximum, without the allocator's overhead."""
        self.weights = 0
        """Bytes of the networks' weights, where `micro_batch` counts."""
        self.kept = 0
        """Bytes held between the encoder's update and the decoder's."""
        self.gradients = 0
        """Bytes of the encoder's gradients, among those."""
        self.ready: list[list[tuple[int, int]]] = []
        """Of encoder and decoder: for each gradient, in the order in which they are complete, its
        elements and the number of kernels before."""
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
    """Bytes of memory behind `tensor`: expanded dimensions count once."""
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

    `kernels` counts the Triton kernels of `norm`, as on a GPU; false counts its plain form.
    Optimiser, average and loader are not counted. `peak` holds weights, activations and gradients
    of one process; Adam's v and the average are two more float32 copies of the weights.
    """
    with FakeTensorMode():
        weights = Ledger()
        with weights:
            autoencoder = Autoencoder(shape)
        x = torch.empty(images, 3, resolution, resolution)
        x = x.contiguous(memory_format=torch.channels_last)
        model = Grown(autoencoder, resolution, precision=precision)
        # without style mixing, which is random
        model.generate = lambda count: model.decode(autoencoder.prior(count))  # type: ignore
        ledger = Ledger()
        ledger.weights = ledger.held = ledger.peak = weights.held
        before, norm.USE_KERNELS = norm.USE_KERNELS, kernels
        try:
            with ledger:
                _both_updates(model, objective, x, ledger)
        finally:
            norm.USE_KERNELS = before
        return ledger


def _both_updates(model: Grown, objective: Objective, x: Tensor, ledger: Ledger) -> None:
    """Both updates as in `stages.stage`, with plain backward calls instead of engines."""
    autoencoder, side = model.autoencoder, model.resolution
    with weights_kept():
        product, images, _ = objective.encoder_step(model, x)
    encoder = autoencoder.encoder.active(side)
    _backward(ledger, product, encoder, retain_graph=True)
    del product
    ledger.kept, ledger.gradients = ledger.held, sum(p.nbytes for p in encoder)
    with weights_kept():
        product, _ = objective.decoder_step(model, x, images)
    _backward(ledger, product, autoencoder.decoder.active(side))


def _backward(ledger: Ledger, product: Tensor, parameters: list[nn.Parameter], **how) -> None:
    ready: list[tuple[int, int]] = []
    for p in parameters:
        p.register_post_accumulate_grad_hook(lambda p: ready.append((p.numel(), ledger.kernels)))
    product.backward(inputs=parameters, **how)
    ledger.ready.append(ready)
