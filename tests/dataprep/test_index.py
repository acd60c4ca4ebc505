"""--index: a manifest for a WebDataset as others have made it, where it lies."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from dataprep import shard
from dataprep.index import braces, common
from dataprep.manifest import DatasetError, Manifest
from pipeline.data.config import DataConfig
from pipeline.data.loaders import reader
from tests.dataprep.pictures import encoded, picture
from tests.pipeline.data.server import Server


def write(folder: Path, samples, per_tar: int = 4) -> Path:
    """Tars by webdataset's own writer; `samples` are dicts without __key__."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder / "part-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=per_tar, verbose=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:04}", **sample})
    return folder


@pytest.fixture
def tars(tmp_path):
    samples = [
        {"png": encoded(picture(i, 16, 16)), "cls": i % 3, "json": {"i": i}} for i in range(14)
    ]
    return write(tmp_path / "theirs", samples)


def read(folder, **how):
    manifest = Manifest.load(folder)
    config = DataConfig(path=str(folder), loader="webdataset", **how)
    (batch,) = reader(config, manifest, 16, "train", 12).batches(np.arange(12)[::-1])
    return batch


def test_both_ways_of_reading_give_images_and_labels_in_place(tars, tmp_path, capsys):
    out = tmp_path / "out"
    assert shard.main(["--index", str(tars), "--out", str(out)]) == 0
    assert "12 train, 2 test images of 16 pixels" in capsys.readouterr().out
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    manifest = Manifest.load(out)
    manifest.check()
    assert manifest.classes == ("0", "1", "2") and manifest.resolutions == (16,)
    expected = np.stack([picture(i, 16, 16) for i in range(12)][::-1])
    for how in ({}, {"order": "shards"}):
        batch = read(out, **how)
        assert (batch.images.numpy() == expected).all()
        assert torch.equal(batch.labels, torch.arange(11, -1, -1) % 3)


def test_an_address(tars, tmp_path):
    with Server(tars.parent) as server:
        pattern = f"{server.address}/theirs/part-{{000..003}}.tar"
        assert shard.main(["--index", pattern, "--out", str(tmp_path / "web")]) == 0
        assert shard.main(["--index", str(tars / "*.tar"), "--out", str(tmp_path / "files")]) == 0
        web, files = (Manifest.load(tmp_path / name) for name in ("web", "files"))
        assert web.content["files"] == files.content["files"] and web.digest == files.digest
        batch = read(tmp_path / "web", order="shards")
        assert torch.equal(batch.images, read(tmp_path / "files").images)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"png": encoded(picture(1, 16, 12))}, "is 16x12 RGB, no RGB square"),
        ({"png": encoded(picture(1, 16, 16)[..., 0])}, "is 16x16 L, no RGB square"),
        ({"png": encoded(picture(1, 32, 32))}, r"images of \[16, 32\] pixels"),
        ({"png": b"nothing"}, "0009.png cannot be read"),
        ({"txt": "no image"}, "holds no images"),
        ({"png": encoded(picture(1, 16, 16)), "jpg": encoded(picture(1, 16, 16))}, "two images"),
        ({"png": encoded(picture(1, 16, 16)), "cls": 1}, "for some samples only"),
    ],
)
def test_tars_that_training_cannot_read_must_be_prepared(tmp_path, sample, message, capsys):
    plain = [{"png": encoded(picture(i, 16, 16))} for i in range(9)]
    tars = write(tmp_path / "theirs", [*plain, sample], per_tar=9)
    assert shard.main(["--index", str(tars), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert re.search(message, said) and "dataprep/shard.py SOURCE --out" in said
    assert not (tmp_path / "out").exists()


def test_one_tar_compressed_tars_and_none_are_refused(tars, tmp_path, capsys):
    subprocess.run(["gzip", "-k", tars / "part-000.tar", tars / "part-001.tar"], check=True)
    for pattern, message in (
        ("part-000.tar", "is one tar"),
        ("*.gz", "cannot be read as a plain tar"),
        ("none-*.tar", "there is no such tar"),
    ):
        assert shard.main(["--index", str(tars / pattern), "--out", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err


def test_a_manifest_that_was_fetched_names_no_files_elsewhere(tars, tmp_path):
    shard.main(["--index", str(tars), "--out", str(tmp_path / "out")])
    with Server(tmp_path / "out") as server, pytest.raises(DatasetError, match="elsewhere"):
        Manifest.load(server.address)


def test_ranges_and_what_addresses_have_in_common():
    assert list(braces("a{08..10}b{1..2}")) == [
        f"a{i}b{j}" for i in ("08", "09", "10") for j in "12"
    ]
    tars = ["http://h/x/a%20b/1.tar", "http://h/x/ab/2.tar"]
    assert common(tars) == ("http://h/x", ["a b/1.tar", "ab/2.tar"])


def test_it_needs_no_torch():
    code = "import sys, dataprep.index; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "webdataset"} & set(modules)
