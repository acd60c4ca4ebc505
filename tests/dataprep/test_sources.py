"""Every kind of source returns the names and bytes that were written, however it is listed."""

import gzip
import os
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataprep.manifest import DatasetError
from dataprep.sources import tfrecord
from dataprep.sources.entry import Note, Options, Reject, Skipped
from dataprep.sources.source import Reader, listing
from tests.dataprep.archives import make_parquet, make_tar, make_tfrecord, masked
from tests.dataprep.pictures import all_bytes, encoded, make_folder, make_zip, picture

IMAGES = [encoded(picture(i, 8, 8)) for i in range(10)]


def found(source, resolution=8, labels=False, **columns) -> dict:
    """The bytes of each image by name, with its label where asked for; refused ones their kind."""
    result = {}
    for container, entry in listing(str(source), Options(resolution, labels, **columns)):
        if isinstance(entry, (Skipped, Note)):
            continue
        assert entry.name not in result
        if isinstance(entry, Reject):
            result[entry.name] = entry.kind
        else:
            data = Reader([container]).read(0, entry)
            result[entry.name] = (data, entry.label) if labels else data
    return result


def passed(source, resolution=8, labels=False, **columns) -> dict:
    """The rule by which each file is skipped, by name."""
    listed = listing(str(source), Options(resolution, labels, **columns))
    return {item.name: item.rule for _, item in listed if isinstance(item, Skipped)}


def test_folder_zip_and_tar_agree(tmp_path):
    folder = make_folder(tmp_path / "faces", 5, side=4, names="{0}/b{0}.JPG")
    expected = all_bytes(folder)
    for ignored in ("notes.txt", ".hidden.png", "__MACOSX/c.png", ".git/d.png"):
        (folder / ignored).parent.mkdir(exist_ok=True)
        (folder / ignored).write_bytes(b"no image")
    assert len(expected) == 5
    assert found(folder) == expected
    assert found(make_zip(tmp_path / "a.zip", folder)) == expected
    assert found(make_tar(tmp_path / "a.tar", all_bytes(folder).items())) == expected


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("big", [False, True])
def test_zips(tmp_path, monkeypatch, method, big):
    if big:  # have the writer use the 64-bit fields that archives over 4 GiB need
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    path = tmp_path / "a.zip"
    expected = {f"ü{i}/日本.png": data for i, data in enumerate(IMAGES)}
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = b"a comment"
        for name, data in expected.items():
            archive.writestr(name, data)
    assert found(path) == expected


