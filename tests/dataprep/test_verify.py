"""--verify: sound datasets are called sound, and every kind of damage by its name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataprep import manifest
from dataprep.formats import tars
from dataprep.formats.tars import TarWriter
from dataprep.images import encode
from dataprep.images.decode import decode
from dataprep.manifest import Manifest
from dataprep.shard import main
from dataprep.verify import verify
from tests.dataprep.pictures import make_folder, shard

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    source = make_folder(folder / "faces", 20, side=16)
    how = ["--max-resolution", "16", "--test-fraction", "0.3", "--shard-samples", "8"]
    assert main([str(source), "--out", str(folder / "out"), *how]) == 0
    return folder / "out"


@pytest.fixture
def dataset(tmp_path, sound) -> Path:
    return shutil.copytree(sound, tmp_path / "dataset")


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def test_a_sound_dataset(dataset):
    result = shard("--verify", dataset)
    assert (result.returncode, result.stdout) == (0, f"{dataset} is intact\n")


@pytest.mark.parametrize(
    "path, told",
    [
        ("webdataset/r008/train-000001.tar", "was altered: its sha256 differs"),
        ("ffcv/r016-test.beton", "was altered: its sha256 differs"),
        ("index/train.jsonl", "was altered: its sha256 differs"),
        ("manifest.json", "was altered: its content does not match its checksum"),
    ],
)
@pytest.mark.parametrize("place", [0.3, 0.7])
def test_a_flipped_bit(dataset, path, told, place):
    flip(dataset / path, place)
    problem = verify(dataset, 1)[0]
    assert path in problem
    assert told in problem or path == "manifest.json"  # which may no longer be JSON


def test_damage_is_reported_on_the_command_line(dataset):
    flip(dataset / "ffcv/r004-train.beton", 0.5)
    result = shard("--verify", dataset)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"error: {dataset} is damaged:\n  ffcv/r004-train.beton was alt" in result.stderr


def test_what_is_missing_short_or_not_listed(dataset):
    (dataset / "ffcv/r004-train.beton").unlink()
    tar = dataset / "webdataset/r008/train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    (dataset / "webdataset/r016/train-000009.tar").write_bytes(b"")
    assert verify(dataset, 2) == [
        "ffcv/r004-train.beton is missing, or cannot be read",
        f"webdataset/r008/train-000000.tar has {tar.stat().st_size} bytes instead of "
        f"{tar.stat().st_size + 1}",
        "webdataset/r016/train-000009.tar is not in the manifest",
        "images were not compared, as files are damaged",
    ]


def rewrite(dataset: Path, path: str, change) -> None:
    """Replace a tar by one whose images are changed, and have the manifest agree."""
    made = Manifest.load(dataset)
    writer = TarWriter(dataset, path.removesuffix(".tar"))
    for i, member in enumerate(list(tars.read(dataset / path))):
        key, pixels, label = change(i, member.key, decode(member.image), member.label)
        writer.add(key, "png", encode.png(pixels), label)
    [facts] = writer.close()
    content = dict(made.content)
    content["files"] = [facts_in(file, facts) for file in content["files"]]
    for derived in ("format", "digest", "checksum"):
        del content[derived]
    manifest.write(dataset, content)


def facts_in(file: dict, facts: dict) -> dict:
    return {**file, **facts} if file["path"] == facts["path"] else file


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda i, k, p, n: (k, p ^ (2 * (i == 2)), n), "webdataset at 8 is not the mean of 16"),
        (lambda i, k, p, n: (k, p[::-1].copy() if i == 2 else p, n), "is not the mean of 16"),
        (lambda i, k, p, n: (k, p ^ (i == 2), n), "the images of both formats differ at 8"),
        (lambda i, k, p, n: (k, p, n + (i == 2)), "has the label 0, not -1"),
        (lambda i, k, p, n: (k[:-1] + "9" if i == 2 else k, p, n), "holds 000000009 in its place"),
        (lambda i, k, p, n: (k, np.tile(p, (2, 2, 1)) if i == 2 else p, n), "is of shape"),
    ],
)
def test_images_that_contradict_each_other(dataset, change, told):
    rewrite(dataset, "webdataset/r008/train-000000.tar", change)
    problems = verify(dataset, 1)
    key, name = "000000002", json.loads((dataset / "index/train.jsonl").read_text().split("\n")[2])
    assert any(told in problem for problem in problems)
    assert all(problem.startswith(f"train {key} ({name['name']}): ") for problem in problems)
