"""Both loaders give the same images in the same order, whoever reads, from anywhere."""

import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from dataprep.formats.beton import METADATA, METADATA_START
from dataprep.manifest import DatasetError, Manifest
from pipeline.data import order
from pipeline.data.config import DataConfig
from pipeline.data.loaders import reader, split_images, to_float, to_uint8, training_images
from tests.dataprep.pictures import encoded, picture

CPU = torch.device("cpu")


def every_start(first, last, batch, micro, world):
    return [list(order.starts(first, last, batch, micro, rank, world)) for rank in range(world)]


def test_each_pass_shows_every_image_once_in_another_order():
    passes = [order.samples(3, np.arange(e * 100, e * 100 + 100), 100)[0] for e in range(3)]
    for indices in passes:
        assert sorted(indices) == list(range(100))
    assert not (passes[0] == passes[1]).all()
    assert not (passes[0] == order.samples(4, np.arange(100), 100)[0]).all()


def test_flips_are_half_and_change_from_pass_to_pass():
    indices, flips = order.samples(0, np.arange(20_000), 10_000)
    assert 0.48 < flips.mean() < 0.52
    first, second = (dict(zip(indices[s], flips[s])) for s in np.split(np.arange(20_000), 2))
    assert 0.45 < np.mean([first[i] != second[i] for i in range(10_000)]) < 0.55


