"""CIFAR's binary version is read as it lies: pixels, labels, class names, official split."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from dataprep.images.decode import decode
from dataprep.manifest import DatasetError, Manifest
from dataprep.sources.entry import Options
from dataprep.sources.source import Reader, listing
from pipeline.data.config import DataConfig
from pipeline.data.loaders import split_images
from tests.conftest import ROOT
from tests.dataprep.archives import make_cifar

pytestmark = pytest.mark.long
CLASSES = ["airplane", "automobile", "bird"]


def read(folder, labels=True) -> dict:
    """(pixels, label) of each image by name."""
    result = {}
    for container, entry in listing(str(folder), Options(32, labels)):
        if hasattr(entry, "place"):
            result[entry.name] = (decode(Reader([container]).read(0, entry)), entry.label)
    return result


@pytest.mark.parametrize("hundred", [False, True])
def test_every_record_with_its_label(tmp_path, hundred):
    files = ("train.bin", "test.bin") if hundred else ("data_batch_1.bin", "test_batch.bin")
    images, labels = make_cifar(tmp_path, {files[0]: 5, files[1]: 3}, CLASSES, hundred)
    found = read(tmp_path)
    names = [f"{files[0]}/train/{i:05d}" for i in range(5)]
    names += [f"{files[1]}/test/{i:05d}" for i in range(3)]
    assert sorted(found) == sorted(names)
    for name, image, label in zip(names, images, labels, strict=True):
        assert np.array_equal(found[name][0], image) and found[name][1] == label
    assert {label for _, label in read(tmp_path, labels=False).values()} == {None}


def test_a_file_that_is_cut_off_is_named(tmp_path):
    make_cifar(tmp_path, {"data_batch_1.bin": 2}, CLASSES)
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"data_batch_1.bin is damaged: 6,145 bytes"):
        read(tmp_path)


def test_a_file_of_that_name_without_class_names_is_not_cifar(tmp_path):
    (tmp_path / "train.bin").write_bytes(bytes(3073))
    with pytest.raises(DatasetError, match=r"train\.bin"):
        read(tmp_path)


def test_a_dataset_of_it(tmp_path):
    source = tmp_path / "cifar-10-batches-bin"
    images, labels = make_cifar(source, {"data_batch_1.bin": 8, "test_batch.bin": 4}, CLASSES)
    command = [sys.executable, ROOT / "dataprep" / "shard.py", source, "--out", tmp_path / "out"]
    command += ["--max-resolution", "32", "--labels", "stored", "--split", "folder"]
    subprocess.run(command, check=True, capture_output=True)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes == tuple(CLASSES)
    assert (manifest.count("train"), manifest.count("test")) == (8, 4)
    for split, chosen in (("train", slice(8)), ("test", slice(8, 12))):
        for loader in ("webdataset", "ffcv"):
            config = DataConfig(path=str(tmp_path / "out"), loader=loader)
            indices, cpu = np.arange(manifest.count(split)), torch.device("cpu")
            x, found = next(split_images(config, manifest, 32, split, indices, 8, cpu))
            assert found.tolist() == labels[chosen]
            expected = torch.from_numpy(np.stack(images[chosen])).permute(0, 3, 1, 2)
            torch.testing.assert_close(x, expected / 127.5 - 1)
