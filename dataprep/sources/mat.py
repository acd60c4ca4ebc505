"""Cars3D: a MATLAB file for each car, `im` (H, W, 3, azimuths, elevations) uint8.

That of Reed et al. (nips2015-analogy-data.tar.gz, data/cars/*.mat): 183 cars of 24 azimuths and 4
elevations, 128x128. A car is identified by the name of its file: use `--labels folder`.

An entry's place: [azimuth, elevation].
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataprep.images.encode import bmp
from dataprep.manifest import DatasetError
from dataprep.sources.entry import Entry, Options

KEY = "im"
START = b"MATLAB 5.0 MAT-file"


def entries(path: Path, options: Options) -> Iterator[Entry]:
    """Every view of the car, by azimuth and elevation. DatasetError."""
    shapes = shapes_in(path)
    if not holds_images(path):
        raise DatasetError(
            f"{path} holds {shapes or 'nothing'}, and not {KEY!r} of (H, W, 3, azimuths, "
            "elevations) as Cars3D's, nor `X` and `y` as SVHN's"
        )
    shape = shapes[KEY]
    for azimuth in range(shape[3]):
        for elevation in range(shape[4]):
            name = f"azimuth-{azimuth:02d}-elevation-{elevation:02d}"
            yield Entry(name, [azimuth, elevation])


def holds_images(path: Path) -> bool:
    """Whether it is one of Cars3D's, and not of annotations, say. DatasetError if damaged."""
    shape = shapes_in(path).get(KEY, ())
    return len(shape) == 5 and shape[2] == 3


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of its arrays, by name. DatasetError."""
    from scipy.io import whosmat

    return {name: shape for name, shape, _ in opened(path, whosmat)}


def opened(path: Path, function, **how):
    """What one of scipy's readers makes of a file; DatasetError if it is damaged."""
    try:
        return function(path, **how)
    except Exception as error:  # scipy's readers raise nearly anything on damaged bytes
        if isinstance(error, OSError) and error.strerror:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
        raise DatasetError(f"{path} is damaged ({error}): download it again") from None


def array(path: Path, key: str) -> np.ndarray:
    """An array of uint8 in a file. DatasetError."""
    from scipy.io import loadmat

    found = opened(path, loadmat, variable_names=[key])[key]
    if found.dtype != np.uint8:
        raise DatasetError(f"{path}: {key!r} is {found.dtype}, not uint8")
    return found


class Archive:
    """Reads the views of a car."""

    def __init__(self, path: Path):
        self.views = array(path, KEY)

    def read(self, entry: Entry) -> bytes:
        """A view as the bytes of a BMP file."""
        azimuth, elevation = entry.place
        return bmp(self.views[..., azimuth, elevation])

    def close(self) -> None:
        pass
