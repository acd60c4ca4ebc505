"""A head as a relief: the point, the normal and the light at each pixel.

A point of the head is (x, y), x to the right and y up from between the eyes, in half frames. What
is painted in these coordinates turns with the head. `f` is a `faces.Face`; `g` has an array for
each property of the pixels: see `pose`.
"""

import functools
import types
from math import cos, sin

import numpy as np

from dataprep.drawn.canvas import bell, grid, hsv, step, unit

CROWN, DEPTH, PIVOT = 0.70, 0.56, 0.30  # skull above the eyes, its half depth, the axis it turns on


def pose(f, size):
    """What is known of each pixel, as whole frames (H, W) or (3, H, W).

    X from the axis the head turns on, Y up, y on the head; later x on the head, its unit normal n,
    how far inside the `outline` of the head and the `window` in the hair the pixel is, the canvas.
    """
    X, Y = grid(size)
    X, Y = X * cos(f.roll) - Y * sin(f.roll), Y * cos(f.roll) + X * sin(f.roll) - 0.02
    y = Y - sin(f.pitch) * (0.12 - 0.5 * X * X - 0.6 * Y * Y)  # a bowl stands for the depth
    X += PIVOT * sin(f.yaw)
    x, outline = np.zeros((2, size, size), np.float32)
    n, canvas = np.zeros((2, 3, size, size), np.float32)
    window = np.ones_like(x)
    return types.SimpleNamespace(
        size=size, X=X, Y=Y, x=x, y=y, n=n, outline=outline, window=window, canvas=canvas
    )


def trace(f, g):
    """Sets x, the normal n, which turns with the head, and the outline.

    Each level y of the head is an ellipse (x / w)^2 + (z / d)^2 = 1. With t the share of the way to
    the crown or to the chin, its half width w is width sqrt(1 - t^2.4) above the eyes and, below,
    width (1 - taper t^2) sqrt(1 - t^jaw); there the ellipse also moves forward. Turned by the yaw,
    its front is at the greater root Z of a Z^2 + 2 b X Z + c X^2 = 1.
    """
    C, S = cos(f.yaw), sin(f.yaw)
    y = np.linspace(-1.3, 1.3, 4096, dtype=np.float32)
    up, down = np.clip(y / CROWN, 0, 1), np.clip(-y / f.chin, 0, 1)
    w = f.width * (1 - f.taper * down**2) * np.sqrt((1 - up**2.4) * (1 - down**f.jaw)) + 0.02
    d = DEPTH * (1 - 0.5 * down**2) * np.sqrt((1 - up**2.4) * (1 - down**5)) + 0.02
    seen = np.hypot(w * C, d * S) - 0.03  # half its width as seen, none past the ends
    tables = (
        S * 0.2 * down**2,  # how far forward, as seen
        *(w**-2, d**-2, np.gradient(w, y) / w**3, np.gradient(d, y) / d**3),  # for the normal
        *((S / w) ** 2 + (C / d) ** 2, S * C * (d**-2 - w**-2), (C / w) ** 2 + (S / d) ** 2),
    )
    at = np.clip((g.y + 1.3) * (4095 / 2.6), 0, 4095).astype(np.int32)
    half = seen[at]
    at = np.maximum(at, np.searchsorted(y, 0.005 - f.chin))  # the edge of the chin faces down
    shift, in_w, in_d, slope_w, slope_d, a, b, c = (t.astype(np.float32)[at] for t in tables)
    X = g.X - shift
    g.outline[:] = half - np.abs(X)
    b *= X
    Z = (np.sqrt(np.maximum(b * b - a * (c * X * X - 1), 0)) - b) / a
    g.x[:], z = X * C - Z * S, X * S + Z * C
    g.n[:] = unit(g.x * in_w, -(g.x * g.x * slope_w + z * z * slope_d), z * in_d)


