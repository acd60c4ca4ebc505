"""Layers of encoder and decoder: equalised learning rate, statistics, resampling convolutions.

Weights are stored at their effective scale. The equalised learning rate of a parameter is its
attribute `lr_coefficient`, which only the optimiser reads (spec A.2).
"""

import hashlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.family import Alpha, full_precision, kept
from pipeline.networks.style.norm import on_gpu

# Smallest side of the high-resolution image at which resampling convolutions are fused; None is 32
# on a CPU, where the plain form is faster below despite more arithmetic (benchmarks/README.md), and
# any on a GPU, by the ledger.
FUSED_FROM: int | None = None
PUBLISHED_WIDTH = 512  # channels of the widest layers


def parameter(value: Tensor, lr_coefficient: float = 1.0) -> nn.Parameter:
    """A parameter whose learning rate the optimiser multiplies by `lr_coefficient`."""
    p = nn.Parameter(value)
    p.lr_coefficient = lr_coefficient  # type: ignore[attr-defined]
    return p


def drawn(size: tuple[int, ...], std: float, lr_coefficient: float) -> nn.Parameter:
    """A parameter initialised from N(0, std^2); `initialize` draws it again."""
    p = parameter(torch.randn(size) * std, lr_coefficient)
    p.initial_std = std  # type: ignore[attr-defined]
    return p


@torch.no_grad()
def initialize(network: nn.Module, seed: int) -> None:
    """Draws each parameter made by `drawn`; its values depend only on the seed and its name."""
    for name, p in network.named_parameters():
        if hasattr(p, "initial_std"):
            digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
            p.copy_(torch.randn(p.shape, generator=generator) * p.initial_std)


class Linear(nn.Module):
    """Linear map with equalised learning rate; weight (C_out, C_in), bias (C_out,)."""

    def __init__(self, inputs: int, outputs: int, gain: float = math.sqrt(2), lr_mul: float = 1.0):
        super().__init__()
        std = gain / math.sqrt(inputs)
        self.weight = drawn((outputs, inputs), std, std * lr_mul)
        self.bias = parameter(torch.zeros(outputs), lr_mul)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def conv_weight(inputs: int, outputs: int, size: int, gain: float = math.sqrt(2)) -> nn.Parameter:
    """Kernel (C_out, C_in, size, size) of a convolution with equalised learning rate."""
    std = gain / math.sqrt(inputs * size * size)
    return drawn((outputs, inputs, size, size), std, std)


def side_by_side(layers: list[Linear], x: Tensor) -> Tensor:
    """The outputs of `layers` for one x (B, C_in), one after the other, (B, sum of C_out)."""

    def weight() -> Tensor:
        return _cast(torch.cat([layer.weight for layer in layers]))

    def bias() -> Tensor:
        return _cast(torch.cat([layer.bias for layer in layers]))

    first = id(layers[0]), len(layers)
    return F.linear(x, kept(("weights", *first), weight), kept(("biases", *first), bias))


def sum_of(layers: list[Linear], x: Tensor) -> Tensor:
    """The sum of the outputs (B, C_out) of `layers`, each for its columns of x (B, sum of C_in):
    the first halves of all layers' columns, then the second halves."""

    def weight() -> Tensor:
        halves = zip(*(layer.weight.chunk(2, dim=1) for layer in layers), strict=True)
        return _cast(torch.cat([columns for half in halves for columns in half], dim=1))

    def bias() -> Tensor:
        # By a product with ones: the gradient of `sum` would be one memory for all biases, which
        # several micro-batches would add to.
        each = torch.cat([layer.bias[None] for layer in layers])
        return _cast(each.new_ones(1, len(layers)) @ each)[0]

    first = id(layers[0]), len(layers)
    return F.linear(x, kept(("weights", *first), weight), kept(("biases", *first), bias))


def _cast(weight: Tensor, layout: torch.memory_format = torch.preserve_format) -> Tensor:
    """`weight` in the dtype of autocast, which caches casts of parameters only."""
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return _Cast.apply(weight, dtype, layout)


class _Cast(torch.autograd.Function):
    """`weight.to(dtype, memory_format=layout)`. Its gradient has the layout of parameters at once;
    PyTorch's own would be copied again, because a parameter is contiguous."""

    @staticmethod
    def forward(ctx, weight, dtype, layout):
        ctx.dtype = weight.dtype
        return weight.to(dtype, memory_format=layout)

    @staticmethod
    def backward(ctx, g):
        return g.to(ctx.dtype, memory_format=torch.contiguous_format), None, None


def leaky_relu(x: Tensor, slope: float = 0.2) -> Tensor:
    """In place: backward needs the result alone, so the map before it takes no memory."""
    return F.leaky_relu_(x, slope)


