"""Every file of a source is used, rejected with a reason, or skipped by a rule."""

import json
import zipfile

import pytest

from dataprep.manifest import DatasetError, Manifest
from dataprep.shard import main
from tests.dataprep.archives import make_parquet, make_tar
from tests.dataprep.pictures import encoded, make_folder, picture
from tests.dataprep.test_sources import IMAGES, found, passed

pytestmark = pytest.mark.long

HOW = ["--max-resolution", "8", "--formats", "webdataset", "--workers", "1"]


def sides(out) -> dict[str, list[str]]:
    """Names in the source, by split."""
    read = {part: (out / f"index/{part}.jsonl").read_text() for part in ("train", "test")}
    return {p: [json.loads(line)["name"] for line in text.splitlines()] for p, text in read.items()}


def mixed(folder, count: int) -> dict[str, int]:
    """`count` small files of all sorts; how many are images, rejects, and the rest by rule."""
    kinds = {
        ".jpg": ("image", lambda i: encoded(picture(i, 8, 8), "JPEG")),
        ".JPEG": ("image", lambda i: encoded(picture(i, 8, 8), "JPEG")),
        ".jfif": ("image", lambda i: encoded(picture(i, 8, 8), "JPEG")),
        ".Png": ("image", lambda i: encoded(picture(i, 8, 8))),
        ".webp": ("image", lambda i: encoded(picture(i, 8, 8), "WEBP")),
        ".png": ("reject", lambda i: b"no image %d" % i),
        ".tif": ("reject", lambda i: b""),
        ".HEIC": (".heic", lambda i: b"ftypheic"),
        ".gif": (".gif", lambda i: b"GIF89a"),
        ".txt": (".txt", lambda i: b"a face"),
        ".json": (".json", lambda i: b"{}"),
        ".jpg.part": (".part", lambda i: b"\xff\xd8"),
        "": ("without an extension", lambda i: b"\xff\xd8"),
        ".2026-11-25": ("of another extension", lambda i: b"log"),
        ".0001": ("of another extension", lambda i: b"log"),
    }
    expected: dict[str, int] = {}
    for i in range(count):
        extension = list(kinds)[i % len(kinds)]
        what, content = kinds[extension]
        name = f"d{i % 7}/{'.' if i % 50 == 3 else ''}{i:05d}{extension}"
        what = "hidden" if i % 50 == 3 else what
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(i))
        expected[what] = expected.get(what, 0) + 1
    return expected


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_folder_of_mixed_files_is_accounted_for_to_the_last(tmp_path, capsys, kind):
    source = tmp_path / "mixed"
    expected = mixed(source, 300)
    inside = {p.relative_to(source).as_posix(): p for p in source.rglob("*") if p.is_file()}
    assert len(inside) == sum(expected.values()) == 300
    if kind == "zip":
        source = tmp_path / "mixed.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for name, path in inside.items():
                archive.write(path, name)
    if kind == "tar":
        pairs = [(f"./{name}", path.read_bytes()) for name, path in inside.items()]
        source = make_tar(tmp_path / "mixed.tar", pairs)
    out = tmp_path / "out"
    how = [*HOW, "--reject-limit", "0.3"]
    assert main([str(source), "--out", str(out), *how]) == 0
    told = capsys.readouterr().out

    made = Manifest.load(out)
    facts = made.content["source"]
    assert made.count("train") + made.count("test") == expected.pop("image")
    assert facts["rejects"] == expected.pop("reject")
    assert {rule: f["files"] for rule, f in facts["skipped"].items()} == expected
    used = made.count("train") + made.count("test")
    assert facts["files"] == used + facts["rejects"] + sum(expected.values()) == 300
    for rule, number in expected.items():
        assert f"{number} {rule} ({facts['skipped'][rule]['first']})" in told
    gifs = (n for n in inside if n.endswith(".gif") and "/." not in n)
    assert facts["skipped"][".gif"]["first"] == min(gifs)


def test_a_source_of_skipped_files_alone(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("b.HEIC", "a.HEIC", "c.gif"):
        (source / name).write_bytes(b"x")
    assert main([str(source), "--out", str(tmp_path / "out"), *HOW]) == 1
    said = capsys.readouterr().err
    assert "holds no images (files ending in .bmp, .jfif" in said
    assert "skipped: 2 .heic (a.HEIC), 1 .gif (c.gif)" in said


def test_linked_folders_are_followed_once(tmp_path):
    make_folder(tmp_path / "elsewhere", 2, side=4, names="b{}.png")
    source = make_folder(tmp_path / "source", 2, side=4, names="z/a{}.png")
    (source / "link").symlink_to("../elsewhere")
    names = ["z/a0.png", "z/a1.png", "link/b0.png", "link/b1.png"]
    assert sorted(found(source)) == sorted(names)
    assert passed(source) == {}
    for name, target in (("again", "../elsewhere"), ("c", "z"), ("up", ".."), ("loop", ".")):
        (source / name).symlink_to(target)
    (source / "itself").symlink_to("itself")
    names = ["z/a0.png", "z/a1.png", "again/b0.png", "again/b1.png"]
    assert sorted(found(source)) == sorted(names)
    seen = "linked folder (in the source already)"
    expected = dict.fromkeys(["c", "link", "loop", "up/elsewhere", "up/source"], seen)
    assert passed(source) == expected | {"itself": "without an extension"}


def test_only_a_link_to_a_folder(tmp_path):
    make_folder(tmp_path / "elsewhere", 2, side=4)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "faces").symlink_to("../elsewhere")
    assert sorted(found(tmp_path / "source")) == ["faces/face-000.png", "faces/face-001.png"]


