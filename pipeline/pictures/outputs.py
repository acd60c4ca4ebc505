"""Writes images as a grid, a folder of PNGs, an array or a movie; the file's ending decides."""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.loaders import to_uint8
from pipeline.pictures.grids import enlarged, grid
from pipeline.records.files import whole

MOVIES = (".mp4", ".gif")
KINDS = "NAME.png (a grid), NAME.npy, NAME.mp4 or NAME.gif, or a folder that does not exist"
MOVIE_SIDE = 256  # pixels: smaller frames are enlarged to about this by repeating pixels


class OutputError(Exception):
    """An output that cannot be written; the message names the valid kinds."""


def check(out: Path, read: Iterable[Path] = ()) -> None:
    """OutputError if `write` does not accept `out`, or if `out` is an input: a path in `read` or a
    file in a folder there."""
    for path in read:
        for file in [path, *(path.iterdir() if path.is_dir() else ())]:
            if out.exists() and file.exists() and out.samefile(file):
                raise OutputError(f"{out} is also an input: choose another --out")
    if out.is_dir():
        raise OutputError(f"{out} exists: name {KINDS}")
    if out.suffix not in ("", ".png", ".npy", *MOVIES):
        raise OutputError(f"{out} ends in {out.suffix}: name {KINDS}")
    if out.suffix == ".mp4" and find_spec("av") is None:
        raise OutputError(f"{out} needs PyAV: pip install '.[movies]', or name a .gif")


def write(
    out: Path, batches: Iterable[Tensor], count: int, columns: int, frame_rate: int = 25
) -> None:
    """Writes `count` images from batches (B, 3, R, R), about [-1, 1].

    A grid has rows of `columns`. An array is (count, 3, R, R) float32, not clipped. OSError,
    OutputError; after an error nothing is written.
    """
    check(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as beside:
        if out.suffix == ".npy":
            _array(beside, batches, count)
        elif out.suffix == ".png":
            grid(torch.cat([to_uint8(x).cpu() for x in batches]), columns).save(beside, "PNG")
        elif out.suffix == ".mp4":
            _mp4(beside, _frames(batches), frame_rate)
        elif out.suffix == ".gif":
            _gif(beside, _frames(batches), frame_rate)
        else:
            beside.mkdir()
            images = (image for x in batches for image in _pictures(x))
            for number, image in enumerate(images):
                Image.fromarray(image).save(beside / f"{number:06}.png")


def _pictures(x: Tensor) -> Iterator[np.ndarray]:
    """Each image of a batch as uint8 (R, R, 3)."""
    yield from to_uint8(x).permute(0, 2, 3, 1).cpu().contiguous().numpy()


def _array(path: Path, batches: Iterable[Tensor], count: int) -> None:
    array, filled = None, 0
    with path.open("wb") as file:
        for x in batches:
            array = x.detach().float().cpu().contiguous().numpy()
            if not filled:
                about = {"descr": "<f4", "fortran_order": False, "shape": (count, *array.shape[1:])}
                np.lib.format.write_array_header_1_0(file, about)
            file.write(array.astype("<f4").tobytes())
            filled += len(array)


def _frames(batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
    for x in batches:
        yield from (enlarged(image, MOVIE_SIDE) for image in _pictures(x))


def _mp4(path: Path, frames: Iterator[np.ndarray], frame_rate: int) -> None:
    """H.264 in 4:2:0, which common players and browsers support."""
    import av

    with av.open(str(path), "w", format="mp4") as movie:
        stream = None
        for image in frames:
            if stream is None:
                stream = movie.add_stream("libx264", rate=frame_rate, options={"crf": "18"})
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
            movie.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        movie.mux(stream.encode())


def _gif(path: Path, frames: Iterator[np.ndarray], frame_rate: int) -> None:
    first, *others = (Image.fromarray(image) for image in frames)
    duration = round(1000 / frame_rate)
    first.save(path, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
