"""The reader: what it tells, what it refuses, and that it needs the standard library alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dataprep import manifest
from dataprep.manifest import DatasetError, Manifest, Shard


def entry(path: str, format: str, resolution: int | None, split: str, samples: int) -> dict:
    facts = {"samples": samples, "bytes": 3 * samples, "sha256": "0" * 64}
    return {"path": path, "format": format, "resolution": resolution, "split": split, **facts}


@pytest.fixture
def dataset(tmp_path) -> Path:
    files = [entry("train.jsonl", "index", None, "train", 5)]
    for side in (4, 8):
        files += [
            entry(f"{side}-a.tar", "webdataset", side, "train", 3),
            entry(f"{side}-b.tar", "webdataset", side, "train", 2),
            entry(f"{side}-t.tar", "webdataset", side, "test", 1),
            entry(f"{side}.beton", "ffcv", side, "train", 5),
            entry(f"{side}-t.beton", "ffcv", side, "test", 1),
        ]
    for file in files:
        (tmp_path / file["path"]).write_bytes(b"abc" * file["samples"])
    samples = {"train": 5, "test": 1}
    content = {"resolutions": [4, 8], "samples": samples, "classes": ["cat"], "files": files}
    manifest.write(tmp_path, content)
    return tmp_path


def test_properties(dataset):
    made = Manifest.load(dataset)
    assert made.resolutions == (4, 8) and made.classes == ("cat",)
    assert made.count("train") == 5 and made.count("test") == 1
    assert made.tars(8, "train") == [
        Shard(dataset / "8-a.tar", 3, 9, "0" * 64),
        Shard(dataset / "8-b.tar", 2, 6, "0" * 64),
    ]
    assert made.tars(4, "test") == [Shard(dataset / "4-t.tar", 1, 3, "0" * 64)]
    assert made.beton(8, "test") == dataset / "8-t.beton"
    made.check()


def test_the_digest_is_the_data_and_no_more(dataset):
    path = dataset / "manifest.json"
    before = Manifest.load(dataset).digest
    content = json.loads(path.read_text())
    rest = {key: content[key] for key in ("resolutions", "samples", "classes", "files")}
    manifest.write(dataset, {**rest, "made_with": {"pillow": "0"}})
    assert Manifest.load(dataset).digest == before
    rest["files"][3]["sha256"] = "1" * 64
    manifest.write(dataset, rest)
    assert Manifest.load(dataset).digest != before


def test_missing_resolutions_splits_and_formats_are_reported(dataset):
    made = Manifest.load(dataset)
    with pytest.raises(DatasetError, match=r"at resolution 16, only 4, 8.*max-resolution"):
        made.tars(16, "train")
    with pytest.raises(DatasetError, match="no split 'val'"):
        made.count("val")
    with pytest.raises(DatasetError, match="no split 'val'"):
        made.beton(4, "val")


def test_the_check_names_the_file(dataset):
    made = Manifest.load(dataset)
    (dataset / "8-b.tar").write_bytes(b"short")
    with pytest.raises(DatasetError, match=r"8-b\.tar has 5 bytes instead of 6: copy it again"):
        made.check()
    with pytest.raises(DatasetError, match=r"8-b\.tar"):
        made.check(8)
    made.check(4)
    (dataset / "4.beton").unlink()
    with pytest.raises(DatasetError, match=r"4\.beton: No such file"):
        made.check(4)
    with pytest.raises(DatasetError, match="no images at resolution 16"):
        made.check(16)


def test_no_manifest_is_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match=r"does not exist.*python dataprep/shard\.py"):
        Manifest.load(tmp_path)


def test_every_altered_byte_is_noticed(dataset):
    path = dataset / "manifest.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        if content[place : place + 1].isspace():
            continue  # spaces between values mean nothing
        altered = bytearray(content)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(DatasetError, match=r"manifest\.json"):
            Manifest.load(dataset)
    path.write_bytes(content)
    Manifest.load(dataset)


def test_another_format_is_refused(dataset):
    (dataset / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(DatasetError, match="not a manifest of format 1"):
        Manifest.load(dataset)


def test_it_needs_the_standard_library_alone():
    code = "import sys, dataprep.manifest; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    foreign = {"numpy", "PIL", "torch", "ffcv", "tqdm", "webdataset"}
    assert "dataprep.manifest" in modules and not foreign & set(modules)


@pytest.mark.parametrize("outside", ["../8-a.tar", "/etc/passwd", "a/../../b.tar"])
def test_files_outside_of_the_dataset_are_refused(dataset, outside):
    content = json.loads((dataset / "manifest.json").read_text())
    del content["checksum"], content["format"], content["digest"]
    content["files"][1]["path"] = outside
    manifest.write(dataset, content)
    with pytest.raises(DatasetError, match="which lies outside of it"):
        Manifest.load(dataset)


def test_a_manifest_cannot_name_a_command(dataset):
    content = json.loads((dataset / "manifest.json").read_text())
    del content["checksum"], content["format"], content["digest"]
    ran = dataset / "ran"
    manifest.write(dataset, content | {"root": f"pipe:touch {ran}"})
    with pytest.raises(DatasetError, match="names files elsewhere"):
        Manifest.load(dataset)
    content["files"][1]["path"] = f"pipe:touch {ran} "
    manifest.write(dataset, content)
    with pytest.raises(DatasetError, match="No such file"):
        Manifest.load(dataset).check()
    assert not ran.exists()
