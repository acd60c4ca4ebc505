"""A folder and a zip of the same images give the same names and bytes, however they are listed."""

import os
import random
import zipfile

import pytest

from dataprep.manifest import DatasetError
from dataprep.sources import open_source
from tests.dataprep.pictures import make_folder, make_zip


def test_folder_and_zip_agree(tmp_path):
    folder = make_folder(tmp_path / "faces", 5, side=4, names="{0}/b{0}.JPG")
    for ignored in ("notes.txt", ".hidden.png", "__MACOSX/c.png", ".git/d.png"):
        (folder / ignored).parent.mkdir(exist_ok=True)
        (folder / ignored).write_bytes(b"no image")
    tree, archive = open_source(folder), open_source(make_zip(tmp_path / "faces.zip", folder))
    assert tree.names() == archive.names() == [f"{i}/b{i}.JPG" for i in range(5)]
    for name in tree.names():
        assert tree.read(name) == archive.read(name) == (folder / name).read_bytes()


def test_order_does_not_depend_on_the_listing(tmp_path, monkeypatch):
    source = open_source(make_folder(tmp_path / "faces", 30, side=4, names="{0:02d}/b{0}.png"))
    names, scandir = source.names(), os.scandir

    class Shuffled:
        def __init__(self, path):
            self.entries = list(scandir(path))
            random.Random(1).shuffle(self.entries)

        def __iter__(self):
            return iter(self.entries)

        def __next__(self):
            if not self.entries:
                raise StopIteration
            return self.entries.pop()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    listed = [entry.name for entry in Shuffled(source.path).entries]
    assert listed != sorted(listed)
    assert source.names() == names == sorted(names)


def test_what_cannot_be_a_source_is_told(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        open_source(tmp_path / "nothing")
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(DatasetError, match="neither a folder nor a readable zip"):
        open_source(tmp_path / "text")


def test_a_damaged_member_is_an_oserror(tmp_path):
    path = make_zip(tmp_path / "faces.zip", make_folder(tmp_path / "faces", 2, side=16))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    source = open_source(path)
    with pytest.raises(OSError, match="damaged in the archive"):
        for name in source.names():
            source.read(name)


def test_a_name_that_comes_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"2")
    with pytest.raises(DatasetError, match=r"two images named 'a\.png'"):
        open_source(tmp_path / "twice.zip").names()