def test_what_is_wrong_with_a_zip_is_reported(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", IMAGES[0])
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(OSError, match="damaged in the archive"):
        found(path)
    path.write_bytes(whole[:-30])
    with pytest.raises(DatasetError, match="damaged directory"):
        found(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", IMAGES[0])
    with pytest.raises(OSError, match="compressed by method 14"):
        found(path)


def test_webdataset_labels(tmp_path):
    members = []
    for i, data in enumerate(IMAGES[:4]):
        label = [(f"s/{i}.cls", str(10 * i).encode())] if i != 2 else []
        image = [(f"s/{i}.png", data)]
        members += label + image if i % 2 else image + label  # either order
    make_tar(tmp_path / "a.tar", [*members, ("s/readme.txt", b"")])
    labels = [0, 10, None, 30]
    expected = {f"s/{i}.png": (data, labels[i]) for i, data in enumerate(IMAGES[:4])}
    assert found(tmp_path / "a.tar", labels=True) == expected


def test_a_damaged_tar_is_not_taken_for_a_short_one(tmp_path):
    path = make_tar(tmp_path / "a.tar", [(f"{i}.png", data) for i, data in enumerate(IMAGES)])
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        place = archive.getmembers()[5].offset
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with pytest.raises(DatasetError, match=r"a\.tar (has a damaged header|is damaged)"):
        found(path)
    path.write_bytes(whole[: place + 600])
    with pytest.raises(DatasetError, match=r"a\.tar"):
        found(path)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(DatasetError, match="unpack it with gunzip"):
        found(tmp_path / "a.tar.gz")


def test_names_that_leave_the_archive_are_refused(tmp_path):
    names = ["../up.png", "/root.png", "a/../../up.png", "..\\up.png", "C:/up.png"]
    members = [*((name, IMAGES[0]) for name in names), ("good..png", IMAGES[1])]
    make_tar(tmp_path / "a.tar", members)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    expected = dict.fromkeys(names, "name leaves the archive") | {"good..png": IMAGES[1]}
    assert found(tmp_path / "a.zip") == expected
    assert found(tmp_path / "a.tar") == expected


def test_parquet(tmp_path):
    paths = ["a.png", None, "deep/b.png", "a.png", "..", *[None] * 5]
    names = ["row-000000000/a.png", "row-000000001", "row-000000002/b.png", "row-000000003/a.png"]
    names += [f"row-{i:09d}" for i in range(4, 10)]
    path = make_parquet(tmp_path / "a.parquet", IMAGES, paths)
    assert found(path) == dict(zip(names, IMAGES))
    listed = list(listing(str(path), Options(8)))
    reader, order = Reader([listed[0][0]]), random.Random(0).sample(range(10), 10)
    assert [reader.read(0, listed[i][1]) for i in order] == [IMAGES[i] for i in order]


def test_parquet_labels(tmp_path):
    path = make_parquet(tmp_path / "a.parquet", IMAGES[:3], labels=[2, -1, 0])
    assert [label for _, label in found(path, labels=True).values()] == [2, None, 0]
    path = make_parquet(tmp_path / "b.parquet", IMAGES[:3], labels=["x", None, "y"])
    assert [label for _, label in found(path, labels=True).values()] == ["x", None, "y"]


def test_a_damaged_parquet_is_named(tmp_path):
    path = make_parquet(tmp_path / "a.parquet", IMAGES[:3], ["a.png", "b.png", "c.png"])
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 128
        path.write_bytes(damaged)
        try:
            list(listing(str(path), Options(8, True)))
        except DatasetError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20


def test_tfrecord(tmp_path):
    pixels = [picture(i, 8, 8) for i in range(5)]
    path = make_tfrecord(tmp_path / "a.tfrecords", pixels, labels=[7, -1, 0, 2**40, 3])
    images = found(path, labels=True)
    assert list(images) == [f"record-{i:09d}" for i in range(5)]
    assert [label for _, label in images.values()] == [7, None, 0, 2**40, 3]
    for (data, _), expected in zip(images.values(), pixels):
        np.testing.assert_array_equal(tfrecord.pixels(data), expected)


def test_a_tfrecord_whose_label_is_nonsense_is_listed(tmp_path):
    path = make_tfrecord(tmp_path / "a.tfrecords", [picture(0, 4, 4)], labels=[7])
    content = path.read_bytes()
    for place in range(12, len(content) - 4):
        damaged = bytearray(content)
        damaged[place] ^= 7  # other wire types
        path.write_bytes(damaged)
        assert len(list(listing(str(path), Options(8, True)))) == 1


def test_every_damaged_byte_of_a_tfrecord_is_noticed(tmp_path):
    path = make_tfrecord(tmp_path / "a.tfrecords", [picture(0, 4, 4)] * 2)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with pytest.raises((OSError, DatasetError)):
            found(path)
    path.write_bytes(whole[:-5])
    with pytest.raises(DatasetError, match=r"cut off at byte \d+ \(record 1\)"):
        found(path)


@pytest.mark.parametrize("size", [0, 1, 5000, 100_001])
def test_the_checksum_of_a_tfrecord(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    assert struct.pack("<L", tfrecord.masked_crc32c(data)) == masked(data)


def test_one_resolution_of_a_multi_resolution_set_is_read(tmp_path):
    for side in (4, 8, 16):
        name = f"ffhq-r{side.bit_length() - 1:02d}.tfrecords"
        make_tfrecord(tmp_path / name, [picture(i, side, side) for i in range(2)])
    for wanted, read in ((4, 2), (8, 3), (16, 4), (32, 4)):
        names = [f"ffhq-r{read:02d}.tfrecords/record-{i:09d}" for i in range(2)]
        assert list(found(tmp_path, wanted)) == names
        assert list(found(tmp_path / "*.tfrecords", wanted)) == names


def test_a_list_and_a_pattern_of_anything(tmp_path, monkeypatch):
    make_folder(tmp_path / "tree", 2, side=4, names="x/{}.png")
    make_folder(tmp_path, 2, side=4, names="{}.png")
    make_tar(tmp_path / "b.tar", [("t.png", IMAGES[0])])
    make_tar(tmp_path / "a.tar", [("t.png", IMAGES[1])])
    make_parquet(tmp_path / "c.parquet", IMAGES[2:3])
    (tmp_path / "notes").write_text("no image")
    names = ["0.png", "1.png", "b.tar", "c.parquet", "tree", "gone.png.bak", "notes"]
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n\n")
    inside = {"b.tar/t.png": IMAGES[0], "c.parquet/row-000000000": IMAGES[2]}
    first = {f"{i}.png": encoded(picture(i, 4, 4)) for i in range(2)}
    tree = {f"tree/x/{i}.png": encoded(picture(i, 4, 4)) for i in range(2)}
    bad = {"gone.png.bak": "unreadable", "notes": "unreadable"}
    monkeypatch.chdir(tmp_path.parent)
    assert found(tmp_path / "list.txt") == first | tree | inside | bad
    inside["a.tar/t.png"] = IMAGES[1]
    assert found(tmp_path / "*") == first | tree | inside
    assert found(Path(tmp_path.name, "**")) == first | tree | inside
    assert found(tmp_path / "tree" / "x" / "*.png") == {
        name[len("tree/x/") :]: data for name, data in tree.items()
    }


def test_a_folder_of_archives_is_a_pattern_of_them(tmp_path):
    make_parquet(tmp_path / "train-0.parquet", IMAGES[:1])
    make_parquet(tmp_path / "train-1.parquet", IMAGES[1:2])
    names = [f"train-{i}.parquet/row-000000000" for i in range(2)]
    assert found(tmp_path) == dict(zip(names, IMAGES))
    (tmp_path / "a.png").write_bytes(IMAGES[3])
    with pytest.raises(DatasetError, match=r"images \(a.png\) and archives \(2, as train-0"):
        found(tmp_path)
    assert found(tmp_path / "**" / "*.png") == {"a.png": IMAGES[3]}
    assert found(tmp_path / "**" / "*.parquet") == dict(zip(names, IMAGES))
    assert found(tmp_path / "**") == dict(zip(names, IMAGES)) | {"a.png": IMAGES[3]}


def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="not a regular file"):
        found(tmp_path)


def test_invalid_sources_are_reported(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        found(tmp_path / "nothing")
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(DatasetError, match="is not a folder, zip, tar, parquet, TFRecord, CIFAR"):
        found(tmp_path / "text")


def test_an_archive_that_changed_after_listing_is_refused(tmp_path):
    path = make_tar(tmp_path / "a.tar", [("a.png", IMAGES[0])])
    [(container, entry)] = listing(str(path), Options(8))
    make_tar(path, [("a.png", IMAGES[1]), ("b.png", IMAGES[2])])
    with pytest.raises(DatasetError, match="was changed after it was listed"):
        Reader([container]).read(0, entry)
