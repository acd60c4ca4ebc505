"""The Triton kernels of `norm`. Forward reads x twice and writes y once; backward reads x and the
gradient twice and writes once.

Maps are channels last. A program processes up to PIXELS pixels of a block of channels of one image,
so that one image with few channels fills a GPU. It writes partial sums (parts, B, C), and the next
kernel adds the parts. There are no atomic additions, so results are deterministic. Arithmetic is
float32 for every dtype of x.

Vectors of images (styles, gradients of statistics) may be columns of a larger matrix: kernels take
their distance from image to image.

Each kernel is registered as a torch operation, so that compiler and ledger can handle it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 1024
SLOPE = tl.constexpr(0.2)


@triton.jit
def _place(C, HW, PIXELS: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's part, image, channels, mask of existing channels, and first pixel."""
    part, image = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    return part, image, c, c < C, part * PIXELS


@triton.jit
def _activated(x, noise, pixel, image, bias, strength, C, HW, noise_stride, c, NOISE: tl.constexpr):
    """leaky_relu(x + strength noise + bias) at `pixel` (P,) of `image`, (P, BLOCK_C) in float32."""
    place = (image.to(tl.int64) * HW + pixel[:, None]) * C + c[None, :]
    a = tl.load(x + place, mask=c[None, :] < C, other=0.0).to(tl.float32) + bias[None, :]
    if NOISE:
        drawn = tl.load(noise + image * noise_stride + pixel).to(tl.float32)
        a += strength[None, :] * drawn[:, None]
    return tl.where(a > 0, a, SLOPE * a), place


@triton.jit
def _vector(pointer, c, C, PRESENT: tl.constexpr):
    """float32 values of channels `c`; zeros if the vector is not present."""
    if PRESENT:
        return tl.load(pointer + c, mask=c < C, other=0.0).to(tl.float32)
    return c.to(tl.float32) * 0


