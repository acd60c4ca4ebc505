"""Tools for painting: soft masks, colours in linear light, hair strands, a grid.

Masks and coordinates are float32 arrays (H, W), a canvas is (3, H, W). Lengths are in half frames:
the image spans [-1, 1] in X (right) and in Y (up).
"""

import functools
import types

import numpy as np

# Once a block this large has been freed, glibc keeps freed memory rather than hand it back and
# fault its pages in anew for every array: a quarter of the time of a portrait.
np.empty(30 << 20, np.uint8)


def ramp(stops, at):
    """Linear light (3,) at `at` in [0, 1] along evenly spaced stops of 8-bit sRGB."""
    places = np.linspace(0, 1, len(stops))
    return np.array([np.interp(at, places, c) / 255 for c in zip(*stops)], np.float32) ** 2


def hsv(hue, saturation, value):
    """Linear light (3,) of a hue in turns, a saturation and a value in [0, 1]."""
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (value * (1 - saturation + saturation * wheel)).astype(np.float32) ** 2


def step(lo, hi, f):
    """0 where f is beyond `lo`, 1 beyond `hi`, smooth between; `lo` may be the greater."""
    t = np.clip((f - lo) * (1 / (hi - lo)), 0, 1)
    s = 3 - 2 * t
    s *= t
    s *= t
    return s


def bell(x, width, y=None, height=1.0):
    """exp(-(x / width)^2 - (y / height)^2)."""
    q = np.square(x * (1 / width))
    if y is not None:
        q += np.square(y * (1 / height))
    return np.exp(np.negative(q, out=q), out=q)


def unit(*n):
    """The three components n, scaled to length 1, as (3, H, W)."""
    n = np.stack(n)
    n *= 1 / np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2] + 1e-9)
    return n


def cover(f, soft=1.0):
    """Share of each pixel where f > 0, its edge `soft` pixels wide however steep f is."""
    slope = np.full_like(f, 1e-6)
    slope[:, 1:] += np.abs(f[:, 1:] - f[:, :-1])
    slope[1:] += np.abs(f[1:] - f[:-1])
    slope *= soft
    share = np.divide(f, slope, out=slope)
    share += 0.5
    return np.clip(share, 0, 1, out=share)


def paint(canvas, mask, colour):
    """Lays `colour`, three numbers or three (H, W), over the canvas where the mask says."""
    for plane, c in zip(canvas, colour):
        plane += mask * (c - plane)


def darken(canvas, mask, share):
    """Takes from each of the three colours its `share` of the light where the mask says."""
    for plane, s in zip(canvas, share):
        plane *= 1 - s * mask


@functools.lru_cache(maxsize=4)
def grid(size):
    """X and Y of the pixel centres."""
    at = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    return np.broadcast_to(at, (size, size)), np.broadcast_to(-at[:, None], (size, size))


def crop(g, left, right, bottom, top):
    """The part of a namespace of whole-frame arrays within a box: views, so it can be painted."""
    ends = np.array([1 - top, 1 - bottom, 1 + left, 1 + right]) * (g.size / 2)
    r0, r1, c0, c1 = np.clip(np.rint(ends).astype(int), 0, g.size)
    parts = {k: v if k == "size" else v[..., r0:r1, c0:c1] for k, v in vars(g).items()}
    return types.SimpleNamespace(**parts)


@functools.cache
def strand_table():
    """One period of `strand`, 1024 values a unit: three octaves, smoothed over a twenty-fifth."""
    rng = np.random.default_rng(0)
    at, table = np.arange(8192) / 1024, 0
    for per_unit, share in ((5, 0.5), (11, 0.4), (23, 0.3)):
        knots = rng.normal(size=8 * per_unit)
        table += share * np.interp(at, np.arange(len(knots)) / per_unit, knots, period=8)
    table = np.convolve(np.resize(table, 8192 + 40), np.full(41, 1 / 41), "valid")
    return ((table - table.mean()) / table.std() / 2).astype(np.float32)


def strand(at):
    """Noise with a value for each strand, about 20 a unit: mean 0, deviation 1/2, period 8."""
    return strand_table()[(at * 1024).astype(np.int32) & 8191]
