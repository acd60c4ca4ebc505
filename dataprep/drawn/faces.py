"""Portraits: the factors of a face, drawn at random from their ranges."""

import dataclasses

import numpy as np
from PIL import Image

from dataprep.drawn.portrait import render

FINEST = 128  # pixels below which strands and lashes alias: smaller faces are reduced from these


def factor(lo, hi, what):
    """A field for a number in [lo, hi]."""
    return dataclasses.field(default=(lo + hi) / 2, metadata={"range": (lo, hi), "what": what})


@dataclasses.dataclass(frozen=True)
class Face:
    """The factors of one portrait, each continuous within its range; the default is mid-range."""

    yaw: float = factor(-0.4, 0.4, "radians, the nose to the right of the picture")
    pitch: float = factor(-0.25, 0.25, "radians, looking up")
    roll: float = factor(-0.09, 0.09, "radians, clockwise")
    width: float = factor(0.46, 0.55, "half width of the skull")
    chin: float = factor(0.68, 0.8, "from the eyes to the chin")
    jaw: float = factor(2.6, 5, "from a narrow to a square chin")
    taper: float = factor(0.2, 0.38, "how much narrower the jaw is than the cheekbones")
    melanin: float = factor(0, 1, "from fair to dark skin")
    warmth: float = factor(-1, 1, "of the skin, from rosy to golden")
    blush: float = factor(0, 1, "of cheeks and nose")
    eye_size: float = factor(0.11, 0.14, "half width of an eye")
    eye_gap: float = factor(0.205, 0.24, "from the middle of the face to that of an eye")
    eye_open: float = factor(0.32, 0.62, "height of the opening over the half width of the eye")
    eye_tilt: float = factor(-0.1, 0.2, "slope, the outer corner up")
    iris: float = factor(0, 1, "from brown by green to grey blue, browner with dark skin")
    gaze_x: float = factor(-0.25, 0.25, "in half widths of the eye, to the right")
    gaze_y: float = factor(-0.1, 0.1, "in half widths of the eye, up")
    brow_height: float = factor(0.15, 0.2, "above the eye")
    brow_slope: float = factor(-0.25, 0.12, "outer end up")
    brow_weight: float = factor(0.012, 0.032, "half thickness")
    nose_length: float = factor(0.2, 0.28, "from the eyes to the tip")
    nose_width: float = factor(0.05, 0.1, "from the middle to the side of the nostrils")
    mouth_width: float = factor(0.14, 0.2, "half width")
    smile: float = factor(-0.15, 1, "corners down to corners up")
    mouth_open: float = factor(-0.04, 0.07, "half the gap between the lips; closed below 0")
    lip_fullness: float = factor(0.027, 0.065, "thickness of one lip")
    makeup: float = factor(0, 1, "from bare lips and lashes to painted ones")
    hair_shade: float = factor(0, 1, "from blond to black, darker with dark skin")
    hair_red: float = factor(-2, 1, "copper, where above 0")
    hair_grey: float = factor(-4, 1, "grey, where above 0")
    hair_length: float = factor(-0.2, 1.3, "how far below the eyes it ends")
    hair_volume: float = factor(0.04, 0.22, "above the skull")
    hair_curl: float = factor(0, 1, "from straight to curly")
    hairline: float = factor(0.42, 0.56, "height of the forehead above the eyes")
    fringe: float = factor(-1, 1, "how far hair falls over the forehead, where above 0")
    parting: float = factor(-0.3, 0.3, "where the hair parts")
    strands: float = factor(0, 7, "which strands")
    beard: float = factor(-1.5, 1, "density, where above 0")
    glasses: float = factor(-1, 0.4, "strength of the frame, where above 0")
    light_x: float = factor(-0.9, 0.9, "where the light stands, to the right")
    light_y: float = factor(0.05, 0.8, "where the light stands, up")
    contrast: float = factor(0.35, 0.8, "share of the light that has a direction")
    light_warmth: float = factor(-1, 1, "colour of the light, from cool to warm")
    back_hue: float = factor(0, 1, "of the background, in turns")
    back_turn: float = factor(-0.2, 0.2, "from one hue of the background to the other")
    back_chroma: float = factor(0.05, 0.42, "saturation of the background")
    back_light: float = factor(0.35, 0.95, "brightness of the background")
    back_angle: float = factor(0, 6.28, "direction of the gradient, in radians")
    cloth_hue: float = factor(0, 1, "in turns")
    cloth_light: float = factor(0.15, 0.9, "brightness of the clothes")
    neckline: float = factor(0.02, 0.2, "depth")


def random_face(seed, index):
    """Face number `index` of the endless series `seed`: every factor uniform over its range."""
    shares = np.random.default_rng([seed, index]).random(len(dataclasses.fields(Face)))
    ranges = [field.metadata["range"] for field in dataclasses.fields(Face)]
    return Face(*(float(lo + (hi - lo) * share) for (lo, hi), share in zip(ranges, shares)))


def draw(seed, index, size=256):
    """The portrait of `random_face(seed, index)` as (size, size, 3) uint8, RGB."""
    fine = -(-FINEST // size)
    image = Image.fromarray(render(random_face(seed, index), size * fine))
    return np.array(image.reduce(fine))
