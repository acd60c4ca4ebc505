"""End to end: from images on disk to a dataset on disk."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from dataprep.manifest import DatasetError, Manifest
from dataprep.shard import main
from tests.dataprep.pictures import (
    all_bytes,
    encoded,
    make_folder,
    make_zip,
    means,
    picture,
    read_tar,
    shard,
    tar_pixels,
)

pytestmark = pytest.mark.long


def beton_samples(path) -> tuple[np.ndarray, list[int]]:
    """Pixels (N, R, R, 3) and labels, by ffcv's own reader and field types."""
    from ffcv.reader import Reader

    reader = Reader(str(path))
    content = np.fromfile(path, np.uint8)
    images = []
    for image in reader.metadata["f0"]:
        shape = (image["height"], image["width"], 3)
        start = int(image["data_ptr"])
        images.append(content[start : start + int(np.prod(shape, dtype=int))].reshape(shape))
    return np.stack(images), reader.metadata["f1"].tolist()


def index(folder, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"index/{split}.jsonl").read_text().splitlines()]


def test_tars_and_betons_hold_the_expected_pixels_in_the_same_order(tmp_path, capsys):
    source = make_folder(tmp_path / "faces", 40, side=32)
    out = tmp_path / "out"
    how = ["--max-resolution", "16", "--shard-samples", "7"]
    assert main([str(source), "--out", str(out), *how]) == 0
    assert "40 images:" in capsys.readouterr().out

    made = Manifest.load(out)
    made.check()
    assert made.resolutions == (4, 8, 16) and made.classes == ()
    assert made.count("train") + made.count("test") == 40 and made.count("test") > 0
    names = [line["name"] for split in ("train", "test") for line in index(out, split)]
    assert sorted(names) == [f"face-{i:03d}.png" for i in range(40)]

    for split in ("train", "test"):
        lines = index(out, split)
        assert lines == sorted(lines, key=lambda line: line["name"])
        sources = [picture(int(line["name"][5:8]), 32, 32) for line in lines]
        for side in made.resolutions:
            expected = [np.floor(means(pixels, side) + 0.5) for pixels in sources]
            tars = made.tars(side, split)
            assert [tar.samples for tar in tars[:-1]] == [7] * (len(tars) - 1)
            members = [name for tar in tars for name, _ in read_tar(tar.path)]
            assert members == [line["key"] + ".png" for line in lines]
            in_tars = [pixels for tar in tars for pixels in tar_pixels(tar.path)]
            np.testing.assert_array_equal(in_tars, expected)
            in_beton, labels = beton_samples(made.beton(side, split))
            np.testing.assert_array_equal(in_beton, expected)
            assert labels == [-1] * len(lines)


def test_the_manifest_is_true(tmp_path):
    source = make_folder(tmp_path / "faces", 12, side=8)
    out = tmp_path / "out"
    result = shard(source, "--out", out, "--max-resolution", 8, "--test-fraction", 0.5)
    assert result.returncode == 0, result.stderr
    files = all_bytes(out)
    del files["manifest.json"]
    listed = {file["path"]: file for file in Manifest.load(out).content["files"]}
    assert listed.keys() == files.keys()  # no file is forgotten, and none is left from the making
    for path, content in files.items():
        assert listed[path]["bytes"] == len(content)
        assert listed[path]["sha256"] == hashlib.sha256(content).hexdigest()


def test_two_runs_and_two_kinds_of_source_give_the_same_bytes(tmp_path):
    folder = make_folder(tmp_path / "faces", 12, side=16)
    archive = make_zip(tmp_path / "faces.zip", folder)
    for source, out in ((folder, "a"), (folder, "b"), (archive, "c")):
        how = ["--max-resolution", "16", "--test-fraction", "0.3"]
        assert main([str(source), "--out", str(tmp_path / out), *how]) == 0
    a, b, c = (all_bytes(tmp_path / out) for out in "abc")
    assert a == b
    assert Manifest.load(tmp_path / "a").digest == Manifest.load(tmp_path / "c").digest
    del a["manifest.json"], c["manifest.json"]  # which tells the name of the source
    assert a == c


