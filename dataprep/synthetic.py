"""Draws faces to train on: python dataprep/synthetic.py faces.zip --count 4000 --seed 0

OUT is a zip of JPEGs if it ends in .zip, else a folder of them. Image i depends on the seed and on
i alone, so a longer run begins with the images of a shorter one.
"""

import argparse
import dataclasses
import functools
import io
import multiprocessing
import os
import sys
import tempfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataprep.portrait import render

SIZES = range(4, 1025)  # pixels a side
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


def draw_face(seed, index, size=256):
    """The portrait of `random_face(seed, index)` as (size, size, 3) uint8, RGB."""
    fine = -(-FINEST // size)
    image = Image.fromarray(render(random_face(seed, index), size * fine))
    return np.array(image.reduce(fine))


def encode(seed, size, index):
    """One face as the bytes of a JPEG: 0.4 times a PNG, and written 6 times faster."""
    file = io.BytesIO()
    Image.fromarray(draw_face(seed, index, size)).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def write(out, count, seed=0, size=256, workers=1):
    """Writes `count` faces as JPEGs in the folder `out`, or in a stored zip if it ends in .zip.

    `out` appears when it is whole, and is the same, byte for byte, for any number of workers.
    Raises ValueError for a number out of range, FileExistsError if `out` is there already.
    """
    out = Path(out)
    for name, value, least in ("count", count, 1), ("seed", seed, 0), ("workers", workers, 1):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if size not in SIZES:
        raise ValueError(f"size must be from {SIZES[0]} to {SIZES[-1]}, not {size}")
    if out.exists():
        raise FileExistsError(f"{out} exists already: remove it, or name another place")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        part = Path(beside, out.name)
        faces = encoded_faces(count, seed, size, workers)
        faces = tqdm(faces, f"drawing {out}", count, unit="face", disable=None)
        if out.suffix == ".zip":
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                for i, face in enumerate(faces):
                    archive.writestr(zipfile.ZipInfo(f"{i:08d}.jpg"), face)  # dated 1980, always
        else:
            part.mkdir()
            for i, face in enumerate(faces):
                Path(part, f"{i:08d}.jpg").write_bytes(face)
        os.rename(part, out)


def encoded_faces(count, seed, size, workers):
    """Yields the JPEGs 0 to `count` - 1 in order."""
    draw = functools.partial(encode, seed, size)
    if workers == 1:
        yield from map(draw, range(count))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, range(count), chunksize=16)


def main():
    parser = argparse.ArgumentParser(description="Draws faces to train on.")
    parser.add_argument("out", help="a folder to make, or a zip if it ends in .zip")
    parser.add_argument("--count", type=int, default=4000, help="how many (default 4000)")
    parser.add_argument("--seed", type=int, default=0, help="which series of faces (default 0)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side (default 256)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default all cores")
    try:
        write(**vars(parser.parse_args()))
    except (ValueError, OSError) as error:
        sys.exit(f"synthetic.py: {error}")


if __name__ == "__main__":
    main()
