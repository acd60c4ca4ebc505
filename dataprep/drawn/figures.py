"""Draws waving figures in the layout of KTH's videos, an AVI for each person:

    python -m dataprep.drawn.figures data/toy-kth-avi --count 25 --frames 200

A person has five factors of build and four shades before a wall of a fifth. Both arms swing, each
at its own rate, and frame i shows the same pose in every video: the class is the person, the
content is the two angles, and every combination can be drawn. The videos are 160x120, grey and
lossless (FFV1), with KTH's list 00sequences.txt beside them. Person i depends on the seed and on i
alone.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from dataprep.runtime.files import whole

WIDTH, HEIGHT, RATE = 160, 120, 25
SMOOTH = 4  # subpixels a side
GROUND = 112  # pixels from above
PERIODS, STARTS = (23.3, 27.1), (0.3, 1.1)  # frames of a swing; phases, of left and right arm
NAME = "person{:02d}_handwaving_d4"


class Person(NamedTuple):
    """Lengths in pixels, shades in [0, 1]."""

    height: float
    shoulders: float
    hips: float
    limb: float
    head: float
    wall: float
    shirt: float
    trousers: float
    skin: float
    floor: float


class Pose(NamedTuple):
    """Angles of the arms from hanging down, in radians: pi is straight up."""

    left: float
    right: float


def person(seed: int, index: int) -> Person:
    """Person `index` of a series."""
    low = (70, 9, 7, 3.0, 6.0, 0.55, 0.1, 0.1, 0.6, 0.4)
    high = (92, 16, 12, 5.5, 9.0, 0.9, 0.95, 0.5, 0.95, 0.75)
    return Person(*np.random.default_rng([seed, index]).uniform(low, high).tolist())


def pose(frame: int) -> Pose:
    """The pose in frame 1, 2, ... of every video: from 20 to 160 degrees."""
    turns = 2 * np.pi * frame / np.array(PERIODS) + np.array(STARTS)
    left, right = np.radians(90 - 70 * np.cos(turns))
    return Pose(float(left), float(right))


def draw(p: Person, at: Pose) -> np.ndarray:
    """The frame (HEIGHT, WIDTH) uint8."""
    image = Image.new("L", (WIDTH * SMOOTH, HEIGHT * SMOOTH), shade(p.wall))
    pen = ImageDraw.Draw(image)
    middle, top = WIDTH / 2, GROUND - p.height
    neck, hip = top + 2 * p.head, GROUND - 0.48 * p.height
    shoulder, reach = neck + p.limb / 2, 0.4 * p.height
    pen.rectangle(scaled(0, GROUND - 6, WIDTH, HEIGHT), fill=shade(p.floor))
    for side in (-1, 1):
        x = middle + side * (p.hips - p.limb / 2)
        line(pen, (middle + side * p.limb / 2, hip), (x, GROUND), p.limb, p.trousers)
    corners = [(-p.shoulders, neck), (p.shoulders, neck), (p.hips, hip), (-p.hips, hip)]
    torso = [(SMOOTH * (middle + x), SMOOTH * y) for x, y in corners]
    pen.polygon(torso, fill=shade(p.shirt))
    for side, angle in ((-1, at.left), (1, at.right)):
        start = (middle + side * p.shoulders, shoulder)
        along = np.array([side * np.sin(angle), np.cos(angle)])
        elbow, hand = (tuple(np.array(start) + reach * part * along) for part in (0.5, 1.0))
        line(pen, elbow, hand, 0.8 * p.limb, p.skin)
        line(pen, start, elbow, p.limb, p.shirt)
    pen.ellipse(scaled(middle - p.head, top, middle + p.head, neck), fill=shade(p.skin))
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def line(pen: ImageDraw.ImageDraw, start, end, width: float, value: float) -> None:
    """A line of `width` with round ends."""
    pen.line(scaled(*start, *end), fill=shade(value), width=round(SMOOTH * width))
    for x, y in (start, end):
        r = width / 2
        pen.ellipse(scaled(x - r, y - r, x + r, y + r), fill=shade(value))


def scaled(*lengths: float) -> list[float]:
    return [SMOOTH * length for length in lengths]


def shade(value: float) -> int:
    return round(255 * value)


def write(path: Path, p: Person, frames: int) -> None:
    """A video of `frames` frames."""
    import av

    with av.open(str(path), "w") as video:
        stream = video.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray"
        for number in range(1, frames + 1):
            picture = av.VideoFrame.from_ndarray(draw(p, pose(number)), format="gray")
            video.mux(stream.encode(picture))
        video.mux(stream.encode())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dataprep.drawn.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="a folder that is not there")
    parser.add_argument("--count", type=int, default=25, help="persons (%(default)s)")
    parser.add_argument("--frames", type=int, default=200, help="in each video (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which series (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        import av  # noqa: F401
    except ImportError:
        sys.exit("videos are written with PyAV: pip install av")
    names = [NAME.format(number) for number in range(1, given.count + 1)]
    try:
        with whole(given.out) as folder:
            folder.mkdir()
            for index, name in enumerate(names):
                write(folder / f"{name}_uncomp.avi", person(given.seed, index), given.frames)
            lines = [f"{name}\tframes\t1-{given.frames}\n" for name in names]
            (folder / "00sequences.txt").write_text("".join(lines))
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