def test_positions_are_shared_out_once_for_any_number_of_processes():
    for world in (1, 2, 4):
        shares = every_start(0, 64, batch=32, micro=8, world=world)
        assert sorted(s for share in shares for s in share) == list(range(0, 64, 8))
        assert {len(share) for share in shares} == {8 // world}
        assert [s for s in shares[0] if s < 32] == list(range(0, 32, 8 * world))


def batches(dataset, loader, starts, micro, flip=True):
    config = DataConfig(path=str(dataset), loader=loader, flip=flip)
    return list(training_images(config, Manifest.load(dataset), 16, 5, iter(starts), micro, CPU))


def images(*arguments):
    return [x for x, _ in batches(*arguments)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """36 images of three classes; class c at sample i where the image's mean tells both."""
    folder = tmp_path_factory.mktemp("labelled")
    for i in range(36):
        path = folder / "images" / "abc"[i % 3] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i, 16, 16) // 4 + 64 * (i % 3)))
    command = [sys.executable, "dataprep/shard.py", folder / "images", "--out", folder / "dataset"]
    command += ["--max-resolution", "16", "--labels", "folder", "--shard-samples", "10"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "dataset"


def test_loaders_give_the_label_of_each_image(labelled):
    starts = range(0, 60, 6)
    tars, betons = (batches(labelled, loader, starts, 6) for loader in ("webdataset", "ffcv"))
    assert len(tars) == len(betons) == 10
    for (x, labels), (_, others) in zip(tars, betons, strict=True):
        assert labels.dtype == others.dtype == torch.int64 and torch.equal(labels, others)
        means = to_uint8(x).float().mean((1, 2, 3))
        assert torch.equal(labels, (means / 64).long())
    assert len(torch.cat([labels for _, labels in tars]).unique()) == 3


def test_a_split_gives_labels_and_a_dataset_without_classes_none(labelled, dataset):
    for loader in ("webdataset", "ffcv"):
        for path, shape in ((labelled, (2,)), (dataset, None)):
            config, manifest = DataConfig(path=str(path), loader=loader), Manifest.load(path)
            read = split_images(config, manifest, 4, "test", np.array([1, 0]), 2, CPU)
            _, labels = next(read)
            assert labels is None if shape is None else labels.shape == shape


def test_loaders_agree_and_start_anywhere(dataset):
    starts = list(
        range(0, 3 * 40, 6)
    )  # more than two passes over the 40 images and across their ends
    tars, betons = (images(dataset, loader, starts, 6) for loader in ("webdataset", "ffcv"))
    assert len(tars) == len(betons) == 20
    for a, b in zip(tars, betons, strict=True):
        assert a.shape == (6, 3, 16, 16) and torch.equal(a, b)
    later = images(dataset, "ffcv", starts[7:], 6)
    assert all(torch.equal(a, b) for a, b in zip(later, betons[7:], strict=True))


def test_ffcv_leaves_torch_its_threads(dataset):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        read = reader(DataConfig(str(dataset), workers=2), Manifest.load(dataset), 4, "train", 8)
        next(read.batches(np.arange(16)))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_order_is_of_images_not_of_micro_batches(dataset):
    small, large = (images(dataset, "webdataset", range(0, 48, m), m) for m in (6, 12))
    assert torch.equal(torch.cat(small), torch.cat(large))


def test_mirrored_images_are_the_images_mirrored(dataset):
    plain, flipped = (torch.cat(images(dataset, "webdataset", [0, 8], 8, f)) for f in (False, True))
    _, flips = order.samples(5, np.arange(16), Manifest.load(dataset).count("train"))
    assert flips.any() and not flips.all()
    for a, b, mirrored in zip(plain, flipped, flips, strict=True):
        assert torch.equal(b, a.flip(2) if mirrored else a)


def test_segments_do_not_show(dataset, monkeypatch):
    whole = images(dataset, "ffcv", range(0, 60, 6), 6)
    monkeypatch.setattr("pipeline.data.loaders.SEGMENT", 18)
    pieces = images(dataset, "ffcv", range(0, 60, 6), 6)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_a_split_in_order_with_a_smaller_last_batch(dataset):
    manifest = Manifest.load(dataset)
    for loader in ("webdataset", "ffcv"):
        config = DataConfig(path=str(dataset), loader=loader)
        indices = np.arange(manifest.count("train"))
        read = list(split_images(config, manifest, 8, "train", indices, 32, CPU))
        assert [len(x) for x, _ in read] == [32, len(indices) - 32]


def test_floats_and_back():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    x = to_float(images, CPU)
    assert x.min() == -1 and x.max() == 1
    assert torch.equal(to_uint8(x).permute(0, 2, 3, 1), images)
    assert torch.equal(to_uint8(torch.tensor([[[[-3.0, 7.0]]]])), torch.tensor([[[[0, 255]]]]))


def test_a_missing_or_short_file_is_named_before_training(dataset, tmp_path):
    broken = shutil.copytree(dataset, tmp_path / "broken")
    beton = Manifest.load(broken).beton(16, "train")
    beton.write_bytes(beton.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"r016-train\.beton has"):
        reader(DataConfig(path=str(broken)), Manifest.load(broken), 16, "train", 4)


def test_a_damaged_image_is_named(dataset, tmp_path):
    broken = shutil.copytree(dataset, tmp_path / "broken")
    tar = Manifest.load(broken).tars(16, "train")[0].path
    content = bytearray(tar.read_bytes())
    content[512:640] = bytes(128)
    tar.write_bytes(content)
    config = DataConfig(path=str(broken), loader="webdataset")
    with pytest.raises(DatasetError, match=r"train-000000.tar: \S+ cannot be decoded"):
        list(split_images(config, Manifest.load(broken), 16, "train", np.arange(8), 4, CPU))


@pytest.fixture
def jpegs(dataset, tmp_path):
    command = [sys.executable, "dataprep/shard.py", dataset.parent / "images", "--out", tmp_path]
    command += ["--max-resolution", "16", "--formats", "ffcv", "--beton-images", "jpeg"]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path


def read_beton(folder):
    source = reader(DataConfig(path=str(folder), workers=2), Manifest.load(folder), 16, "train", 4)
    return sum(len(batch.images) for batch in source.batches(np.arange(20)))


def test_a_damaged_jpeg_of_a_beton_is_named(jpegs):
    assert read_beton(jpegs) == 20
    path = Manifest.load(jpegs).beton(16, "train")
    content = bytearray(path.read_bytes())
    start = [i for i in range(len(content)) if content[i : i + 3] == b"\xff\xd8\xff"][5]
    content[start : start + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"r016-train.beton: sample 5 \(line 6 .* cannot be dec"):
        read_beton(jpegs)


def test_a_damaged_table_of_a_beton_is_named(jpegs):
    path = Manifest.load(jpegs).beton(16, "train")
    content = bytearray(path.read_bytes())
    content[METADATA_START + 3 * METADATA.itemsize + 8] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"r016-train.beton: sample 3 \(line 4 .* is damaged"):
        read_beton(jpegs)


def test_tars_may_be_more_than_the_files_that_a_process_can_open(dataset, tmp_path):
    command = [sys.executable, "dataprep/shard.py", dataset.parent / "images", "--out", tmp_path]
    command += ["--max-resolution", "4", "--formats", "webdataset", "--shard-samples", "1"]
    subprocess.run(command, check=True, capture_output=True)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = len(os.listdir("/proc/self/fd")) + 25
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        config = DataConfig(path=str(tmp_path), loader="webdataset")
        source = reader(config, Manifest.load(tmp_path), 4, "train", 40)
        (read,) = source.batches(np.arange(40))
        assert read.images.shape == (40, 4, 4, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_only_the_tars_that_are_asked_for_are_read(dataset, tmp_path):
    command = [sys.executable, "dataprep/shard.py", dataset.parent / "images", "--out", tmp_path]
    command += ["--max-resolution", "4", "--formats", "webdataset", "--shard-samples", "10"]
    subprocess.run(command, check=True, capture_output=True)
    manifest = Manifest.load(tmp_path)
    second = manifest.tars(4, "train")[1].path
    second.write_bytes(second.read_bytes()[:-1])
    source = reader(DataConfig(str(tmp_path), "webdataset"), manifest, 4, "train", 4)
    assert len(next(source.batches(np.arange(4))).images) == 4
    with pytest.raises(DatasetError, match=r"train-000001\.tar has \d+ bytes instead of"):
        next(source.batches(np.arange(8, 12)))