def standard_deviation(variance: Tensor) -> Tensor:
    """sqrt(variance) without epsilon (spec A.5-2); the gradient at zero variance is zero."""
    return variance.clamp_min(torch.finfo(torch.float32).tiny).sqrt()


def fades(alpha: Alpha) -> bool:
    """Whether a fade-in is in progress. A tensor alpha is below 1: its value is on the GPU."""
    return isinstance(alpha, Tensor) or alpha < 1


def blend(below: Tensor, above: Tensor, alpha: Alpha) -> Tensor:
    """(1 - alpha) below + alpha above, rounded once to their dtype."""
    if isinstance(alpha, Tensor):
        exact = torch.lerp(full_precision(below), full_precision(above), alpha)
        return exact.to(above.dtype)
    return torch.lerp(below, above, alpha)


def share(x: Tensor, alpha: Alpha) -> Tensor:
    """alpha x, rounded once to the dtype of x."""
    return (alpha * full_precision(x)).to(x.dtype) if isinstance(alpha, Tensor) else alpha * x


def pixel_norm(z: Tensor) -> Tensor:
    """z (B, d) divided by its root mean square over d (spec A.7)."""
    z = full_precision(z)
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


def conv(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution with zero padding."""
    return F.conv2d(x, ready(x, weight), padding=1)


def ready(x: Tensor, weight: Tensor, form: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """`form(weight)` in the dtype and the layout of a convolution of x.

    Computed once inside `family.weights_kept`. A convolution would cast and copy it in each pass.
    """

    def prepare() -> Tensor:
        kernel = weight if form is None else form(weight)
        last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return _cast(kernel, torch.channels_last if last else torch.preserve_format)

    return kept((id(weight), form), prepare)


def blur(x: Tensor) -> Tensor:
    """Convolves x (B, C, R, R) with [1, 2, 1] x [1, 2, 1] / 16, zero-padded (spec A.4)."""
    channels, kind = x.shape[1], (x.dtype, x.device)

    def one() -> Tensor:
        # The mean of 2x2, applied twice, gives the kernel. It is computed on x's device, because a
        # copy from the CPU would synchronise with the GPU.
        return F.avg_pool2d(x.new_full((1, 1, 2, 2), 0.25), 2, stride=1, padding=1)

    width = max(channels, PUBLISHED_WIDTH)  # one kernel for all layers: the first channels serve

    def of_all() -> Tensor:
        return one().expand(width, 1, 3, 3).contiguous()

    kernel = kept(("blur", width, kind), of_all)[:channels]
    return F.conv2d(x, kernel, padding=1, groups=channels)


def _shifted_mean(weight: Tensor) -> Tensor:
    """The mean of the 3x3 kernel at its four positions inside 4x4 (spec A.3)."""
    return F.avg_pool2d(weight, 2, stride=1, padding=1)


def _transposed_sum(weight: Tensor) -> Tensor:
    """The kernel of the transposed convolution in `upsample_conv`: a sum instead of a mean."""
    turned = weight.flip(2, 3).transpose(0, 1)
    return F.avg_pool2d(turned, 2, stride=1, padding=1, divisor_override=1)


def fuses(x: Tensor, side: int) -> bool:
    """Whether the resampling of x to or from `side` is fused with its convolution."""
    smallest = (4 if on_gpu(x.device) else 32) if FUSED_FROM is None else FUSED_FROM
    return side >= smallest


def downsample_conv(x: Tensor, weight: Tensor, fused: bool | None = None) -> Tensor:
    """3x3 convolution, then the mean of each 2x2: (B, C_in, R, R) to (B, C_out, R/2, R/2).

    The fused form is one 4x4 convolution of stride 2. It computes the same map (spec A.3) with 16
    instead of 36 multiply-accumulates per output pixel and channel pair.
    """
    if fused if fused is not None else fuses(x, x.shape[-1]):
        return F.conv2d(x, ready(x, weight, _shifted_mean), stride=2, padding=1)
    return F.avg_pool2d(conv(x, weight), 2)


def upsample_conv(x: Tensor, weight: Tensor, fused: bool | None = None) -> Tensor:
    """Nearest-neighbour upsampling, then a 3x3 convolution: (B, C_in, R, R) to (B, C_out, 2R, 2R).

    The fused form is one transposed 4x4 convolution of stride 2 (spec A.3).
    """
    if fused if fused is not None else fuses(x, 2 * x.shape[-1]):
        return F.conv_transpose2d(x, ready(x, weight, _transposed_sum), stride=2, padding=1)
    return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight)