def nose_relief(f, x, y):
    """Height of the nose above the face."""
    tip = y + f.nose_length
    ridge = 0.075 * bell(x, 0.05) * step(-0.06, 0.02, tip) * step(f.nose_length + 0.06, -0.02, tip)
    return ridge + 0.075 * bell(x, 0.02 + 0.6 * f.nose_width, tip - 0.01, 0.06)


def lift_nose(f, g):
    """Moves x and y: the nose stands out, so it shifts more than the face below it."""
    x, y = g.x.copy(), g.y.copy()
    for _ in range(2):
        lift = 0.6 * nose_relief(f, g.x, g.y)  # at its full height it would hide its far side
        g.x[:], g.y[:] = x - sin(f.yaw) * lift, y - sin(f.pitch) * lift


def mouth_level(f):
    """Height of the mouth: it follows both the nose and the chin."""
    return 0.02 - 0.55 * f.nose_length - 0.45 * f.chin


def relief(f, g):
    """Slopes (H, W) in x and in y of all that stands out of the face or sinks into it."""
    tip, mouth, cheer = -f.nose_length, mouth_level(f), max(f.smile, 0)
    bumps = (  # x, y, their spreads, height; a pair where x is not 0
        (f.nose_width, tip - 0.025, 0.04, 0.035, 0.038),
        (f.eye_gap, 0.03, 0.13, 0.085, -0.045),
        (f.eye_gap, 0, 0.1, 0.07, 0.035),
        (0.19, f.brow_height, 0.15, 0.05, 0.02),
        (0.29, -0.19 + 0.03 * cheer, 0.15, 0.12, 0.035 + 0.03 * cheer),
        (f.mouth_width + 0.03, mouth, 0.04, 0.06, -0.012 - 0.015 * cheer),
        (0, mouth, 0.2, 0.13, 0.03),
        (0, mouth + 0.09, 0.02, 0.05, -0.012),
        (0, mouth - 0.115, 0.11, 0.04, -0.022),
        (0, 0.11 - f.chin, 0.12, 0.085, 0.04),
    )
    h, ax = nose_relief(f, g.x, g.y), np.abs(g.x)
    for x, y, wide, high, height in bumps:
        h += height * bell(ax - x if x else ax, wide, g.y - y, high)
    dy, dx = np.gradient(h, -2 / g.size, 2 / g.size)
    return dx, dy


@functools.lru_cache(maxsize=1)
def backdrop(f):
    """The two colours of the background."""
    near = hsv(f.back_hue, f.back_chroma, f.back_light)
    return near, hsv(f.back_hue + f.back_turn, 0.9 * f.back_chroma, 0.62 * f.back_light)


def light(f, n, wrap=(0.5, 0.36, 0.3), gloss=0.0):
    """What a surface with unit normals n (3, H, W) sends back of the light: matt (3, H, W), gloss.

    A lamp that reaches around edges by `wrap`, for red further than for blue, as in skin, and a
    dome that is brighter above and takes the colour of the background.
    """
    lamp = np.float32([f.light_x, f.light_y, 0.75])
    lamp /= np.linalg.norm(lamp)
    key = 1.45 * f.contrast * np.float32([1 + 0.07 * f.light_warmth, 1, 1 - 0.1 * f.light_warmth])
    fill = (1.1 - f.contrast) * (0.75 + 0.25 * backdrop(f)[0] / backdrop(f)[0].mean())
    facing = n[0] * lamp[0] + n[1] * lamp[1] + n[2] * lamp[2]
    dome = 0.72 + 0.28 * n[1]
    matt = np.empty_like(n)
    for out, w, k, sky in zip(matt, wrap, key, fill):
        t = np.maximum((facing + w) * (1 / (1 + w)), 0)
        np.multiply(t, 0.55 * k, out=out)
        out += 0.45 * k
        out *= t
        out += dome * sky
    if not gloss:
        return matt, 0
    half = lamp + np.float32([0, 0, 1])
    half /= np.linalg.norm(half)
    shine = np.maximum(n[0] * half[0] + n[1] * half[1] + n[2] * half[2], 0)
    for _ in range(4):
        shine *= shine
    return matt, shine * (gloss * f.contrast)
