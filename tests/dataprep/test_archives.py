"""Folders of archives: which are read, and what is told of those that are none."""

import gzip
import io
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from dataprep.manifest import DatasetError
from dataprep.shard import main
from tests.dataprep.archives import make_parquet, make_tar, make_tfrecord
from tests.dataprep.pictures import make_folder, picture
from tests.dataprep.test_accounting import HOW
from tests.dataprep.test_sources import IMAGES, found, passed


def test_an_archive_without_files_is_reported(tmp_path, capsys):
    (tmp_path / "empty.zip").write_bytes(zipped())
    make_tar(tmp_path / "a.tar", [(f"{i}.png", IMAGES[i]) for i in range(8)])
    how = [str(tmp_path), "--out", str(tmp_path / "out"), *HOW, "--test-fraction", "0.5"]
    assert main(how) == 0
    assert f"note: {tmp_path / 'empty.zip'} holds no files" in capsys.readouterr().out


def test_archives_that_are_missing_by_their_names_are_reported(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for i in (0, 2):
        path = tmp_path / "data" / f"train-{i:05d}-of-00003.parquet"
        make_parquet(path, IMAGES[4 * i : 4 * i + 4])
    make_parquet(tmp_path / "data" / "all-00000-of-00001.parquet", IMAGES[4:8])
    how = [*HOW, "--test-fraction", "0.5", "--reject-limit", "0.5"]
    assert main([str(tmp_path), "--out", str(tmp_path / "out"), *how]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    missing = "1 of 3 archives are missing, data/train-00001-of-00003.parquet the first"
    assert notes == [f"note: {tmp_path}: {missing}"]


def zipped(*pairs) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        if pairs:
            archive.writestr(*pairs)
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
NO_ARCHIVE = {
    "empty.tar": (b"", r"is empty \(0 bytes\)"),
    "zeros.tar": (bytes(20480), r"begins with zeros \(20,480 bytes\)"),
    "pointer.parquet": (POINTER, "is a Git LFS pointer, and not the file itself"),
    "page.zip": (b"\n <!DOCTYPE html><html></html>", "is an HTML page"),
    "denied.tar": (b'<?xml version="1.0"?><Error/>', "is XML"),
    "a.tar.gz": (
        gzip.compress(b"tar"),
        r"is compressed as a whole \(gzip\): unpack it with gunzip",
    ),
    "a.TGZ": (gzip.compress(b"tar"), r"is compressed as a whole \(gzip\)"),
    "a.tar.bz2": (b"BZh91AY&SY", r"is compressed as a whole \(bzip2\): unpack it with bunzip2"),
    "a.tar.xz": (b"\xfd7zXZ\0\0", r"is compressed as a whole \(xz\): unpack it with unxz"),
    "gz-within.tar": (gzip.compress(bytes(512)), r"is compressed as a whole \(gzip\)"),
    "a.zip": (b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
    "installer.zip": (b"#!/bin/sh\n" + zipped("a.png", IMAGES[0]), "is a zip after other data"),
    "a.tfrecords-00000-of-00002": (b"some text", "is damaged, or not an archive: download"),
}


@pytest.mark.parametrize("name", NO_ARCHIVE)
def test_files_named_as_archives_that_are_none(tmp_path, name):
    content, reason = NO_ARCHIVE[name]
    folder = tmp_path / "shards"
    folder.mkdir()
    make_tar(folder / "good.tar", [("a.png", IMAGES[0])])
    (folder / name).write_bytes(content)
    (tmp_path / "list.txt").write_text(f"shards/good.tar\nshards/{name}\n")
    for source in (folder, folder / "*", tmp_path / "list.txt", tmp_path):
        with pytest.raises(DatasetError, match=f"{name} {reason}"):
            found(source)
    with pytest.raises(DatasetError, match=f"{name} (is not a folder|{reason})"):
        found(folder / name)


def test_a_tar_and_the_table_beside_it(tmp_path):
    make_tar(tmp_path / "0.tar", [("0.png", IMAGES[0]), ("0.txt", b"a"), ("0.json", b"{}")])
    table = pyarrow.table({"url": ["https://a"], "md5": [b"123"]})
    pyarrow.parquet.write_table(table, tmp_path / "0.parquet")
    (tmp_path / "0_stats.json").write_text("{}")
    assert found(tmp_path) == {"0.tar/0.png": IMAGES[0]}
    assert passed(tmp_path) == {
        "0_stats.json": ".json",
        "0.parquet": "table without images",
        "0.tar/0.txt": ".txt",
        "0.tar/0.json": ".json",
    }


def test_images_and_archives_are_ambiguous(tmp_path):
    make_folder(tmp_path / "assets", 2, side=4)
    (tmp_path / "data").mkdir()
    make_parquet(tmp_path / "data/a.parquet", IMAGES[:2])
    with pytest.raises(DatasetError, match=r"choose with a pattern") as told:
        found(tmp_path)
    patterns = [text for text in str(told.value).split("'") if "**" in text]
    assert [len(found(pattern)) for pattern in patterns] == [2, 2, 4]
    with pytest.raises(DatasetError, match=r"choose with a pattern"):
        (tmp_path / "list.txt").write_text(".\n")
        found(tmp_path / "list.txt")


def test_upper_case_archives_and_those_in_listed_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    with zipfile.ZipFile(tmp_path / "deep" / "FACES.ZIP", "w") as archive:
        archive.writestr("a.png", IMAGES[0])
    assert found(tmp_path / "deep") == {"FACES.ZIP/a.png": IMAGES[0]}
    (tmp_path / "list.txt").write_text("deep\n")
    assert found(tmp_path / "list.txt") == {"deep/FACES.ZIP/a.png": IMAGES[0]}
    assert found(tmp_path / "d*") == {"deep/FACES.ZIP/a.png": IMAGES[0]}


def test_tfrecords_of_other_resolutions_are_counted(tmp_path):
    for exponent in (2, 3):
        path = tmp_path / f"ffhq-r{exponent:02d}.tfrecords"
        make_tfrecord(path, [picture(0, 2**exponent, 2**exponent)])
    assert list(found(tmp_path, 8)) == ["ffhq-r03.tfrecords/record-000000000"]
    assert passed(tmp_path, 8) == {"ffhq-r02.tfrecords": "TFRecord of another resolution"}


def test_annotations_beside_images_are_no_archives(tmp_path):
    from scipy.io import savemat

    make_folder(tmp_path, 2, side=4, names="{}.png")
    savemat(tmp_path / "annotations.mat", {"boxes": np.zeros((2, 4))})
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file, " + bytes(600))
    (tmp_path / "wood.mat").write_text("a material of a game")
    table = pyarrow.table({"file_name": ["0.png"], "text": ["a face"]})
    pyarrow.parquet.write_table(table, tmp_path / "metadata.parquet")
    rules = {"annotations.mat": "table without images", "metadata.parquet": "table without images"}
    assert sorted(found(tmp_path)) == ["0.png", "1.png"]
    assert passed(tmp_path) == rules | {"new.mat": ".mat", "wood.mat": ".mat"}
    (tmp_path / "car.mat").write_bytes(b"")
    for source in (tmp_path, tmp_path / "*"):
        with pytest.raises(DatasetError, match=r"car.mat is empty \(0 bytes\)"):
            found(source)
    savemat(tmp_path / "car.mat", {"im": np.zeros((4, 4, 3, 2, 2), np.uint8)})
    with pytest.raises(DatasetError, match=r"contains images \(.*\) and archives"):
        found(tmp_path)
