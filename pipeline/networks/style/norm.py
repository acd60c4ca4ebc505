"""Noise, bias, leaky ReLU, instance norm and style as one operation with one backward pass.

    a = leaky_relu(x + strength noise + bias)
    y = (a - mean) / sqrt(variance + eps) (1 + scale) + shift

mean and variance are those of `a` over space. On a GPU the Triton kernels in `kernels` compute it;
`plain` computes the same with torch's operations, on other devices and in float64.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.networks.family import full_precision
from pipeline.objective import weights_wanted

try:
    from pipeline.networks.style import kernels
except ImportError:  # torch installs Triton only on Linux with CUDA
    kernels = None

SLOPE = 0.2

# Whether to use the kernels; None uses them on GPUs if Triton is installed.
USE_KERNELS: bool | None = None

# From this number of channels on, a CPU is faster with contiguous maps (benchmarks/README.md).
WIDE = 256

# Below this number of channels, the plain form adds noise and bias, and keeps maps, in float32.
NARROW = 32


def on_gpu(device: torch.device) -> bool:
    """Whether networks on `device` choose what is best on a GPU: there, and in the ledger."""
    return device.type != "cpu" or bool(USE_KERNELS)


def layout(device: torch.device, channels: int) -> torch.memory_format:
    """The memory format of feature maps in networks of at most `channels` channels."""
    wide = not on_gpu(device) and channels >= WIDE
    return torch.contiguous_format if wide else torch.channels_last


def norm(
    x: Tensor,
    bias: Tensor,
    eps: float,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    style: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, C, R, R) in the dtype of x; mean and biased variance (B, C, 1, 1), at least float32.

    x (B, C, R, R); bias and strength (1, C, 1, 1); noise (B or 1, 1, R, R), without a gradient;
    style (B, 2C), scales before shifts. A second derivative raises RuntimeError.
    """
    return _Norm.apply(x, bias, eps, noise, strength, style)


def _implementation(x: Tensor):
    chosen = x.is_cuda and x.dtype != torch.float64 if USE_KERNELS is None else USE_KERNELS
    return kernels if chosen and kernels is not None else plain


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bias, eps, noise, strength, style):
        ctx.run, ctx.eps = _implementation(x), eps
        y, mean, variance, kept = ctx.run.forward(x, bias, eps, noise, strength, style)
        ctx.save_for_backward(kept, bias, noise, strength, style, mean, variance)
        ctx.set_materialize_grads(False)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, g_y, g_mean, g_variance):
        kept, *rest = ctx.saved_tensors
        if g_y is None:
            g_y = torch.zeros_like(kept)
        weights = weights_wanted() and (ctx.needs_input_grad[1] or ctx.needs_input_grad[4])
        g_x, g_bias, g_strength, g_style = ctx.run.backward(
            g_y, kept, *rest, ctx.eps, g_mean, g_variance, weights
        )
        return g_x, g_bias, None, None, g_strength, g_style


def _activated(x, bias, noise, strength):
    # A CPU adds a vector to bf16 maps of few channels ten times slower than to float32 maps.
    a = full_precision(x) if x.shape[1] < NARROW else x
    a = a + bias.to(a.dtype)
    if noise is not None:
        a.addcmul_(noise.to(a.dtype), strength.to(a.dtype))
    return F.leaky_relu_(a, SLOPE)


def _forward(x, bias, eps, noise, strength, style):
    a = _activated(x, bias, noise, strength)
    mean = full_precision(a).mean((2, 3), keepdim=True)
    centred = full_precision(a) - mean
    variance = centred.square().mean((2, 3), keepdim=True)
    scale = torch.rsqrt(variance + eps)
    if style is None:
        y = centred.mul_(scale)
    else:
        by, shift = full_precision(style)[:, :, None, None].chunk(2, dim=1)
        y = torch.addcmul(shift, centred, torch.addcmul(scale, scale, by))
    return y.to(x.dtype), mean, variance, a


def _backward(
    g_y, a, bias, noise, strength, style, mean, variance, eps, g_mean, g_variance, weights=True
):
    g, centred, pixels = full_precision(g_y), full_precision(a) - mean, a.shape[2] * a.shape[3]
    inverse = scale = torch.rsqrt(variance + eps)
    plain = g.sum((2, 3), keepdim=True)
    along = (g * centred).sum((2, 3), keepdim=True) * inverse  # of g and the normalised map
    g_style = None
    if style is not None:
        g_style = torch.cat([along, plain], 1).flatten(1).to(style.dtype)
        by = full_precision(style)[:, : a.shape[1], None, None]
        scale = torch.addcmul(scale, scale, by)
    # d mean / da = 1 / pixels; d variance / da = 2 (a - mean) / pixels.
    constant = scale * plain / -pixels
    slope = scale * along * inverse / -pixels
    if g_mean is not None:
        constant = torch.add(constant, g_mean, alpha=1 / pixels)
    if g_variance is not None:
        slope = torch.add(slope, g_variance, alpha=2 / pixels)
    g_a = torch.addcmul(constant, centred, slope).addcmul_(g, scale)
    g_x = torch.ops.aten.leaky_relu_backward(g_a, a, SLOPE, False)
    g_bias = g_strength = None
    if weights:
        g_bias = g_x.sum((0, 2, 3), keepdim=True)
        if noise is not None:
            g_strength = (g_x * noise).sum((0, 2, 3), keepdim=True)
    return g_x.to(g_y.dtype), g_bias, g_strength, g_style


plain = SimpleNamespace(forward=_forward, backward=_backward)
