"""Draws a portrait, from back to front.

`f` is a `faces.Face`; `g` has an array for each property of the pixels: see `head.pose`.
"""

import functools
from math import cos, sin, tanh

import numpy as np

from dataprep.drawn.canvas import bell, cover, crop, darken, hsv, paint, ramp, step, strand, unit
from dataprep.drawn.head import (
    CROWN,
    PIVOT,
    backdrop,
    lift_nose,
    light,
    mouth_level,
    pose,
    relief,
    trace,
)

FRONT = (-0.72, 0.72, -1, 0.72)  # the box where the head is traced
SKIN = (
    (252, 220, 200),
    (243, 201, 172),
    (221, 167, 130),
    (171, 115, 80),
    (126, 81, 58),
    (90, 58, 44),
)
HAIR = (228, 202, 156), (198, 156, 100), (146, 98, 56), (88, 54, 34), (50, 32, 25), (24, 20, 23)
IRIS = (58, 34, 22), (112, 68, 34), (136, 110, 54), (92, 128, 88), (84, 134, 172), (132, 158, 178)
COPPER, GREY, LIPSTICK = np.array(
    [[0.4, 0.085, 0.02], [0.5, 0.5, 0.52], [0.48, 0.05, 0.075]], np.float32
)


def render(f, size=256):
    """The face f as (size, size, 3) uint8."""
    g = pose(f, size)
    background(f, g)
    h = crop(g, -1, 1, -max(f.hair_length, 0.4) - 0.25, 1)
    shape, lock, colour = hair(f, h)
    paint(h.canvas, cover(shape, 1.5), [0.6 * c for c in colour])  # behind the neck, in shadow
    trace(f, crop(g, *FRONT))
    lift_nose(f, crop(g, -0.45, 0.45, -0.5, 0.2))
    neck(f, crop(g, -0.62, 0.62, -1, -0.3))
    clothes(f, crop(g, -1, 1, -1, -0.72))
    for side in (-1, 1):
        ear(f, crop(g, *sorted((0.2 * side, 0.85 * side)), -0.35, 0.2), side)
    skin(f, crop(g, *FRONT))
    mouth(f, crop(g, -0.45, 0.45, -0.75, -0.2))
    for side in (-1, 1):
        eye(f, crop(g, *sorted((-0.12 * side, 0.62 * side)), -0.17, 0.24), side)
    brows(f, crop(g, -0.65, 0.65, 0, 0.4))
    glasses(f, crop(g, -0.72, 0.72, -0.3, 0.25))
    front = np.minimum(shape, 0.025 * lock * step(0, 0.3, h.y) - h.window)
    root = 1 - 0.3 * bell(np.minimum(h.window, 0), 0.05)
    paint(h.canvas, cover(front, 1.5), [c * root for c in colour])
    srgb = np.sqrt(np.clip(g.canvas, 0, 2))
    srgb *= 1.12 - 0.16 * srgb * srgb  # highlights roll off, as film does
    srgb = (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(srgb.transpose(1, 2, 0))


@functools.lru_cache(maxsize=1)
def skin_colour(f):
    return ramp(SKIN, f.melanin) * (1 + f.warmth * np.float32([0, 0.035, -0.1]))


@functools.lru_cache(maxsize=1)
def hair_colour(f):
    shade = f.hair_shade + (1 - f.hair_shade) * 0.75 * step(0.3, 0.75, f.melanin)
    colour = ramp(HAIR, shade)
    colour += 0.75 * max(f.hair_red, 0) * (COPPER * np.float32(1.1 - 0.7 * shade) - colour)
    return colour + 0.85 * max(f.hair_grey, 0) * (GREY - colour)


def background(f, g):
    """A gradient between two colours, brighter behind the head."""
    t = step(-1.3, 1.3, g.X * cos(f.back_angle) + g.Y * sin(f.back_angle))
    glow = 0.25 * bell(g.X, 0.9, g.Y, 0.9) + 0.88
    for plane, a, b in zip(g.canvas, *backdrop(f)):
        plane[:] = (a + t * (b - a)) * glow


def neck(f, g):
    """The neck, widening to the shoulders, in the shadow of the jaw."""
    x = g.X - 0.5 * PIVOT * sin(f.yaw)
    half = 0.085 + 0.3 * f.width + 0.2 * step(-0.72, -1, g.Y) ** 2
    r = np.clip(x / half, -1, 1)
    lit, _ = light(f, unit(r, np.full_like(r, -0.1), np.sqrt(1.02 - r * r)))
    jaw = np.roll(g.outline, round(0.06 * g.size), 0)  # its shadow falls below it
    jaw = step(-0.16, 0.1, jaw - 0.06 * f.light_x * r) * step(-f.chin - 0.36, -f.chin - 0.02, g.Y)
    lit *= 1 - 0.62 * jaw
    paint(g.canvas, cover(half - np.abs(x)), [a * b for a, b in zip(lit, skin_colour(f))])


def clothes(f, g):
    """Shoulders in one colour, with a hem around the neck."""
    x = g.X - 0.5 * PIVOT * sin(f.yaw)
    ax = np.abs(x)
    collar = -0.8 - f.neckline * (1 - np.minimum(ax / 0.36, 1) ** 2)
    edge = np.minimum(-0.8 - 0.05 * ax - 0.24 * ax**2.2, collar) - g.Y
    fold = 0.1 * np.sin(9 * x + 4 * g.Y + f.strands) * step(0, 0.3, edge)
    lit, _ = light(f, unit(0.75 * x + fold, np.full_like(x, 0.5), 0.8 - 0.2 * ax))
    lit *= 1 - 0.22 * step(0.045, 0.035, edge)  # the hem
    lit *= 1 - 0.35 * step(0.3, 0.1, ax) * step(-f.chin - 0.4, -f.chin, g.Y)  # below the chin
    cloth = hsv(f.cloth_hue, 0.45, f.cloth_light)
    paint(g.canvas, cover(edge), [a * b for a, b in zip(lit, cloth)])


def ear(f, g, side):
    """One ear, -1 the left one in the picture, 1 the right one."""
    y = (g.y + 0.08) / 0.15
    x = (g.X - 0.99 * side * f.width * cos(f.yaw) + 0.03 * sin(f.yaw)) / 0.085 - 0.25 * side * y
    edge = 1 - x * x - y * y
    lit, _ = light(f, unit(0.6 * x + 0.3 * side, 0.4 * y, 0.5 + np.maximum(edge, 0)))
    lit *= 1 - 0.4 * bell(x, 0.5, y - 0.1, 0.55)
    paint(g.canvas, cover(edge), [a * b for a, b in zip(lit, skin_colour(f))])


def skin(f, g):
    """The bare face; turns the normals to where they point in the picture, for the mouth."""
    x, y, ax, n = g.x, g.y, np.abs(g.x), g.n
    dx, dy = relief(f, g)
    keep = np.clip(1.6 * n[2], 0, 1)  # the relief fades where the face turns away
    n[:] = unit(n[0] - dx * keep, n[1] - dy * keep, n[2])
    C, S, P, Q = cos(f.yaw), sin(f.yaw), cos(f.pitch), sin(f.pitch)
    side, up, front = n[0] * C + n[2] * S, n[1], n[2] * C - n[0] * S
    n[:] = side, up * P + front * Q, front * P - up * Q
    lit, shine = light(f, n, gloss=0.15)
    tip = y + f.nose_length
    flush = 0.8 * bell(ax - 0.3, 0.16, y + 0.2, 0.12) + 0.35 * bell(x, 0.09, tip, 0.07)
    flush = f.blush * flush + 0.12 + 0.2 * bell(ax - f.eye_gap, 0.13, y, 0.08)
    shade = 0.72 + 0.28 * step(0, 0.16, g.outline)
    shade *= 1 - 0.75 * bell(ax - 0.55 * f.nose_width, 0.022, tip + 0.045, 0.013)
    shade *= 1 - 0.22 * bell(x, 0.1, tip + 0.075, 0.035)
    shade *= 1 - 0.25 * bell(ax - f.eye_gap + 0.03, 0.1, y - 0.055, 0.045)
    away = np.maximum(np.maximum(g.window, -f.hair_length - y - 0.03), 0)
    shade *= 1 - 0.4 * np.exp(-20 * away)  # near the hair
    colour = [tone * (1 - k * flush) for tone, k in zip(skin_colour(f), (0.04, 0.38, 0.34))]
    if f.beard > 0:
        mask = beard(f, g)
        shine *= 1 - mask
        colour = [c + mask * (0.7 * h - c) for c, h in zip(colour, hair_colour(f))]
    lit[0] *= np.sqrt(shade)  # light that enters the skin leaves it red, even in its shadows
    lit[1:] *= shade
    paint(g.canvas, cover(g.outline), [a * b + shine for a, b in zip(lit, colour)])


def beard(f, g):
    """Mask of beard and moustache."""
    ax, y = np.abs(g.x), g.y - mouth_level(f)
    jaw = step(-0.05, 0.13, 0.55 * np.square(ax / f.width) - 0.02 - y)
    hair = np.maximum(jaw, bell(ax - 0.07, 0.11, y - 0.075, 0.036))
    hair *= 1 - bell(ax, 0.7 * f.mouth_width, y, 0.045)
    return np.minimum(hair * (1.2 * f.beard * (1 - 0.6 * f.makeup)), 0.93)


def eye(f, g, side):
    """One eye in its own coordinates: e outward and v up from its middle, in its half widths."""
    e = (g.x * side - f.eye_gap) / f.eye_size
    v = g.y / f.eye_size - f.eye_tilt * e
    q, beside = np.clip(1 - e * e, 0, 1), 1.02 - np.abs(e)  # q from 1 in the middle to 0
    upper = f.eye_open * q**0.75 * (1 - 0.12 * e)
    lower = -0.42 * f.eye_open * q**0.8 * (1 + 0.2 * e) - 0.1 * q
    mask = cover(np.minimum(np.minimum(upper - v, v - lower), beside), 1.3)
    lid = step(0, 0.34, upper - v)  # the shadow of the upper lid
    lit, _ = light(f, unit(0.5 * e * side, 0.3 * v, np.ones_like(e)))
    lit = np.minimum(lit, 1.1) * (0.35 + 0.65 * lid) * (0.7 + 0.3 * q)
    paint(g.canvas, mask, [a * b for a, b in zip(lit, (0.84, 0.78, 0.76))])
    iris(f, g, e * side - f.gaze_x, v - f.gaze_y - 0.05, mask, 0.3 + 0.7 * lid)
    thick = (0.06 + 0.05 * step(-0.8, 0.9, e)) * (0.75 + 0.7 * f.makeup)
    lashes = np.minimum(v - upper + 0.035, upper + thick * np.sqrt(q + 0.08) - v)
    lashes = cover(np.minimum(lashes, 0.5 * (beside + 0.03)), 1.6)
    paint(g.canvas, lashes * (0.7 + 0.25 * f.makeup), (0.012, 0.008, 0.008))
    rim = bell(v - lower + 0.03, 0.06) * step(0, 0.3, beside)
    paint(g.canvas, rim * (0.25 + 0.2 * f.makeup), (0.1, 0.045, 0.035))
    crease = bell(v - upper - 0.2 - 0.06 * e, 0.06) * step(-0.1, 0.4, beside)
    darken(g.canvas, crease, (0.3, 0.42, 0.45))


def iris(f, g, x, y, mask, lid):
    """Iris, pupil and the two reflections, x and y from the middle in half widths of the eye."""
    r = np.sqrt(x * x + y * y) / 0.47
    rays = 0.2 * strand(np.arctan2(y, x) * 1.2 + 4)
    glow = (0.55 + 0.9 * step(0.85, -1.9, y / 0.47) + rays) * (1 - 0.75 * step(0.75, 1, r)) * lid
    colour = ramp(IRIS, f.iris * (1 - 0.75 * step(0.35, 0.8, f.melanin)))
    paint(g.canvas, cover(1 - r, 1.6) * mask, [glow * c for c in colour])
    paint(g.canvas, cover(0.42 - r, 1.6) * mask, (0.004, 0.003, 0.004))
    lamp = 0.16 * tanh(8 * f.light_x)
    glint = cover(0.105 - np.sqrt(np.square(x - lamp) + np.square(y - 0.17)), 1.6)
    paint(g.canvas, glint * mask, (1.1, 1.1, 1.1))
    paint(g.canvas, 0.35 * bell(x + lamp, 0.1, y + 0.2, 0.08) * mask, (0.8, 0.8, 0.8))


def brows(f, g):
    """Both brows, thinner outward; e runs from -1 at the nose to 1 at the temple."""
    e = (np.abs(g.x) - f.eye_gap) / 0.15
    middle = f.brow_height + 0.15 * f.brow_slope * e - 0.035 * np.square(e - 0.25)
    thick = f.brow_weight * (1.05 - 0.5 * step(-0.3, 1.1, e))
    mask = step(1.3, 0.3, np.abs(g.y - middle) / thick) * step(1.15, 0.7, e) * step(-1.05, -0.7, e)
    mask *= 0.8 + 0.14 * strand(9 * g.x + 5 * np.copysign(g.y, g.x))
    paint(g.canvas, np.minimum(mask, 0.95) * cover(g.outline), hair_colour(f) * 0.42 + 0.006)


def mouth(f, g):
    """Lips and, between them, teeth; u is 1 at the corners, v up from the line of the mouth."""
    u = g.x / (f.mouth_width * (1 + 0.18 * max(f.smile, 0)))
    au, q = np.abs(u), np.clip(1 - u * u, 0, 1)
    v = g.y - mouth_level(f) - f.smile * 0.055 * (au**1.8 - 0.45)
    gap = max(f.mouth_open, 0) * (0.7 + 0.3 * f.smile) * q**0.8
    bow = 1 - 0.28 * bell(u, 0.16) + 0.06 * bell(au - 0.3, 0.2)
    top = 0.6 * gap + f.lip_fullness * 0.85 * q**0.8 * bow
    low = -1.4 * gap - f.lip_fullness * 1.1 * q**0.6
    beside = (1.02 - au) * f.mouth_width
    bulge = np.where(v > 0, -0.5, np.clip((v - low) * (1.2 / f.lip_fullness) - 0.4, -0.4, 0.8))
    lit, shine = light(f, unit(g.n[0], g.n[1] + 0.5 * bulge, g.n[2]), gloss=0.16)
    shine *= step(0, -0.02, v)
    colour = skin_colour(f) * np.float32([0.8, 0.45, 0.45])
    colour += 0.85 * f.makeup * (LIPSTICK - colour)
    lips = 0.9 * cover(np.minimum(np.minimum(top - v, v - low), beside), 2.5)
    paint(g.canvas, lips, [a * b + shine for a, b in zip(lit, colour)])
    hole = cover(np.minimum(np.minimum(0.6 * gap - v, v + 1.4 * gap), beside), 1.5)
    hole *= step(0, 0.008, gap)
    paint(g.canvas, hole, (0.06, 0.008, 0.01))
    teeth = hole * step(-0.8, -0.3, v / (gap + 0.004)) * step(1, 0.7, au)
    paint(g.canvas, 0.92 * teeth, [a * b for a, b in zip(lit, (0.74, 0.7, 0.66))])
    darken(g.canvas, bell(v, 0.012) * step(1.12, 0.85, au) * (1 - hole), (0.55, 0.72, 0.72))


def glasses(f, g):
    """A frame of rounded squares, over lenses that take a little light."""
    if f.glasses <= 0:
        return
    x, y = np.abs(g.x), g.y + 0.015
    lens = 1 - np.cbrt(np.abs((x - f.eye_gap - 0.005) / 0.17) ** 3 + np.abs(y / 0.135) ** 3)
    bridge = np.minimum(0.013 - np.abs(y - 0.03 + 0.6 * x * x), f.eye_gap - 0.15 - x)
    arm = np.minimum(0.014 - np.abs(y - 0.035), x - f.eye_gap - 0.16)
    frame = cover(np.maximum(np.maximum(0.011 - 0.15 * np.abs(lens), bridge), arm), 1.3)
    strength = min(1, 8 * f.glasses)
    paint(g.canvas, 0.05 * strength * cover(lens), (0.75, 0.8, 0.85))
    paint(g.canvas, strength * frame * cover(g.outline), (0.02, 0.015, 0.015))


def hair(f, g):
    """Sets the window; returns the shape (H, W), positive within, its strands and its colour.

    Outline and window are implicit, half frames inside. Strands run along the two, or straight
    down into the fringe.
    """
    long, fall, curl = float(step(-0.05, 0.5, f.hair_length)), max(f.fringe, 0), f.hair_curl**2
    wave = curl * (0.012 + 0.033 * step(0.6, -0.3, g.y))
    X = g.X + wave * (np.sin(17 * g.y + 3 * g.X + f.strands) + 0.4 * np.sin(37 * g.y + 13 * g.X))
    y = 0.65 * g.Y + 0.35 * g.y + 0.5 * wave * np.sin(21 * g.X - 9 * g.y)
    half = hair_width(f, y, long)
    r = X / half
    outer = (1 - np.abs(r)) * half - 0.015
    g.window[:] = hair_window(f, g, long, fall)
    inside = np.clip(outer, 0, 1)
    q = inside / np.maximum(inside + np.clip(-g.window, 0, 1), 0.2)
    at = (0.7 + 0.8 * fall) * (r - f.parting * np.square(np.clip(y / CROWN, 0, 1)))
    at += (1.3 - 0.9 * fall) * q
    at += curl * (0.1 * np.sin(15 * y + 5 * at) + 0.06 * np.sin(31 * y - 8 * at))
    lock = strand(at + f.strands) * np.minimum(2.5 / f.width * half, 1)
    ends = y + f.hair_length + 0.05 * lock + 0.12 * (1 - long) * r * r
    return np.minimum(outer, ends), lock, hair_shade(f, np.clip(r, -1, 1), y, lock)


def hair_width(f, y, long):
    """Half the width of the hair at the height y: round above the eyes, falling below."""
    top, side = CROWN + 0.03 + f.hair_volume, f.width + 0.03 + 0.5 * f.hair_volume
    up, down = np.clip(y / top, 0, 1), np.maximum(-y, 0)
    half = side * np.sqrt(np.maximum(1 - up * up * np.sqrt(up), 1e-6))
    half += long * (0.05 + 0.6 * f.hair_volume) * step(0, 0.9, down) - 0.12 * (1 - long) * down
    return half - (1 - long) * (0.05 + 0.5 * f.hair_volume) * step(0.45, -0.05, y)


def hair_window(f, g, long, fall):
    """How far inside the opening that the hair leaves for the face: below the hairline, between."""
    x = g.X * cos(f.yaw) - sin(f.yaw) * np.sqrt(np.clip(0.3 - g.X * g.X, 0, 1))  # on a cylinder
    away = np.sqrt(np.square(x - f.parting) + 0.001)
    below = f.hairline - g.y - (0.16 - 0.1 * fall) * (1 - np.exp(-6 * away))
    below -= 0.27 * np.square(np.square(x / f.width))
    below -= fall * (0.2 - 0.08 * bell(x - f.parting, 0.08))
    between = f.width * (0.95 - 0.1 * long) - np.abs(x)
    between += (0.3 - 0.21 * long) * step(0.1, -0.9, g.y)
    h = np.clip(0.5 + 5 * (between - below), 0, 1)
    return between + h * (below - between) - 0.1 * h * (1 - h)  # the lesser, rounded


def hair_shade(f, r, y, lock):
    """Colour (3, H, W): a round shape of strands, with a band of sheen across them."""
    up = np.clip(y / CROWN, -0.6, 1)
    n = unit(0.9 * r + 0.12 * lock, 0.75 * up + 0.08, 0.9 * np.sqrt(1.05 - r * r))
    lit, _ = light(f, n, wrap=(0.35, 0.32, 0.3))
    lit *= np.clip(0.82 + 0.33 * lock, 0.25, 1.5)
    band = y - 0.42 - 0.2 * f.light_y + 0.5 * np.square(r - 0.4 * f.light_x) + 0.06 * lock
    sheen = 0.9 * f.contrast * bell(band, 0.14) * np.clip(0.7 + 0.6 * lock, 0, 1.4)
    return [a * b + sheen * (0.5 * b + 0.03) for a, b in zip(lit, hair_colour(f))]
