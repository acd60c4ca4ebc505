"""Which columns of a parquet file hold images and labels; labels of stylegan's dataset.json."""

import json
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from dataprep.manifest import DatasetError, Manifest
from dataprep.shard import main
from tests.dataprep.archives import make_parquet
from tests.dataprep.test_accounting import HOW
from tests.dataprep.test_samples import labels
from tests.dataprep.test_sources import IMAGES, found, passed

pytestmark = pytest.mark.long


def table(path, columns: dict, types: dict | None = None):
    """A parquet file of columns; `types` are those that Hugging Face's schema tells."""
    made = pyarrow.table(columns)
    if types:
        features = {name: {"_type": kind} for name, kind in types.items()}
        for name, kind in types.items():
            if kind == "ClassLabel":
                features[name]["names"] = ["cat", "dog", "ape"]
        meta = json.dumps({"info": {"features": features}}).encode()
        made = made.replace_schema_metadata({"huggingface": meta})
    pyarrow.parquet.write_table(made, path)
    return path


ROWS = [f"row-{i:09d}" for i in range(3)]
PLAIN = dict(zip(ROWS, IMAGES))
OTHER = dict(zip(ROWS, IMAGES[5:]))


@pytest.mark.parametrize("name", ["img", "jpg", "pixel_values"])
def test_the_only_column_of_images_is_taken(tmp_path, name):
    columns = {"id": [b"a", b"b", b"c"], name: IMAGES[:3]}
    assert found(table(tmp_path / "a.parquet", columns)) == PLAIN
    structs = [{"bytes": data, "path": None} for data in IMAGES[:3]]
    columns = {"id": [1, 2, 3], name: structs}
    assert found(table(tmp_path / "b.parquet", columns, {name: "Image"})) == PLAIN


def test_several_columns_of_images_are_ambiguous(tmp_path):
    columns = {"left": IMAGES[:3], "right": IMAGES[5:8]}
    for types in (None, {"left": "Image", "right": "Image"}):
        path = table(tmp_path / "a.parquet", columns, types)
        with pytest.raises(DatasetError, match="in the columns left, right: choose with --image-c"):
            found(path)
    with pytest.raises(DatasetError, match=r"no column 'rigt' of bytes .*: left, right"):
        found(path, image_column="rigt")
    path = table(tmp_path / "a.parquet", columns, {"right": "Image"})
    assert found(path) != PLAIN
    path = table(tmp_path / "b.parquet", {"image": IMAGES[:3], "mask": IMAGES[5:8]})
    assert found(path) == PLAIN


def test_an_image_and_a_mask_in_a_table(tmp_path, capsys):
    types = {"mask": "Image", "image": "Image"}
    path = table(tmp_path / "a.parquet", {"mask": IMAGES[:8], "image": IMAGES[2:]}, types)
    how = [*HOW, "--test-fraction", "0.5"]
    assert main([str(path), "--out", str(tmp_path / "out"), *how]) == 0
    told = "note: tables hold images in the columns mask, image: image is taken; --image-column"
    assert told in capsys.readouterr().out


def test_the_column_that_was_chosen_is_prepared(tmp_path):
    path = table(tmp_path / "a.parquet", {"image": IMAGES[:8], "other": IMAGES[2:]})
    how = [*HOW, "--test-fraction", "0.5"]
    digests = []
    for i, column in enumerate(("image", "other")):
        out = tmp_path / str(i)
        assert main([str(path), "--out", str(out), *how, "--image-column", column]) == 0
        digests.append(Manifest.load(out).digest)
        assert Manifest.load(out).content["settings"]["image_column"] == column
    assert digests[0] != digests[1]


def test_parquet_without_images(tmp_path):
    path = table(tmp_path / "a.parquet", {"url": ["a"], "md5": [b"1"]})
    with pytest.raises(DatasetError, match="has no column of images, only url, md5: name one with"):
        found(path)
    with pytest.raises(DatasetError, match="has no column of images"):
        found(tmp_path)
    path = make_parquet(tmp_path / "b.parquet", [None])
    with pytest.raises(OSError, match="no bytes"):
        found(path)
    assert passed(tmp_path) == {"a.parquet": "table without images"}


def test_columns_of_labels(tmp_path):
    columns = {"image": IMAGES[:3], "fine": [2, 1, -1], "coarse": [0, 0, 1], "label": [7, 8, 9]}
    types = {"image": "Image", "fine": "ClassLabel"}
    path = table(tmp_path / "a.parquet", columns, types)
    assert list(labels(path).values()) == [7, 8, 9]
    assert list(labels(path, label_column="coarse").values()) == [0, 0, 1]
    del columns["label"]
    path = table(tmp_path / "b.parquet", columns, types)
    assert list(labels(path).values()) == [2, 1, None]
    path = table(tmp_path / "c.parquet", columns, {**types, "coarse": "ClassLabel"})
    with pytest.raises(
        DatasetError, match="no column 'label', only image, fine, coarse: name that"
    ):
        labels(path)
    how = [*HOW, "--labels", "stored", "--label-column", "fine", "--test-fraction", "0.5"]
    assert main([str(path), "--out", str(tmp_path / "out"), *how]) == 0
    assert Manifest.load(tmp_path / "out").classes == ("cat", "dog", "ape")


def dataset_json(*pairs) -> str:
    return json.dumps({"labels": [list(pair) for pair in pairs] or None})


@pytest.mark.parametrize("above", ["", "set/"])
def test_stylegans_labels(tmp_path, above):
    names = [f"{above}00000/img{i:08d}.png" for i in range(3)]
    inside = [name.removeprefix(above) for name in names]
    content = dataset_json((inside[0], 4), (inside[2], 6))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in zip(names, IMAGES):
            archive.writestr(name, data)
        archive.writestr(f"{above}dataset.json", content)
    assert labels(tmp_path / "a.zip") == dict(zip(names, (4, None, 6)))
    assert passed(tmp_path / "a.zip", labels=True) == {f"{above}dataset.json": "labels in .json"}
    assert passed(tmp_path / "a.zip") == {f"{above}dataset.json": ".json"}
    if not above:
        with zipfile.ZipFile(tmp_path / "a.zip") as archive:
            archive.extractall(tmp_path / "folder")
        assert labels(tmp_path / "folder") == dict(zip(names, (4, None, 6)))


@pytest.mark.parametrize("content", ["[]", '{"labels": [1]}', '{"labels": [["a.png", [0, 1]]]}'])
def test_labels_that_are_no_classes_are_reported(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", IMAGES[0])
        archive.writestr("dataset.json", content)
    with pytest.raises(DatasetError, match=r"a.zip: dataset.json(: the label of| has no labels)"):
        labels(tmp_path / "a.zip")
    assert found(tmp_path / "a.zip") == {"a.png": IMAGES[0]}
