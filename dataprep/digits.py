"""Writes the handwritten digits that scikit-learn installs as files in the layout of MNIST's:

    python -m dataprep.digits data/digits-idx
    python dataprep/shard.py data/digits-idx --out data/digits --max-resolution 8 \\
        --labels stored --split folder

These are 1,797 grey images of 8x8 (of UCI's Optical Recognition of Handwritten Digits), with their
digits as labels. The last 497 are the test split.
"""

import argparse
import struct
import sys
from pathlib import Path

import numpy as np

from dataprep.runtime.files import whole
from dataprep.sources import idx

TEST = 497
WHITE = 16  # the largest value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dataprep.digits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="a folder that is not there")
    given = parser.parse_args(arguments)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("the digits come with scikit-learn: pip install scikit-learn")
    found = load_digits()
    images = np.rint(found.images * (255 / WHITE)).astype(np.uint8)
    labels = found.target.astype(np.uint8)
    try:
        with whole(given.out) as folder:
            folder.mkdir()
            for name, part in (("train", slice(-TEST)), ("t10k", slice(-TEST, None))):
                write(folder, name, images[part], labels[part])
    except OSError as error:
        sys.exit(str(error))


def write(folder: Path, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    """The two files `name` of images (N, H, W) and labels (N,), both uint8."""
    header = idx.HEADER.pack(idx.IMAGES, *images.shape)
    (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    header = idx.LABELS + struct.pack(">I", len(labels))
    (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


if __name__ == "__main__":
    main()
