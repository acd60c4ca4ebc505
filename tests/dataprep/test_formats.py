"""Formats of files and images, shard sizes, and stored labels."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from dataprep.formats import read
from dataprep.manifest import DatasetError, Manifest, write
from dataprep.shard import main
from dataprep.verify import verify
from tests.dataprep.archives import make_parquet, make_tar, make_tfrecord
from tests.dataprep.pictures import encoded, make_folder, means, picture, read_tar, shard

pytestmark = pytest.mark.long

HOW = ["--max-resolution", "16", "--test-fraction", "0.3", "--shard-samples", "8"]


def made(source, out, *more: str) -> Manifest:
    assert main([str(source), "--out", str(out), *HOW, *more]) == 0
    assert verify(out, 1) == []
    return Manifest.load(out)


def pixels(manifest: Manifest, format: str, side: int, split: str = "train") -> np.ndarray:
    count = manifest.count(split)
    return np.stack([i.pixels for i in read.images(manifest, format, side, split, 0, count)])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("source") / "faces", 30, side=16)


@pytest.mark.parametrize("format, other", [("webdataset", "ffcv"), ("ffcv", "webdataset")])
def test_one_format(tmp_path, source, format, other):
    manifest = made(source, tmp_path / "out", "--formats", format)
    assert len(pixels(manifest, format, 8)) == manifest.count("train")
    assert not (tmp_path / "out" / other).exists()
    with pytest.raises(DatasetError, match=f"holds no {other} files"):
        manifest.beton(8, "train") if other == "ffcv" else manifest.tars(8, "train")


@pytest.mark.parametrize("images, extension", [("webp", "WEBP"), ("jpeg", "JPEG")])
def test_images_in_tars(tmp_path, source, images, extension):
    manifest = made(source, tmp_path / "out", "--tar-images", images)
    [*_, (name, content)] = read_tar(manifest.tars(16, "train")[0].path)
    assert name.endswith("." + images) and Image.open(io.BytesIO(content)).format == extension
    error = np.abs(pixels(manifest, "webdataset", 16).astype(int) - pixels(manifest, "ffcv", 16))
    assert error.max() == 0 if images == "webp" else 0 < error.mean() < 4


def test_jpeg_in_betons(tmp_path, source):
    manifest = made(source, tmp_path / "out", "--beton-images", "jpeg", "--jpeg-quality", "90")
    fine = made(source, tmp_path / "fine", "--beton-images", "jpeg", "--jpeg-quality", "100")
    exact = pixels(manifest, "webdataset", 16).astype(int)
    errors = [np.abs(exact - pixels(m, "ffcv", 16)).mean() for m in (manifest, fine)]
    assert errors[0] > errors[1] > 0


def test_shards_end_by_bytes_as_well(tmp_path, source):
    plain = made(source, tmp_path / "plain")
    manifest = made(source, tmp_path / "out", "--shard-bytes", "5000")
    tars = manifest.tars(16, "train")
    assert len(tars) > len(plain.tars(16, "train"))
    assert all(tar.path.stat().st_size <= 5000 for tar in tars)
    assert [tar.path.name for tar in tars] == sorted(tar.path.name for tar in tars)
    for split in ("train", "test"):
        for side in manifest.resolutions:
            found = pixels(manifest, "webdataset", side, split)
            np.testing.assert_array_equal(found, pixels(plain, "webdataset", side, split))


def labelled(tmp_path) -> dict:
    """Twelve images with the labels 5, 7 and none, from every source that stores labels."""
    images = [picture(i, 16, 16) for i in range(12)]
    files, labels = [encoded(image) for image in images], [5, 7, -1] * 4
    tar = [(f"{i:02d}.png", data) for i, data in enumerate(files)]
    tar += [(f"{i:02d}.cls", str(label).encode()) for i, label in enumerate(labels) if label > 0]
    return {
        "tar": make_tar(tmp_path / "a.tar", sorted(tar)),
        "parquet": make_parquet(tmp_path / "a.parquet", files, labels=labels),
        "tfrecord": make_tfrecord(tmp_path / "a.tfrecords", images, labels),
    }


@pytest.mark.parametrize("kind", ["tar", "parquet", "tfrecord"])
def test_preparation_from_archives_with_labels(tmp_path, kind):
    manifest = made(labelled(tmp_path)[kind], tmp_path / "out", "--labels", "stored")
    assert manifest.classes == ("5", "7")
    for split in ("train", "test"):
        lines = list(read.index(manifest, split, 0, manifest.count(split)))
        numbers = [int("".join(filter(str.isdigit, line["name"]))) for line in lines]
        assert [line["label"] for line in lines] == [(0, 1, -1)[i % 3] for i in numbers]
        for format in ("webdataset", "ffcv"):
            found = list(read.images(manifest, format, 8, split, 0, len(lines)))
            assert [image.label for image in found] == [line["label"] for line in lines]
            expected = [np.floor(means(picture(i, 16, 16), 8) + 0.5) for i in numbers]
            np.testing.assert_array_equal([image.pixels for image in found], expected)


def test_classes_that_hugging_face_names_keep_their_numbers(tmp_path):
    files = [encoded(picture(i, 16, 16)) for i in range(12)]
    classes = ["zebra", "ape", "unseen", "cat"]
    path = tmp_path / "a.parquet"
    make_parquet(path, files, labels=[0, 1, 3] * 4, classes=classes)
    manifest = made(path, tmp_path / "out", "--labels", "stored")
    assert manifest.classes == tuple(classes)
    lines = [*read.index(manifest, "train", 0, 99), *read.index(manifest, "test", 0, 99)]
    assert {line["label"] for line in lines} == {0, 1, 3}


def test_no_labels_are_stored(tmp_path, source):
    result = shard(source, "--out", tmp_path / "out", *HOW, "--labels", "stored")
    assert result.returncode == 1 and "no labels are stored with these images" in result.stderr


def test_the_settings_are_in_the_manifest(tmp_path, source):
    manifest = made(source, tmp_path / "out", "--tar-images", "webp")
    settings = json.loads((tmp_path / "out/manifest.json").read_text())["settings"]
    assert settings == manifest.content["settings"]
    assert settings["tar_images"] == "webp" and settings["shard_samples"] == 8


def test_images_that_are_not_square_are_counted_and_cropped(tmp_path, capsys):
    source = make_folder(tmp_path / "faces", 12, side=16)
    for i in range(3):
        (source / f"wide-{i}.png").write_bytes(encoded(picture(50 + i, 32, 16)))
    (source / "wide-3.png").write_bytes((source / "wide-2.png").read_bytes())
    how = [str(source), *HOW, "--reject-limit", "0.5"]
    assert main([*how, "--out", str(tmp_path / "centre")]) == 0
    told = capsys.readouterr().out
    assert "3 images are not square (wide-" in told
    assert "cropped to the central square; --crop centre|top|pad|refuse chooses" in told
    made = Manifest.load(tmp_path / "centre")
    assert made.content["source"]["not_square"]["images"] == 3
    assert made.content["settings"]["crop"] == "centre"
    assert main([*how, "--out", str(tmp_path / "refuse"), "--crop", "refuse"]) == 0
    refused = Manifest.load(tmp_path / "refuse")
    assert refused.content["source"]["not_square"] is None
    assert refused.count("train") + refused.count("test") == 12
    assert "4 not square" in capsys.readouterr().out
    assert main([*how, "--out", str(tmp_path / "pad"), "--crop", "pad"]) == 0
    assert "padded with white" in capsys.readouterr().out
    assert main([*how, "--out", str(tmp_path / "dry"), "--dry-run"]) == 0
    assert "4 of them are not square (--crop centre)" in capsys.readouterr().out


def test_a_dataset_of_before_is_complete_without_the_newer_settings(tmp_path, source, capsys):
    out = tmp_path / "out"
    content = made(source, out).content
    content["settings"] = {
        name: value
        for name, value in content["settings"].items()
        if name not in ("crop", "image_column", "label_column")
    }
    write(out, content)
    assert made(source, out).digest == content["digest"]
    assert "is complete: nothing to do" in capsys.readouterr().out
    assert main([str(source), "--out", str(out), *HOW, "--crop", "top"]) == 1
    assert "crop was 'centre' and is now 'top'" in capsys.readouterr().err
