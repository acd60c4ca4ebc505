"""Draws toy cars in the layout of Cars3D, a .mat for each:

    python -m dataprep.drawn.cars data/toy-cars-mat --count 183 --size 64

A car is seven shaded boxes (body, cabin, four wheels, lamps) with six factors of shape and two of
colour, seen from 24 azimuths at 4 elevations before white. Car i depends on the seed and on i
alone. Reader, split and measures are those of the real set, and every factor is known.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy.io import savemat

from dataprep.runtime.files import whole

AZIMUTHS, ELEVATIONS = 24, 4
LIGHT = np.array([0.3, 0.5, 0.8]) / np.linalg.norm([0.3, 0.5, 0.8])
DISTANCE, ZOOM = 6.0, 2.3
SMOOTH = 3  # subpixels a side
DARK, LAMP = (0.13, 0.13, 0.15), (1.0, 0.93, 0.6)
# The corners of each face of a box, as signs along length, width and height, from outside.
FACES = {
    (1, 0, 0): [(1, -1, -1), (1, 1, -1), (1, 1, 1), (1, -1, 1)],
    (-1, 0, 0): [(-1, 1, -1), (-1, -1, -1), (-1, -1, 1), (-1, 1, 1)],
    (0, 1, 0): [(1, 1, -1), (-1, 1, -1), (-1, 1, 1), (1, 1, 1)],
    (0, -1, 0): [(-1, -1, -1), (1, -1, -1), (1, -1, 1), (-1, -1, 1)],
    (0, 0, 1): [(1, -1, 1), (1, 1, 1), (-1, 1, 1), (-1, -1, 1)],
}


class Car(NamedTuple):
    """Half lengths in units of about a car's; hue in turns, value in [0, 1]."""

    length: float
    width: float
    height: float
    cabin_length: float
    cabin_height: float
    wheel: float
    hue: float
    value: float


def car(seed: int, index: int) -> Car:
    """Car `index` of a series."""
    low = (0.85, 0.38, 0.16, 0.35, 0.14, 0.13, 0.0, 0.45)
    high = (1.15, 0.52, 0.28, 0.65, 0.26, 0.22, 1.0, 1.0)
    return Car(*np.random.default_rng([seed, index]).uniform(low, high).tolist())


class Box(NamedTuple):
    centre: tuple[float, ...]
    half: tuple[float, ...]
    colour: tuple[float, ...]


def boxes(c: Car) -> list[Box]:
    """Length along x, the front at +x; the ground at z = 0."""
    paint = colour(c.hue, c.value)
    base, top = c.wheel, c.wheel + 2 * c.height
    found = [Box((0, 0, base + c.height), (c.length, c.width, c.height), paint)]
    cabin = (c.cabin_length, 0.85 * c.width, c.cabin_height)
    red, green, blue = (0.55 * p + 0.25 for p in paint)
    glass = (red, green, blue)
    found.append(Box((-0.12 * c.length, 0, top + c.cabin_height), cabin, glass))
    for x in (-0.6, 0.6):
        for y in (-1, 1):
            place = (x * c.length, y * c.width, c.wheel)
            found.append(Box(place, (c.wheel, 0.12 * c.width, c.wheel), DARK))
    lamps = (c.length, 0, base + 1.2 * c.height)
    found.append(Box(lamps, (0.03, 0.8 * c.width, 0.25 * c.height), LAMP))
    return found


def colour(hue: float, value: float) -> tuple[float, ...]:
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return tuple((value * (0.25 + 0.75 * wheel)).tolist())


def draw(c: Car, azimuth: int, elevation: int, size: int) -> np.ndarray:
    """The view (size, size, 3) uint8 from one of the azimuths and elevations."""
    turn, tilt = 2 * np.pi * azimuth / AZIMUTHS, np.radians(5 + 15 * elevation)
    sight = np.array([np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt)])
    right = np.array([-np.sin(turn), np.cos(turn), 0.0])
    up = np.cross(sight, right)
    eye = DISTANCE * sight + np.array([0, 0, 0.35])
    faces = []
    for order, box in enumerate(boxes(c)):
        for normal, corners in FACES.items():
            points = np.array(box.centre) + np.array(corners) * np.array(box.half)
            middle = points.mean(0)
            if np.dot(eye - middle, normal) <= 0:
                continue
            seen = points - eye
            depth = -seen @ sight
            flat = np.stack([seen @ right, -(seen @ up)], 1) / depth[:, None]
            shade = 0.45 + 0.55 * max(0.0, float(np.dot(normal, LIGHT)))
            # Of faces in one plane the later box is in front: lamps before the body.
            faces.append((-np.linalg.norm(eye - middle), order, flat, shade, box.colour))
    large = size * SMOOTH
    image = Image.new("RGB", (large, large), "white")
    pen = ImageDraw.Draw(image)
    for _, _, flat, shade, paint in sorted(faces, key=lambda face: face[:2]):
        outline = [tuple(p) for p in large * (0.5 + ZOOM * flat)]
        pen.polygon(outline, tuple(round(255 * min(1.0, shade * part)) for part in paint))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def views(c: Car, size: int) -> np.ndarray:
    """All views of a car, (size, size, 3, AZIMUTHS, ELEVATIONS) uint8."""
    return np.stack(
        [np.stack([draw(c, a, e, size) for e in range(ELEVATIONS)], -1) for a in range(AZIMUTHS)],
        -2,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dataprep.drawn.cars",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="a folder that is not there")
    parser.add_argument("--count", type=int, default=183, help="cars (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which series of cars (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        with whole(given.out) as folder:
            folder.mkdir()
            for index in range(given.count):
                content = {"im": views(car(given.seed, index), given.size)}
                savemat(folder / f"car_{index:03d}.mat", content, do_compression=True)
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