def test_previews_of_a_nas_are_no_images(tmp_path):
    make_folder(tmp_path, 1, side=4, names="{}.png")
    make_folder(tmp_path / "@eaDir" / "0.png", 1, side=4, names="SYNOPHOTO_THUMB_{}.png")
    assert list(found(tmp_path)) == ["0.png"]
    assert passed(tmp_path) == {"@eaDir/0.png/SYNOPHOTO_THUMB_0.png": "hidden"}


def test_a_prepared_dataset_is_no_source(tmp_path):
    source = make_folder(tmp_path / "source", 4, side=8)
    out = tmp_path / "out"
    assert main([str(source), "--out", str(out), *HOW, "--test-fraction", "0.5"]) == 0
    with pytest.raises(DatasetError, match="out is a prepared dataset: name what it was made of"):
        found(out)


def test_the_number_of_rules_is_limited(tmp_path, capsys):
    source = make_folder(tmp_path / "source", 4, side=8)
    for i in range(150):
        (source / f"log.{i:x}z").write_bytes(b"")
    how = [str(source), "--out", str(tmp_path / "out"), *HOW, "--test-fraction", "0.5"]
    assert main(how) == 0
    found = Manifest.load(tmp_path / "out").content["source"]
    assert found["files"] == 154 and len(found["skipped"]) == 101
    assert found["skipped"]["by other rules"]["files"] == 50
    assert ", and by 89 more rules" in capsys.readouterr().out


def test_where_the_images_lie_is_reported(tmp_path, capsys):
    source = make_folder(tmp_path / "set", 6, side=8, names="images/{}.png")
    make_folder(source, 5, side=8, names="masks/{}.png", seed=20)
    make_folder(source, 1, side=8, names="{}.png", seed=40)
    how = [*HOW, "--test-fraction", "0.5"]
    assert main([str(source), "--out", str(tmp_path / "out"), *how]) == 0
    assert "images by folders: 6 images, 5 masks, 1 in none\n" in capsys.readouterr().out
    assert main([str(source), "--out", str(tmp_path / "no"), *how, "--image-column", "a"]) == 1
    assert "--image-column applies to tables and tars" in capsys.readouterr().err
    labelled = [*how, "--labels", "stored", "--label-column", "a"]
    assert main([str(source), "--out", str(tmp_path / "no"), *labelled]) == 1
    assert "--label-column applies to tables and tars" in capsys.readouterr().err


def test_lost_and_found_is_skipped(tmp_path):
    make_folder(tmp_path, 1, side=4, names="{}.png")
    make_folder(tmp_path / "lost+found", 1, side=4, names="{}.png")
    assert list(found(tmp_path)) == ["0.png"] and passed(tmp_path) == {"lost+found": "lost+found"}


@pytest.mark.parametrize("train, test", [("train", "val"), ("Training", "x/test2017")])
def test_folders_called_train_and_val(tmp_path, capsys, train, test):
    source = tmp_path / "source"
    make_folder(source / train, 9, side=8)
    make_folder(source / test, 3, side=8, seed=20)
    assert main([str(source), "--out", str(tmp_path / "mixed"), *HOW, "--test-fraction", ".5"]) == 0
    told = capsys.readouterr().out
    assert f"9 images are in folders for training ({train}/face-000.png), 3 in folders" in told
    assert "--split fraction mixes them, --split folder keeps them apart" in told
    assert main([str(source), "--out", str(tmp_path / "out"), *HOW, "--split", "folder"]) == 0
    assert "mixes them" not in capsys.readouterr().out
    assert sides(tmp_path / "out") == {
        "train": [f"{train}/face-{i:03d}.png" for i in range(9)],
        "test": [f"{test}/face-{i:03d}.png" for i in range(3)],
    }
    assert Manifest.load(tmp_path / "out").content["split"]["rule"] == "folder"
    make_folder(source / "other", 1, side=8, seed=30)
    assert main([str(source), "--out", str(tmp_path / "no"), *HOW, "--split", "folder"]) == 1
    assert "'other/face-000.png' is in no folder called train" in capsys.readouterr().err


def test_classes_in_train_and_val_are_the_same(tmp_path):
    for i, folder in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        make_folder(tmp_path / "source" / folder, 2, side=8, seed=10 * i)
    how = [*HOW, "--split", "folder", "--labels", "folder"]
    assert main([str(tmp_path / "source"), "--out", str(tmp_path / "out"), *how]) == 0
    assert Manifest.load(tmp_path / "out").classes == ("cat", "dog")


def test_tables_called_train_and_test(tmp_path):
    for name, first, last in (("train-00000-of-00001", 0, 6), ("test-00000-of-00001", 6, 9)):
        make_parquet(tmp_path / f"{name}.parquet", IMAGES[first:last])
    assert main([str(tmp_path), "--out", str(tmp_path / "out"), *HOW, "--split", "folder"]) == 0
    assert {part: len(names) for part, names in sides(tmp_path / "out").items()} == {
        "train": 6,
        "test": 3,
    }