@triton.jit
def moments_kernel(
    x, bias, noise, strength, moments, C, HW, noise_stride,
    NOISE: tl.constexpr, PIXELS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    part, image, c, exists, first = _place(C, HW, PIXELS, BLOCK_C)
    added, times = _vector(bias, c, C, True), _vector(strength, c, C, NOISE)
    mean = tl.zeros([BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_C], tl.float32)  # sum of squared deviations from the mean
    for i in range(0, PIXELS, BLOCK_P):
        pixel = first + i + tl.arange(0, BLOCK_P)
        a, _ = _activated(x, noise, pixel, image, added, times, C, HW, noise_stride, c, NOISE)
        here = tl.sum(a, 0) / BLOCK_P
        off = a - here[None, :]
        step = here - mean
        mean += step * (BLOCK_P / (i + BLOCK_P))
        squares += tl.sum(off * off, 0) + step * step * (i * BLOCK_P / (i + BLOCK_P))
    parts, images = tl.num_programs(0), tl.num_programs(2)
    place = (part * images + image) * C + c
    tl.store(moments + place, mean, mask=exists)
    tl.store(moments + parts * images * C + place, squares, mask=exists)


@triton.jit
def _parts(sums, image, images, c, C, PARTS: tl.constexpr):
    """The partial sums of (2, PARTS, B, C) for this image: two of (PARTS, BLOCK_C)."""
    place = (tl.arange(0, PARTS)[:, None] * images + image) * C + c[None, :]
    there = c[None, :] < C
    first = tl.load(sums + place, mask=there, other=0.0)
    return first, tl.load(sums + PARTS * images * C + place, mask=there, other=0.0)


@triton.jit
def normalize_kernel(
    x, bias, noise, strength, style, moments, y, mean, variance, C, HW, noise_stride,
    style_stride, eps,
    NOISE: tl.constexpr, STYLE: tl.constexpr, PARTS: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    part, image, c, exists, first = _place(C, HW, PIXELS, BLOCK_C)
    added, times = _vector(bias, c, C, True), _vector(strength, c, C, NOISE)
    means, squares = _parts(moments, image, tl.num_programs(2), c, C, PARTS)
    m = tl.sum(means, 0) / PARTS
    off = means - m[None, :]
    v = (tl.sum(squares, 0) + PIXELS * tl.sum(off * off, 0)) / HW
    if part == 0:
        tl.store(mean + image * C + c, m, mask=exists)
        tl.store(variance + image * C + c, v, mask=exists)
    scale = tl.rsqrt(v + eps) * (1 + _vector(style + image * style_stride, c, C, STYLE))
    shift = _vector(style + image * style_stride + C, c, C, STYLE)
    for i in range(0, PIXELS, BLOCK_P):
        pixel = first + i + tl.arange(0, BLOCK_P)
        a, place = _activated(x, noise, pixel, image, added, times, C, HW, noise_stride, c, NOISE)
        out = (a - m[None, :]) * scale[None, :] + shift[None, :]
        tl.store(y + place, out.to(y.dtype.element_ty), mask=exists[None, :])


@triton.jit
def gradient_sums_kernel(
    g_y, x, bias, noise, strength, mean, variance, sums, C, HW, noise_stride, eps,
    NOISE: tl.constexpr, PIXELS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    part, image, c, exists, first = _place(C, HW, PIXELS, BLOCK_C)
    added, times = _vector(bias, c, C, True), _vector(strength, c, C, NOISE)
    m = _vector(mean + image * C, c, C, True)
    inverse = tl.rsqrt(_vector(variance + image * C, c, C, True) + eps)
    plain = tl.zeros([BLOCK_C], tl.float32)
    along = tl.zeros([BLOCK_C], tl.float32)
    for i in range(0, PIXELS, BLOCK_P):
        pixel = first + i + tl.arange(0, BLOCK_P)
        a, place = _activated(x, noise, pixel, image, added, times, C, HW, noise_stride, c, NOISE)
        g = tl.load(g_y + place, mask=exists[None, :], other=0.0).to(tl.float32)
        plain += tl.sum(g, 0)
        along += tl.sum(g * (a - m[None, :]), 0)
    parts, images = tl.num_programs(0), tl.num_programs(2)
    place = (part * images + image) * C + c
    tl.store(sums + place, plain, mask=exists)
    tl.store(sums + parts * images * C + place, along * inverse, mask=exists)


@triton.jit
def gradient_kernel(
    g_y, x, bias, noise, strength, style, mean, variance, sums, g_mean, g_variance,
    g_x, g_style, g_vectors, C, HW, noise_stride, style_stride, mean_stride, variance_stride, eps,
    NOISE: tl.constexpr, STYLE: tl.constexpr, MEAN: tl.constexpr, VARIANCE: tl.constexpr,
    PARTS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    part, image, c, exists, first = _place(C, HW, PIXELS, BLOCK_C)
    images = tl.num_programs(2)
    added, times = _vector(bias, c, C, True), _vector(strength, c, C, NOISE)
    m = _vector(mean + image * C, c, C, True)
    inverse = tl.rsqrt(_vector(variance + image * C, c, C, True) + eps)
    plains, alongs = _parts(sums, image, images, c, C, PARTS)
    plain, along = tl.sum(plains, 0), tl.sum(alongs, 0)
    if STYLE and part == 0:
        at = g_style + image * 2 * C + c
        tl.store(at, along.to(g_style.dtype.element_ty), mask=exists)
        tl.store(at + C, plain.to(g_style.dtype.element_ty), mask=exists)
    scale = inverse * (1 + _vector(style + image * style_stride, c, C, STYLE))
    to_mean = _vector(g_mean + image * mean_stride, c, C, MEAN)
    to_variance = _vector(g_variance + image * variance_stride, c, C, VARIANCE)
    constant = to_mean / HW - scale * plain / HW
    slope = 2 * to_variance / HW - scale * along * inverse / HW
    to_bias = tl.zeros([BLOCK_C], tl.float32)
    to_strength = tl.zeros([BLOCK_C], tl.float32)
    for i in range(0, PIXELS, BLOCK_P):
        pixel = first + i + tl.arange(0, BLOCK_P)
        a, place = _activated(x, noise, pixel, image, added, times, C, HW, noise_stride, c, NOISE)
        g = tl.load(g_y + place, mask=exists[None, :], other=0.0).to(tl.float32)
        g = g * scale[None, :] + constant[None, :] + (a - m[None, :]) * slope[None, :]
        g = tl.where(a > 0, g, SLOPE * g)
        tl.store(g_x + place, g.to(g_x.dtype.element_ty), mask=exists[None, :])
        to_bias += tl.sum(g, 0)
        if NOISE:
            drawn = tl.load(noise + image * noise_stride + pixel).to(tl.float32)
            to_strength += tl.sum(g * drawn[:, None], 0)
    place = (part * images + image) * C + c
    tl.store(g_vectors + place, to_bias, mask=exists)
    if NOISE:
        tl.store(g_vectors + PARTS * images * C + place, to_strength, mask=exists)


def _grid(x: Tensor, noise: Tensor | None) -> tuple[tuple[int, int, int], list, dict]:
    """The launch grid for x, and the sizes and block constants of every kernel."""
    images, channels, height, width = x.shape
    pixels = height * width
    block_c = min(64, triton.next_power_of_2(channels))
    each = min(PIXELS, pixels)
    if pixels & (pixels - 1):
        raise ValueError(f"a map of {height}x{width} pixels is not a power of two")
    grid = (pixels // each, triton.cdiv(channels, block_c), images)
    stride = 0 if noise is None or noise.shape[0] == 1 else pixels
    blocks = {"PIXELS": each, "BLOCK_P": min(each, 4096 // block_c, 64), "BLOCK_C": block_c}
    return grid, [channels, pixels, stride], blocks | {"NOISE": noise is not None}


def _rows(vectors: Tensor | None, x: Tensor) -> tuple[Tensor, int]:
    """`vectors` (B, C, ...) with adjacent channels, and the elements from image to image; if they
    are None, x in their place, which the kernel does not read."""
    if vectors is None:
        return x, 0
    vectors = vectors if vectors.stride(1) == 1 else vectors.contiguous()
    return vectors, vectors.stride(0)


def _parts_of(x: Tensor, noise: Tensor | None, both: bool = True) -> Tensor:
    grid = _grid(x, noise)[0]
    return x.new_empty(1 + both, grid[0], *x.shape[:2], dtype=torch.float32)


@torch.library.custom_op("style_norm::moments", mutates_args=())
def moments(x: Tensor, bias: Tensor, noise: Tensor | None, strength: Tensor | None) -> Tensor:
    """Partial means and sums of squared deviations, (2, parts, B, C)."""
    out = _parts_of(x, noise)
    grid, sizes, blocks = _grid(x, noise)
    moments_kernel[grid](x, bias, noise, strength, out, *sizes, **blocks)
    return out


@moments.register_fake
def _(x, bias, noise, strength):
    return _parts_of(x, noise)


@torch.library.custom_op("style_norm::normalize", mutates_args=())
def normalize(
    x: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor | None,
    style: Tensor | None,
    found: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y like x, mean and variance (B, C, 1, 1)."""
    y, mean, variance = _like(x)
    grid, sizes, blocks = _grid(x, noise)
    styles, style_stride = _rows(style, x)
    normalize_kernel[grid](
        x, bias, noise, strength, styles, found, y, mean, variance,
        *sizes, style_stride, eps, STYLE=style is not None, PARTS=grid[0], **blocks,
    )  # fmt: skip
    return y, mean, variance


def _like(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance = (x.new_empty(*x.shape[:2], 1, 1, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x), mean, variance


@normalize.register_fake
def _(x, bias, noise, strength, style, found, eps):
    return _like(x)


@torch.library.custom_op("style_norm::gradient_sums", mutates_args=())
def gradient_sums(
    g_y: Tensor,
    x: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> Tensor:
    """Partial sums of g_y and of g_y times the normalised map, (2, parts, B, C)."""
    out = _parts_of(x, noise)
    grid, sizes, blocks = _grid(x, noise)
    gradient_sums_kernel[grid](
        g_y, x, bias, noise, strength, mean, variance, out, *sizes, eps, **blocks
    )
    return out


@gradient_sums.register_fake
def _(g_y, x, bias, noise, strength, mean, variance, eps):
    return _parts_of(x, noise)


@torch.library.custom_op("style_norm::gradient", mutates_args=())
def gradient(
    g_y: Tensor,
    x: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor | None,
    style: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    sums: Tensor,
    eps: float,
    g_mean: Tensor | None,
    g_variance: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """g_x like x; g_style (B, 2C) or empty; sums for bias and strength, (2 or 1, parts, B, C)."""
    g_x, g_style, g_vectors = _gradients(x, noise, style)
    grid, sizes, blocks = _grid(x, noise)
    styles, style_stride = _rows(style, x)
    to_mean, mean_stride = _rows(g_mean, x)
    to_variance, variance_stride = _rows(g_variance, x)
    gradient_kernel[grid](
        g_y, x, bias, noise, strength, styles, mean, variance, sums, to_mean, to_variance,
        g_x, g_style, g_vectors, *sizes, style_stride, mean_stride, variance_stride, eps,
        STYLE=style is not None, MEAN=g_mean is not None, VARIANCE=g_variance is not None,
        PARTS=grid[0], **blocks,
    )  # fmt: skip
    return g_x, g_style, g_vectors


def _gradients(x: Tensor, noise: Tensor | None, style: Tensor | None):
    g_style = x.new_empty(0) if style is None else style.new_empty(style.shape)
    return torch.empty_like(x), g_style, _parts_of(x, noise, both=noise is not None)


@gradient.register_fake
def _(g_y, x, bias, noise, strength, style, mean, variance, sums, eps, g_mean, g_variance):
    return _gradients(x, noise, style)


def forward(x, bias, eps, noise, strength, style):
    """y, mean, variance, and the x that `backward` needs."""
    x = x.contiguous(memory_format=torch.channels_last)
    found = moments(x, bias, noise, strength)
    y, mean, variance = normalize(x, bias, noise, strength, style, found, eps)
    return y, mean, variance, x


def backward(
    g_y, x, bias, noise, strength, style, mean, variance, eps, g_mean, g_variance, weights=True
):
    """Gradients of x, bias, strength and style; those of bias and strength only if `weights`."""
    g_y = g_y.contiguous(memory_format=torch.channels_last)
    sums = gradient_sums(g_y, x, bias, noise, strength, mean, variance, eps)
    g_x, g_style, g_vectors = gradient(
        g_y, x, bias, noise, strength, style, mean, variance, sums, eps, g_mean, g_variance
    )
    g_style = None if style is None else g_style
    if not weights:
        return g_x, None, None, g_style
    g_vectors = g_vectors.sum((1, 2))[:, None, :, None, None]
    return g_x, g_vectors[0], None if noise is None else g_vectors[1], g_style
