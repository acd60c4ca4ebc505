"""MNIST's and SVHN's files are read as they lie, and those that are damaged are named."""

import gzip
import struct

import numpy as np
import pytest
from scipy.io import savemat

from dataprep import digits
from dataprep.images.decode import decode
from dataprep.manifest import DatasetError
from dataprep.sources.entry import Options
from dataprep.sources.source import Reader, listing


def read(source, labels=True) -> dict:
    """(pixels, label) of each image by name."""
    result = {}
    for container, entry in listing(str(source), Options(8, labels)):
        if hasattr(entry, "place"):
            result[entry.name] = (decode(Reader([container]).read(0, entry)), entry.label)
    return result


def make_mnist(folder, count=3) -> np.ndarray:
    """Files of the training set in MNIST's layout, of images of 5x4."""
    images = np.random.default_rng(0).integers(0, 256, (count, 5, 4), dtype=np.uint8)
    start = struct.pack(">IIII", 2051, count, 5, 4)
    (folder / "train-images-idx3-ubyte").write_bytes(start + images.tobytes())
    start = struct.pack(">II", 2049, count)
    (folder / "train-labels-idx1-ubyte").write_bytes(start + bytes([7, 0, 3][:count]))
    return images


def test_mnist(tmp_path):
    images = make_mnist(tmp_path)
    found = read(tmp_path)
    names = [f"train-images-idx3-ubyte/train/{i:05d}" for i in range(3)]
    assert sorted(found) == names
    for name, image, label in zip(names, images, (7, 0, 3), strict=True):
        assert np.array_equal(found[name][0], image[..., None].repeat(3, 2))
        assert found[name][1] == label
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert {label for _, label in read(tmp_path, labels=False).values()} == {None}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f("images", lambda b: b[:-1]), "3 images of 4x5 need 76 bytes, and it has 75"),
        (lambda f: f("images", lambda b: b[:9]), "train-images-idx3-ubyte is damaged"),
        (lambda f: f("labels", lambda b: b[:-1]), "train-labels-idx1-ubyte is damaged, or not"),
        (lambda f: f("labels", lambda b: b""), "train-labels-idx1-ubyte is damaged, or not"),
        (lambda f: f("images", gzip.compress), "unpack it with gunzip first"),
    ],
)
def test_files_of_mnist_that_are_damaged_or_packed(tmp_path, damage, message):
    make_mnist(tmp_path)

    def change(kind, function):
        path = tmp_path / f"train-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
        path.write_bytes(function(path.read_bytes()))

    damage(change)
    with pytest.raises(DatasetError, match=message):
        read(tmp_path)


def test_labels_of_mnist_that_are_missing(tmp_path):
    make_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="train-labels-idx1-ubyte is not beside it"):
        read(tmp_path)


def test_svhn(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 3, 3), dtype=np.uint8)
    for name in ("train", "test"):
        content = {"X": images, "y": np.array([[1], [9], [10]], np.uint8)}
        savemat(tmp_path / f"{name}_32x32.mat", content, do_compression=True)
    found = read(tmp_path)
    assert len(found) == 6
    for name in ("train", "test"):
        for i, digit in enumerate((1, 9, 0)):
            pixels, label = found[f"{name}_32x32.mat/{name}/{i:06d}"]
            assert np.array_equal(pixels, images[..., i]) and label == digit
    savemat(tmp_path / "test_32x32.mat", {"X": images, "y": np.array([[1], [2], [11]], np.uint8)})
    with pytest.raises(DatasetError, match=r"test_32x32\.mat: `y` has labels that are no digits"):
        read(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": images / 255, "y": np.ones((3, 1))})
    with pytest.raises(DatasetError, match="'X' is float64, not uint8"):
        read(tmp_path)


def test_the_digits_that_scikit_learn_installs(tmp_path):
    digits.main([str(tmp_path / "idx")])
    found = read(tmp_path / "idx")
    sides = [name.split("/")[1] for name in found]
    assert (sides.count("train"), sides.count("test")) == (1300, 497)
    pixels, label = found["train-images-idx3-ubyte/train/00000"]
    assert label == 0 and pixels.shape == (8, 8, 3) and pixels[2, 2, 0] == round(15 * 255 / 16)
    with pytest.raises(SystemExit, match="idx exists"):
        digits.main([str(tmp_path / "idx")])