def test_folders_can_be_labels(tmp_path):
    folder = make_folder(tmp_path / "animals", 9, side=4, names="cat/{}.png")
    make_folder(folder, 7, side=4, names="dog/{}.png", seed=9)
    out = tmp_path / "out"
    how = ["--max-resolution", "4", "--test-fraction", "0.4", "--labels", "folder"]
    assert main([str(folder), "--out", str(out), *how]) == 0
    made = Manifest.load(out)
    assert made.classes == ("cat", "dog")
    for split in ("train", "test"):
        lines = index(out, split)
        labels = [("cat", "dog").index(line["name"].split("/")[0]) for line in lines]
        assert set(labels) == {0, 1}
        assert [line["label"] for line in lines] == labels
        members = [member for tar in made.tars(4, split) for member in read_tar(tar.path)]
        assert [int(content) for name, content in members if name.endswith(".cls")] == labels
        keys = [line["key"] for line in lines]
        assert [name for name, _ in members] == [k + e for k in keys for e in (".png", ".cls")]
        assert beton_samples(made.beton(4, split))[1] == labels


def test_webdataset_reads_the_tars(tmp_path):
    import webdataset

    source = make_folder(tmp_path / "faces", 12, side=8)
    out = tmp_path / "out"
    how = ["--max-resolution", "8", "--test-fraction", "0.3"]
    assert main([str(source), "--out", str(out), *how]) == 0
    [tar] = Manifest.load(out).tars(8, "train")
    samples = list(webdataset.WebDataset(str(tar.path), shardshuffle=False).decode("rgb8"))
    keys = [line["key"] for line in index(out, "train")]
    assert [sample["__key__"] for sample in samples] == keys
    np.testing.assert_array_equal([sample["png"] for sample in samples], tar_pixels(tar.path))


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("face-005.png", b"no image", "not an image"),
        ("face-005.png", encoded(picture(0, 64, 64))[:2000], "damaged"),
        ("face-005.png", encoded(picture(0, 16, 15)), "16x15 is smaller than --max-resolution 16"),
    ],
)
def test_a_bad_image_is_named_and_leaves_no_dataset(tmp_path, name, content, reason):
    source = make_folder(tmp_path / "faces", 12, side=16)
    (source / name).write_bytes(content)
    out = tmp_path / "out"
    result = shard(source, "--out", out, "--max-resolution", 16, "--test-fraction", 0.3)
    assert result.returncode == 1
    [line] = [line for line in result.stderr.splitlines() if "error" in line]
    assert name in line and reason in line and "Traceback" not in result.stderr
    assert [path.name for path in out.iterdir()] == [".partial"]
    with pytest.raises(DatasetError):
        Manifest.load(out)


def test_other_files_are_not_overwritten(tmp_path, capsys):
    source = make_folder(tmp_path / "faces", 12, side=8)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    command = [str(source), "--out", str(out), "--max-resolution", "8", "--test-fraction", "0.5"]
    assert main(command) == 1
    assert "is not empty" in capsys.readouterr().err and (out / "mine.txt").read_text() == "keep"
    (out / "mine.txt").unlink()
    assert main(command) == 0
    before = all_bytes(out)
    (source / "face-000.png").unlink()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "is complete: nothing to do. It was made from 12 images in faces" in said
    assert all_bytes(out) == before


@pytest.mark.parametrize(
    "args, reason",
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "holds no images"),
        (["faces", "--split", "ffhq"], "is not named by an FFHQ id"),
        (["faces", "--split", "celebahq"], "needs the 30,000 images"),
        (["faces", "--labels", "folder"], "all images are in one folder"),
        (["faces", "--test-fraction", "1e-9"], "leaves no image to test of 3"),
    ],
)
def test_bad_requests_are_reported_in_one_line(tmp_path, monkeypatch, capsys, args, reason):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "faces", 3, side=8)
    (tmp_path / "empty").mkdir()
    assert main([*args, "--out", "out", "--max-resolution", "8"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and reason in line
    assert not (tmp_path / "out/manifest.json").exists()


def test_the_command_starts_without_torch():
    code = "import sys, dataprep.shard; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "dataprep.shard" in modules and not {"torch", "ffcv", "numba"} & set(modules)
